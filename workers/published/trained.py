"""The weights of a finished training as a file for others."""

from pathlib import Path

from pydantic import ValidationError

from studies.definitions import RUN, Train
from workers.checkpoints import load
from workers.models.build import blueprint, materialize
from workers.models.transfer import loaded
from workers.published.timm_files import save_timm, timm_model
from workers.supervision import CheckpointError

_PREFIX = "model."
"""Before the names of the network's parameters in a training's checkpoint."""


def export(checkpoint: Path, output: Path, *, head: bool = True, overwrite: bool = False) -> str:
    """Write the network of a training's last checkpoint for timm; the name of timm's architecture.

    Raises CheckpointError when it is not whole or not of a training's end, and what `save_timm` raises.
    """
    tensors, facts = load(checkpoint)
    try:
        training = RUN.validate_json(facts.training)
    except ValidationError as error:
        raise CheckpointError(f"{checkpoint} holds a definition that this code cannot read") from error
    if not isinstance(training, Train) or facts.step != training.steps:
        raise CheckpointError(f"{checkpoint} is at step {facts.step:,} and not at the end of its training")
    shape = blueprint(
        training.model,
        image_size=training.image_size,
        channels=training.data.channels,
        classes=training.data.classes,
    )
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_PREFIX)}
    try:
        network = loaded(materialize(shape, "cpu"), weights)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} does not fit its own definition: {error}") from error
    save_timm(output, network, training.model, head=head, overwrite=overwrite)
    return timm_model(network, training.model, head=head)[0]
