"""What a training leaves in its final checkpoint, and how others read it: never a checkpoint on the way.

`model.*` is what is evaluated. A trunk leaves all of its state beside it, so that other trainings go on from there:
`optimizer.*`, and `last.*`, its weights, where `model.*` is their average.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from studies.definitions import RUN, AnyTraining, FineTune, Train, key_of
from studies.schedules import ReciprocalSqrt
from workers.checkpoints import Facts, load
from workers.supervision import CheckpointError


@dataclass(frozen=True)
class Final:
    """The final checkpoint of a training."""

    training: AnyTraining
    tensors: dict[str, Tensor]
    facts: Facts

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those to evaluate and to go on from with other images, by their names in the network."""
        return unprefixed("model", self.tensors)


def read_final(folder: Path) -> Final:
    """The final checkpoint there. Raises CheckpointError when it is not whole, or not of a training's end."""
    tensors, facts = load(folder)
    try:
        training = RUN.validate_json(facts.training)
    except ValidationError as error:
        raise CheckpointError(
            f"{folder} holds a definition that this code cannot read: use the code that wrote it"
        ) from error
    if not isinstance(training, Train | FineTune):
        raise CheckpointError(f"{folder} is of no training")
    if facts.run != key_of(training):
        raise CheckpointError(f"{folder} says that it is of the run {facts.run[:12]}, and its definition is of another")
    if facts.step != training.steps:
        raise CheckpointError(f"{folder} is at step {facts.step:,} and not at the end of its training")
    return Final(training, tensors, facts)


def is_trunk(run: AnyTraining) -> bool:
    """Whether others can go on from the training's end as if it were their own first part.

    So it is when its rate does not fall for the end, and the weights of its last step are those that it leaves.
    """
    schedule = run.recipe.schedule
    without_end = isinstance(schedule, ReciprocalSqrt) and not schedule.cooldown_steps
    return isinstance(run, Train) and without_end and keeps_last(run)


def keeps_last(run: AnyTraining) -> bool:
    """Whether the training leaves the weights of its last step, and not of the best."""
    return all(watch.keep == "last" for watch in run.watches)


def trunk_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a trunk leaves of its state: `model.*` is the average where there is one, and `last.*` then its weights."""
    average, model = unprefixed("average", state), unprefixed("model", state)
    if not average:
        return dict(state)
    return prefixed("model", average) | prefixed("last", model) | prefixed("optimizer", unprefixed("optimizer", state))


def trunk_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that `trunk_tensors` was given."""
    last, model = unprefixed("last", tensors), unprefixed("model", tensors)
    if not last:
        return dict(tensors)
    return (
        prefixed("model", last) | prefixed("average", model) | prefixed("optimizer", unprefixed("optimizer", tensors))
    )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under longer names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that have the prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
