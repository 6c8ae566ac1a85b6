"""Trainings that differ in their learning rates, done together: who may be in a stack, whether it pays, how each ends.

`workers/stack.py` has the steps. A run's place in the stack is its seat, and part of its numerics class together with
the size of the stack: a run that began in a seat sits in it until it is over.
"""

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from studies.cost import forward_flops
from studies.definitions import SGD, AdamW, AnyTraining, Train, key_of
from studies.memory import micro_batch_of
from studies.metrics import TRAIN_LOSS
from workers.checkpoints import Facts, forget, load, save, step_folder
from workers.devices import Device
from workers.models.build import blueprint
from workers.models.stacked import unstackable
from workers.objectives import trains_head_alone
from workers.stack import Stack
from workers.starting import start_of
from workers.supervision import (
    CheckpointError,
    Finished,
    LeaseLost,
    NotFinite,
    Place,
    Stopped,
    Supervisor,
    Value,
    Wish,
    Yielded,
)
from workers.training import LOGGED_STEPS, Training
from workers.watching import check_watches, look, measurements, results

Outcome = Finished | NotFinite | Stopped | Yielded | LeaseLost
"""How a run of a stack ended."""

FREE = ("lr_peak", "schedule", "warmup_steps", "weight_decay", "clip_norm")
"""Fields of the recipe that may differ in a stack; of `clip_norm` the value, but not whether there is one."""

MOST = 16
"""Runs of a stack: as many were measured (docs/benchmarks.md)."""
_FEWEST = 4
_MOST_FLOPS = {
    "fp32": {"vit": 15e6, "hybrid": 15e6, "resnet": 40e6},
    "bf16": {"vit": 30e6, "hybrid": 15e6, "resnet": 10e6},
}
"""Of one run's forward pass of a batch, where a stack was measured to be 1.5 times as fast (docs/benchmarks.md)."""

# --------------------------------------------------------------------------------------------------- which, and whether


def why_apart(runs: Sequence[AnyTraining], device: Device) -> str | None:
    """Why these runs cannot be trained together, in words; None when they can."""
    first, recipe = runs[0], runs[0].recipe
    for run in runs[1:]:
        if field := differing(first, run):
            return f"they differ in {field}, and in a stack only {', '.join(FREE)} may differ"
    if any(watch.every is not None or watch.keep == "best" for watch in first.watches):
        return "what is measured on the way is measured of one network"
    if trains_head_alone(first):
        return "a linear probe trains the last layer alone"
    if recipe.dropout or recipe.stochastic_depth:
        return "dropout and stochastic depth draw their numbers for one run"
    if not isinstance(recipe.optimizer, AdamW | SGD) or recipe.optimizer.momentum_precision != "fp32":
        return "a stack updates by AdamW or SGD with moments in fp32"
    if device.compiles:
        return f"{device.kind} compiles a step for each learning rate, which comes as a number of the host"
    network = blueprint(first.model, image_size=first.image_size, channels=first.data.channels, classes=2)
    part = unstackable(network)
    return f"a stack has no form of {part}" if part else None


def pays(run: AnyTraining, count: int, device: Device) -> bool:
    """Whether so many runs like this one train at least 1.5 times as fast together as one after the other.

    It looks at sizes alone, never at a timing: bits must not depend on noise.
    """
    flops = run.recipe.batch * forward_flops(run.model, run.image_size, run.data.channels, run.data.classes)
    most = _MOST_FLOPS[run.recipe.precision].get(run.model.kind, 0.0)
    return device.torch.type == "cpu" and count >= _FEWEST and flops <= most


def differing(first: AnyTraining, other: AnyTraining) -> str | None:
    """The name of a field that differs and may not in a stack; None where all else is alike."""
    clips = "whether gradients are clipped"
    one, two = (
        run.model_dump(exclude={"recipe"})
        | run.recipe.model_dump(exclude=set(FREE))
        | {clips: run.recipe.clip_norm is not None}
        for run in (first, other)
    )
    return next((name for name in one if one[name] != two[name]), None)


# ----------------------------------------------------------------------------------------------------------- the seats


class Seat(NamedTuple):
    """A place in a stack of a size, the first of which is 0."""

    number: int
    size: int


