"""How a training begins: the network's first values, a pre-trained network, or a state to go on from.

A state is that of the run itself, or of its trunk: a training of the same fields, shorter and without a cooldown.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from studies.definitions import AnyTraining, FineTune, Train, canonical, key_of
from studies.models import AnyModel, fine_tuned
from studies.schedules import ReciprocalSqrt
from workers.checkpoints import load
from workers.final import Final, is_trunk, keeps_last, read_final, trunk_state
from workers.models.build import AnyNetwork, blueprint, build, materialize
from workers.models.transfer import resized, transferred
from workers.supervision import CheckpointError, Place


@dataclass(frozen=True)
class State:
    """All that changes while a network is trained, after so many steps."""

    folder: Path
    """Where it was read."""
    tensors: dict[str, Tensor]
    """On the CPU, by the names of `Training.state`."""
    step: int
    numerics: str
    mixed_numerics: bool


@dataclass(frozen=True)
class Start:
    """What a training begins with."""

    network: AnyNetwork
    """On the CPU. Its parameters have no values yet where there is a state."""
    state: State | None = None
    mixed_numerics: bool = False
    """The network's values stand on steps of more than one numerics class."""


def start_of(run: AnyTraining, place: Place) -> Start:
    """How the run begins at this place: from `place.resume` where it has one, else as its definition says.

    Raises CheckpointError when a checkpoint is not whole or is another's, and ValueError when a pre-trained network is
    not made for the run.
    """
    if place.resume is not None:
        return Start(_without_values(run), _own(run, place.resume))
    if isinstance(run, FineTune):
        return _pretrained(run, place.upstream)
    if place.upstream is not None:
        return Start(_without_values(run), _of_trunk(run, place.upstream))
    return Start(first_network(run))


def first_network(run: Train) -> AnyNetwork:
    """The network with its first values, on the CPU."""
    recipe = run.recipe
    return build(
        run.model,
        image_size=run.image_size,
        channels=run.data.channels,
        classes=run.data.classes,
        dropout=recipe.dropout,
        stochastic_depth=recipe.stochastic_depth,
        head_bias=recipe.head_bias,
        seed=run.seed,
    )


def _without_values(run: AnyTraining) -> AnyNetwork:
    shape = blueprint(
        run.model,
        image_size=run.image_size,
        channels=run.data.channels,
        classes=run.data.classes,
        dropout=run.recipe.dropout,
        stochastic_depth=run.recipe.stochastic_depth,
    )
    return materialize(shape, "cpu")


def _own(run: AnyTraining, folder: Path) -> State:
    tensors, facts = load(folder)
    if facts.run != key_of(run):
        raise CheckpointError(f"{folder} belongs to the run {facts.run[:12]}, not to {key_of(run)[:12]}")
    if not 0 < facts.step < run.steps:
        raise CheckpointError(f"{folder} is at step {facts.step:,}, and the run has {run.steps:,} steps")
    return State(folder, tensors, facts.step, facts.numerics, facts.mixed_numerics)


# ------------------------------------------------------------------------------------------------------ fine-tuning


def _pretrained(run: FineTune, folder: Path | None) -> Start:
    if folder is None:
        raise CheckpointError(f"no checkpoint was given of the training {run.upstream[:12]} that this run stands on")
    final = read_final(folder)
    training = _checked(run, final, folder)
    try:
        network = transferred(
            final.weights,
            training.model,
            from_size=training.image_size,
            to_size=run.image_size,
            channels=run.data.channels,
            classes=run.data.classes,
            dropout=run.recipe.dropout,
            stochastic_depth=run.recipe.stochastic_depth,
            head_bias=run.recipe.head_bias,
        )
    except ValueError as error:
        raise CheckpointError(f"{folder} holds tensors of other names or shapes than its model has: {error}") from error
    return Start(network, mixed_numerics=final.facts.mixed_numerics)


def _checked(run: FineTune, final: Final, folder: Path) -> Train:
    """The pre-training. Raises CheckpointError for another one, ValueError for one that cannot be fine-tuned so."""
    training = final.training
    if final.facts.run != run.upstream:
        raise CheckpointError(
            f"{folder} is of the training {final.facts.run[:12]}, and the run stands on {run.upstream[:12]}"
        )
    if not isinstance(training, Train):
        raise CheckpointError(f"{folder} is of a fine-tuning, and a fine-tuning stands on a pre-training")
    if fine_tuned(training.model) != run.model:
        raise ValueError(
            f"{folder} is a checkpoint of another architecture:"
            f" {_difference(_fields(fine_tuned(training.model)), _fields(run.model))}"
        )
    if training.data.channels != run.data.channels:
        raise ValueError(
            f"a network for {training.data.channels} channels cannot see images of {run.data.channels}: choose"
            f" another data set than {run.data.name}"
        )
    resized({}, training.model, from_size=training.image_size, to_size=run.image_size)
    return training


def _difference(theirs: dict[str, object], ours: dict[str, object]) -> str:
    """The first field in which two networks differ."""
    name = next(name for name in (*theirs, *ours) if theirs.get(name) != ours.get(name))
    return f"fine-tuned, its {name} is {theirs.get(name, 'none')}, and the run has {ours.get(name, 'none')}"


def _fields(model: AnyModel, within: str = "") -> dict[str, object]:
    """All fields, those of parts under the part's name."""
    fields: dict[str, object] = {}
    for name, value in model:
        fields |= _fields(value, f"{within}{name}.") if isinstance(value, AnyModel) else {within + name: value}
    return fields


# ------------------------------------------------------------------------------------------------------------ trunks


def _of_trunk(run: Train, folder: Path) -> State:
    final = read_final(folder)
    schedule = run.recipe.schedule
    if not isinstance(schedule, ReciprocalSqrt) or not keeps_last(run):
        raise CheckpointError(f"the run {key_of(run)[:12]} shares its first steps with no other, so not with {folder}")
    if not is_trunk(final.training) or _trunk_fields(final.training) != _trunk_fields(run):
        raise CheckpointError(f"{folder} is no trunk of the run {key_of(run)[:12]}: more than the length differs")
    step, most = final.facts.step, run.steps - schedule.cooldown_steps
    if step > most or step == run.steps:
        raise CheckpointError(
            f"{folder} is at step {step:,}, and of the {run.steps:,} steps of the run only the first {most:,} are those"
            " of a longer training"
        )
    return State(folder, trunk_state(final.tensors), step, final.facts.numerics, final.facts.mixed_numerics)


def _trunk_fields(run: AnyTraining) -> str:
    """All that decides the steps before a cooldown, as text."""
    schedule = run.recipe.schedule.model_copy(update={"cooldown_steps": 0})
    recipe = run.recipe.model_copy(update={"schedule": schedule})
    return canonical(run.model_copy(update={"recipe": recipe, "examples": run.recipe.batch}))
