"""What the weights commands do: the weights of a finished run into a file, and what a file of weights holds."""

import json
from pathlib import Path
from typing import Any

from db import answers
from orchestrator.reports import NotFound
from orchestrator.settings import Settings
from studies.architectures import describe as name_of


def export(found: answers.Run, settings: Settings, output: Path, *, head: bool, overwrite: bool) -> dict[str, Any]:
    """Write the final weights of a training as timm names them, and say for programs what was written.

    Raises NotFound without a finished training or its checkpoint, ValueError for a run that trains nothing and a model
    that timm does not have, OSError when a file cannot be read or written.
    """
    key = found.key[:12]
    if found.kind != "train":
        raise ValueError(f"run {key} trains nothing; the weights are those of run {(found.upstream or '')[:12]}")
    if found.checkpoint is None or found.state != "done":
        raise NotFound(f"run {key} has no final weights: it is {found.state}")
    checkpoint = settings.checkpoints / found.checkpoint
    if not checkpoint.exists():
        raise NotFound(f"the weights of run {key} are not at {checkpoint} (--folder or VITSCALE_FOLDER names its root)")
    from workers.published import trained
    from workers.supervision import CheckpointError

    try:
        architecture = trained.export(checkpoint, output, head=head, overwrite=overwrite)
    except CheckpointError as error:
        raise OSError(str(error)) from error
    except FileExistsError as error:
        raise OSError(f"{output} is there already; --force writes over it") from error
    return {"run": found.key, "file": str(output), "model": found.model, "timm_architecture": architecture}


def show(path: Path) -> dict[str, Any]:
    """What a file of published weights holds, for programs.

    Raises ValueError when it is no such file, OSError when it cannot be read.
    """
    from workers.published.files import describe

    described = describe(path)
    holding = described.holding
    return {
        "file": str(path),
        "convention": holding.convention.source,
        "model": name_of(holding.model),
        "definition": json.loads(holding.model.model_dump_json()),
        "parameters": described.numbers,
        "image_size": holding.image_size,
        "channels": holding.channels,
        "classes": holding.classes,
        "misfits": list(described.misfits),
    }
