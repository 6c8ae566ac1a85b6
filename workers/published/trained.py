"""The weights of a finished training as a file for others."""

from pathlib import Path

from studies.models import MaskedPatch
from workers.final import read_final
from workers.models.build import blueprint, materialize
from workers.models.transfer import loaded
from workers.published.timm_files import save_timm, timm_model
from workers.supervision import CheckpointError


def export(checkpoint: Path, output: Path, *, head: bool = True, overwrite: bool = False) -> str:
    """Write the network of a training's last checkpoint for timm; the name of timm's architecture.

    Raises CheckpointError when it is not whole or not of a training's end, ValueError when it is of a masked-patch
    model, and what `save_timm` raises.
    """
    final = read_final(checkpoint)
    training, model = final.training, final.training.model
    if isinstance(model, MaskedPatch):
        raise ValueError(
            f"{checkpoint} is of a masked-patch model, which timm has no counterpart for: export a fine-tuning of it"
        )
    shape = blueprint(
        model,
        image_size=training.image_size,
        channels=training.data.channels,
        classes=training.data.classes,
    )
    try:
        network = loaded(materialize(shape, "cpu"), final.weights)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint} does not fit its own definition: {error}") from error
    save_timm(output, network, model, head=head, overwrite=overwrite)
    return timm_model(network, model, head=head)[0]
