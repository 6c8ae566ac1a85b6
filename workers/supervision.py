"""What a run needs from whoever runs it, and how it ends: the border between `workers` and `orchestrator`.

A run is a plain function of (run, place, supervisor). It knows no store and no cluster.
"""

from __future__ import annotations  # Device is only named here: commands that read the store must not import torch

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from studies.registry import BUILT_IN_ONLY, Registry

if TYPE_CHECKING:
    from studies.subsets import Certificate
    from workers.devices import Device


class Wish(StrEnum):
    """What the supervisor wants of a run at this moment."""

    CONTINUE = "continue"
    YIELD = "yield"
    """Save a checkpoint, then give the place up."""
    STOP = "stop"
    """Give up at once: the run is cancelled, or belongs to somebody else by now."""


class Supervisor(Protocol):
    """Hears from a run while it works."""

    def reached(self, step: int) -> Wish:
        """Called after every step, by an evaluation with 0 after every batch; answers from memory, without waiting."""

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep measurements of a step. Values may be NaN or infinite. Only what a repeat would measure again."""

    def checkpointed(self, folder: Path, step: int) -> None:
        """Make a complete checkpoint the current one. Raises LeaseLost when the run is somebody else's by now."""


@dataclass(frozen=True)
class Place:
    """Where one attempt works."""

    device: Device
    folder: Path
    """The attempt's own folder; nobody else writes here."""
    resume: Path | None = None
    """The run's current checkpoint, to go on from."""
    upstream: Path | None = None
    """The final checkpoint of the training that this run stands on."""
    checkpoint_seconds: float = 20.0
    """Time between checkpoints."""
    any_numerics: bool = False
    """Go on from a checkpoint of another numerics class."""
    micro_batch: int | None = None
    """Images of a training step on the device at a time; None is all."""
    registry: Registry = BUILT_IN_ONLY
    """The data sets that are known here."""


@dataclass(frozen=True)
class Value:
    """One result: the final value of a metric on a data set and split. None is not a finite number."""

    metric: str
    dataset: str
    split: str
    image_size: int
    value: float | None


@dataclass(frozen=True)
class Finished:
    """What a run that came to its end hands back."""

    values: tuple[Value, ...]
    checkpoint: Path | None = None
    """The trained model; None for an evaluation."""
    mixed_numerics: bool = False
    """The result stands on steps of more than one numerics class."""
    certificate: Certificate | None = None
    """Of the images that were trained on, or classified."""


class Yielded(Exception):
    """The run saved a checkpoint and gave its place up, as it was asked to. An evaluation saves none: it is short."""


class Stopped(Exception):
    """The run gave up at once, as it was asked to."""


class LeaseLost(Exception):
    """The run belongs to somebody else by now: nothing this attempt says counts."""


class NotFinite(Exception):
    """The loss is no finite number. A repeat would give the same."""


class DataError(Exception):
    """The data cannot be read, or is not what the run's key names."""


class CheckpointError(Exception):
    """A checkpoint is not whole, or does not belong to this run."""


class OtherNumerics(Exception):
    """The checkpoint was written by another numerics class, so going on would change bits."""
