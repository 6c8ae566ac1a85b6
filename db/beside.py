"""Which ready runs may be claimed beside one that was claimed, to be trained together. Not whether that pays."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Select, bindparam, literal, select
from sqlalchemy.orm import aliased

from db.tables import AttemptRow, RunRow, SearchRow, State, StudyRunRow


class Waiting(NamedTuple):
    """A trial that is ready or was just claimed, and how far it is."""

    run_id: int
    definition: str
    checkpoint_step: int
    micro_batch: int | None
    """Images of a step on the device at a time; None is all."""
    last_numerics: str | None
    """The class of its last attempt that is over, which need not have left a checkpoint."""


def trials_beside(
    connection: Connection, run_id: int, *, cpus: int, gpus: int, study_id: int | None = None
) -> Sequence[Waiting]:
    """The trial that was claimed in this transaction and the ready ones of its searches, in the order of claims.

    Only those of the same data and length, and of searches whose trials may be trained together: none at all when the
    run is no trial of such a one. All are locked; those that somebody else is about to claim are left out.
    cpus, gpus, study_id: as of `claiming.claim`.
    """
    place = {"claimed_id": run_id, "place_cpus": cpus, "place_gpus": gpus}
    of_study = {} if study_id is None else {"study_id": study_id}
    return [Waiting(*row) for row in connection.execute(_statement(study_id is not None), {**place, **of_study})]


@functools.cache
def _statement(of_a_study: bool) -> Select[Any]:
    claimed, its_link, link = aliased(RunRow), aliased(StudyRunRow), aliased(StudyRunRow)
    claimed_id = bindparam("claimed_id", type_=Integer())
    of_search = (
        select(link.run_id)
        .join(SearchRow, (SearchRow.study_id == link.study_id) & (SearchRow.key == link.sweep))
        .join(its_link, (its_link.study_id == link.study_id) & (its_link.sweep == link.sweep))
        .where(its_link.run_id == claimed_id, its_link.role == "trial", link.role == "trial", SearchRow.together)
    )
    if of_a_study:
        of_search = of_search.where(link.study_id == bindparam("study_id"))
    last_numerics = (
        select(AttemptRow.numerics)
        .where(AttemptRow.run_id == RunRow.id, AttemptRow.ended_at.is_not(None))
        .order_by(AttemptRow.fence.desc())
        .limit(1)
        .scalar_subquery()
    )
    alike = (RunRow.dataset, RunRow.split, RunRow.image_size, RunRow.steps)
    is_ready = (
        (RunRow.state == literal(State.READY.value, literal_execute=True))
        & (RunRow.cpus <= bindparam("place_cpus"))
        & (RunRow.gpus == bindparam("place_gpus"))
    )
    return (
        select(RunRow.id, RunRow.definition, RunRow.checkpoint_step, RunRow.micro_batch, last_numerics)
        .join(claimed, claimed.id == claimed_id)
        .where(
            RunRow.id.in_(of_search),
            is_ready | (RunRow.id == claimed_id),
            *(column == getattr(claimed, column.key) for column in alike),
        )
        .order_by(RunRow.priority, RunRow.id)
        .with_for_update(skip_locked=True, of=RunRow)
    )