def numerics_in(seat: Seat, numerics: str) -> str:
    """The numerics class of a run in a seat of a stack, for that of the place."""
    return f"{numerics} stacked={seat.number}/{seat.size}"


def seat_in(numerics: str | None, place: str) -> Seat | None:
    """The seat that a numerics class tells of; None where it is of no stack, or of a place of another class."""
    found = re.fullmatch(re.escape(place) + r" stacked=(\d+)/(\d+)", numerics or "")
    return Seat(int(found[1]), int(found[2])) if found else None


# ------------------------------------------------------------------------------------------------------------- the runs


@dataclass
class _Member:
    """One run of a stack, and whoever runs it."""

    index: int
    run: AnyTraining
    place: Place
    supervisor: Supervisor
    seat: int
    outcome: Outcome | None = None


def train_together(
    runs: Sequence[AnyTraining],
    places: Sequence[Place],
    supervisors: Sequence[Supervisor],
    seats: Sequence[Seat] | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Train runs that `why_apart` lets be together, and say of each as soon as it is over how it ended.

    Yields the place in `runs`, and what `train` returns or raises.
    seats: different ones of stacks of one size, in the order of the runs; a stack of these runs alone without it. A
    seat that nobody sits in costs what the others do.

    A run that fails, is stopped or was lost leaves the others' numbers as they are, and so does one that is not here
    any more. A wish to yield is granted to all, so that all have checkpoints of one step. A stack goes on when every
    run has a checkpoint of the same step, written in its seat in this numerics class. Else it begins anew, to the same
    bits.

    Raises ValueError for runs that cannot be together, and for all that are not over what `Training` raises, and
    OSError.
    """
    device = places[0].device
    if reason := why_apart(runs, device):
        raise ValueError(f"these {len(runs)} runs cannot be trained together: {reason}")
    if any(not is_whole(run, place.micro_batch) for run, place in zip(runs, places, strict=True)):
        raise ValueError("a stack takes a batch whole and not in micro-batches: train these runs one after the other")
    if isinstance(runs[0], Train) and any(place.upstream is not None for place in places):
        raise ValueError("trainings that go on from a trunk start from other weights: train them one after the other")
    seats = seats or [Seat(number, len(runs)) for number in range(len(runs))]
    device.use()
    check_watches(runs[0], places[0].registry)
    start = start_of(runs[0], replace(places[0], resume=None))
    training = Training(runs[0], device, places[0].registry, None, start.network)
    training.mixed_numerics = start.mixed_numerics
    try:
        stack = _begun(training, runs, places, seats)
        numbers = [seat.number for seat in seats]
        members = [_Member(*each) for each in zip(range(len(runs)), runs, places, supervisors, numbers, strict=True)]
        yield from _train(stack, members)
        for member in members:
            if member.outcome is None:
                yield member.index, _finished(stack, member)
    finally:
        training.batches.close()


def is_whole(run: AnyTraining, micro_batch: int | None) -> bool:
    """Whether a batch of the run is on the device at once, with so many images of a step at a time; None is all."""
    return micro_batch_of(run.recipe.batch, micro_batch) == run.recipe.batch


def _train(stack: Stack, members: Sequence[_Member]) -> Iterator[tuple[int, Outcome]]:
    """Do all steps, or those until no run is left that goes on. Yields the runs that end on the way."""
    steps = members[0].run.steps
    for member in members:
        forget(member.place.folder, keep=member.place.resume)
    saved_at = time.monotonic()
    going = list(members)
    while going and stack.step < steps:
        stack.update()
        if stack.step == steps or stack.step % math.ceil(steps / LOGGED_STEPS) == 0:
            _measure(stack, going)
        yields = _wishes(stack.step, going)
        waited = time.monotonic() - saved_at >= min(member.place.checkpoint_seconds for member in members)
        living = [member for member in going if member.outcome is None]
        is_finite = stack.are_finite() if stack.step < steps and (yields or waited) else []
        # As alone, a broken state is not worth a checkpoint, and goes on to the next logged step, where it fails.
        if is_finite and all(is_finite[member.seat] for member in living):
            for member in living:
                _checkpoint(stack, member)
                if yields and member.outcome is None:
                    member.outcome = Yielded()
            saved_at = time.monotonic()
        yield from [(member.index, member.outcome) for member in going if member.outcome is not None]
        going = [member for member in going if member.outcome is None]


def _measure(stack: Stack, members: Sequence[_Member]) -> None:
    """Hand the losses on; a run fails whose loss is no finite number."""
    losses = stack.losses()
    for member in members:
        loss_nats, run = losses[member.seat], member.run
        lr = run.recipe.lr_at(stack.step - 1, run.steps)
        member.supervisor.measure(stack.step, {TRAIN_LOSS: loss_nats, "lr": lr})
        if not math.isfinite(loss_nats):
            member.outcome = NotFinite(f"the training loss at step {stack.step:,} of {run.steps:,} is {loss_nats}")


def _wishes(step: int, members: Sequence[_Member]) -> bool:
    """Ask everybody who still has a run; stop those who are to stop. Whether somebody wishes to yield."""
    wishes = []
    for member in members:
        if member.outcome is None:
            wishes.append(member.supervisor.reached(step))
            if wishes[-1] is Wish.STOP:
                member.outcome = Stopped()
    return Wish.YIELD in wishes


def _facts(stack: Stack, seat: int) -> Facts:
    facts = stack.restore(seat).facts()
    return facts.model_copy(update={"numerics": numerics_in(Seat(seat, len(stack.runs)), facts.numerics)})


def _checkpoint(stack: Stack, member: _Member) -> None:
    """As for one run: save, make it current, and only then delete what was current before."""
    folder = step_folder(member.place.folder, stack.step)
    save(folder, stack.state_of(member.seat), _facts(stack, member.seat))
    try:
        member.supervisor.checkpointed(folder, stack.step)
    except LeaseLost as error:
        member.outcome = error
    else:
        forget(member.place.folder, keep=folder)


def _finished(stack: Stack, member: _Member) -> Outcome:
    """The run's end after the last step."""
    run, final = member.run, member.place.folder / "final"
    if not stack.are_finite()[member.seat]:
        return NotFinite(f"the weights after the last step, {run.steps:,}, are not finite")
    training = stack.restore(member.seat)
    try:
        found = look(run, list(run.watches), training.evaluated(), run.steps, member.place, member.supervisor)
    except Stopped as error:
        return error
    if found:
        member.supervisor.measure(run.steps, measurements(found))
    save(final, training.left(), _facts(stack, member.seat))
    value = Value(TRAIN_LOSS, run.data.name, run.data.split, run.image_size, stack.losses()[member.seat])
    return Finished((value, *results(found, None)), final, training.mixed_numerics, training.batches.certificate)


def _begun(training: Training, runs: Sequence[AnyTraining], places: Sequence[Place], seats: Sequence[Seat]) -> Stack:
    """The stack at its first step, or where the runs' checkpoints are."""
    index_of = {seat.number: index for index, seat in enumerate(seats)}
    # An empty seat is taken by a copy of the first run: the sizes, and so the bits, stay as they were.
    sitting = [index_of.get(number, 0) for number in range(seats[0].size)]
    stack = Stack([runs[index] for index in sitting], training)
    saved = _saved(training.numerics, runs, places, seats)
    if saved is not None:
        for number, index in enumerate(sitting):
            tensors, _ = saved[index]
            for name, tensor in stack.state_of(number).items():
                tensor.copy_(tensors[name])
        stack.set_step(saved[0][1].step)
    return stack


def _saved(
    numerics: str, runs: Sequence[AnyTraining], places: Sequence[Place], seats: Sequence[Seat]
) -> list[tuple[dict[str, Tensor], Facts]] | None:
    """The checkpoints that the runs go on from together; None when they begin anew."""
    folders = [place.resume for place in places if place.resume is not None]
    if len(folders) < len(runs):
        return None
    try:
        saved = [load(folder) for folder in folders]
    except CheckpointError:
        return None
    are_of_it = all(
        facts.run == key_of(run)
        and 0 < facts.step == saved[0][1].step < run.steps
        and facts.numerics == numerics_in(seat, numerics)
        for run, (_, facts), seat in zip(runs, saved, seats, strict=True)
    )
    return saved if are_of_it else None
