"""Checkpoints: folders of tensors, as safetensors, and a manifest with sizes and digests; whole, or not there.

There is no pickle here. safetensors loads a file with a flipped bit without a word, hence the digests.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from workers import durable
from workers.supervision import CheckpointError

FORMAT = 1
"""Version of the layout of a checkpoint's folder."""
_MANIFEST = "manifest.json"
_STATE = "state.safetensors"


class Facts(BaseModel):
    """What a checkpoint says about itself, beside its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: str
    """Key of the training."""
    training: str
    """The training's definition as canonical JSON: the network's shape comes with its weights."""
    step: NonNegativeInt
    """Updates done."""
    numerics: str
    """Numerics class of the place that wrote it."""
    mixed_numerics: bool
    """Its steps were computed in more than one numerics class."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size_bytes: int
    sha256: str


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    facts: Facts
    files: dict[str, _File]


def step_folder(attempt: Path, step: int) -> Path:
    """Where an attempt keeps its checkpoint of a step."""
    return attempt / f"step-{step:08d}"


def save(folder: Path, tensors: Mapping[str, Tensor], facts: Facts) -> None:
    """Write a checkpoint that is at `folder` whole, on the disk, when this returns, and otherwise is not there at all.

    Raises OSError as it comes (ENOSPC: the disk is full), with what was written removed; FileExistsError for a folder
    that is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already, and a checkpoint is never written over")
    writing = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)  # from a process that was killed here
    try:
        writing.mkdir(parents=True)
        state = to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        durable.write(writing / _STATE, state)
        files = {_STATE: _File(size_bytes=len(state), sha256=hashlib.sha256(state).hexdigest())}
        durable.write(writing / _MANIFEST, _sealed(_Manifest(format=FORMAT, facts=facts, files=files)))
        durable.sync_names(writing)
        writing.rename(folder)
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    durable.sync_names(folder.parent)
    durable.sync_names(folder.parent.parent)  # the attempt's folder may be new


def load(folder: Path) -> tuple[dict[str, Tensor], Facts]:
    """The tensors, on the CPU, and the facts of a checkpoint that was checked byte by byte.

    Raises CheckpointError when it is not whole.
    """
    manifest = _manifest(folder)
    for name, file in manifest.files.items():
        path = folder / name
        try:
            size_bytes = path.stat().st_size
            if size_bytes != file.size_bytes:
                raise CheckpointError(f"{path} is not whole: it has {size_bytes:,} bytes, not {file.size_bytes:,}")
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
        if digest != file.sha256:
            raise CheckpointError(f"{path} was changed: its SHA-256 is {digest[:12]}..., not {file.sha256[:12]}...")
    try:
        return load_file(folder / _STATE), manifest.facts
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / _STATE} cannot be read ({error})") from error


def load_facts(folder: Path) -> Facts:
    """The facts of a checkpoint without its tensors. Raises CheckpointError when its manifest is not whole."""
    return _manifest(folder).facts


def forget(attempt: Path, *, keep: Path | None) -> None:
    """Delete the checkpoints and leftovers in an attempt's own folder, all but one."""
    for folder in attempt.iterdir() if attempt.is_dir() else ():
        ours = folder.name.startswith("step-") or folder.name in ("final", "final.writing")
        if ours and folder.is_dir() and not (keep is not None and keep.exists() and folder.samefile(keep)):
            shutil.rmtree(folder)


def _manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("seal")
    except OSError as error:
        raise CheckpointError(f"{folder} is no checkpoint: its manifest cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not whole: it is no sealed JSON") from error
    if seal != _seal(content):
        raise CheckpointError(f"{path} was changed: its seal is not the SHA-256 of the rest")
    version = content.get("format")
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has the format {version}, and this code reads {FORMAT}: use the code that wrote it"
        )
    try:
        return _Manifest.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} says what this code cannot read: {error.errors()[0]['msg']}") from error


def _sealed(manifest: _Manifest) -> bytes:
    """The manifest as JSON, with a digest of itself: a bit that flips in a fact is found too."""
    content = manifest.model_dump(mode="json")
    return json.dumps({**content, "seal": _seal(content)}, indent=1).encode()


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
