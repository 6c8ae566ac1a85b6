"""Which trials of a search a worker claims at once, to train them as one program, and in which seats of the stack.

What a stack is stands in `workers/stacked.py`. Nothing is claimed in vain: definitions and the ledger decide before.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from db import beside, claiming
from db.beside import Waiting
from db.store import Connection
from studies.definitions import RUN, FineTune

if TYPE_CHECKING:
    from workers.devices import Device
    from workers.stacked import Seat


def claim_others(
    connection: Connection,
    claimed: claiming.Claim,
    device: "Device",
    *,
    cpus: int,
    gpus: int,
    study_id: int | None,
    process: dict[str, Any],
) -> list[claiming.Claim]:
    """Claim the trials that are trained together with one that was claimed in this transaction; all of them.

    The one alone where nothing is to be trained with it. The class of each tells its seat.
    process: owner, host, pid, process_started and lease_seconds, as of `claiming.claim`.
    """
    from workers.stacked import numerics_in

    if claimed.kind != "finetune":
        return [claimed]
    waiting = beside.trials_beside(connection, claimed.run_id, cpus=cpus, gpus=gpus, study_id=study_id)
    seats = seats_beside(claimed.run_id, waiting, device) if waiting else {}
    claims = []
    for run_id, seat in seats.items():
        numerics = numerics_in(seat, device.numerics)
        if run_id == claimed.run_id:
            claims.append(claiming.compute_in(connection, claimed, numerics))
        else:
            taken = claiming.claim_beside(connection, run_id, **process, device=device.kind, numerics=numerics)
            claims += [] if taken is None else [taken]
    return [replace(each, sharers=len(claims)) for each in claims] or [claimed]


def seats_beside(run_id: int, waiting: Sequence[Waiting], device: "Device") -> "dict[int, Seat]":
    """The seats of the trials that are trained together with this one, itself among them; none when it trains alone.

    waiting: trials by which it waits, itself among them, in the order in which they take seats.
    A trial that began in a seat sits in it again, with those of the same step that are there, be it by itself: it has
    the same bits whatever became of the others. One that began alone goes on alone.
    """
    from workers.stacked import MOST, Seat, differing, is_whole, pays, seat_in, why_apart

    own = next(each for each in waiting if each.run_id == run_id)
    run, place = _training(own.definition), device.numerics
    its_seat = seat_in(own.last_numerics, place)
    if run is None or (its_seat is None and own.checkpoint_step) or why_apart([run], device) is not None:
        return {}
    fitting: dict[int, Seat | None] = {}
    for each in waiting:
        seat = seat_in(each.last_numerics, place)
        is_of_it = (seat and seat.size) == (its_seat and its_seat.size) and each.checkpoint_step == own.checkpoint_step
        other = _training(each.definition) if is_of_it and len(fitting) < MOST else None
        if other is not None and is_whole(other, each.micro_batch) and differing(run, other) is None:
            fitting[each.run_id] = seat
    if run_id not in fitting:
        return {}
    if its_seat is None:
        seats = {other_id: Seat(number, len(fitting)) for number, other_id in enumerate(fitting)}
        return seats if pays(run, len(seats), device) else {}
    sitting = {its_seat.number: run_id}
    for other_id, seat in fitting.items():
        assert seat is not None
        sitting.setdefault(seat.number, other_id)
    return {other_id: Seat(number, its_seat.size) for number, other_id in sorted(sitting.items())}


@functools.lru_cache(maxsize=256)
def _training(definition: str) -> FineTune | None:
    """None for what cannot be read: the run itself says so when its turn comes."""
    try:
        run = RUN.validate_json(definition)
    except ValueError:
        return None
    return run if isinstance(run, FineTune) else None
