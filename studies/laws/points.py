"""The points that a law is fitted on: arrays of costs, errors and sizes, and which of them are usable; no fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp] | NDArray[np.bool_]
Dropped = tuple[tuple[str, tuple[str, ...]], ...]

CALLED = {
    "cost": "cost",
    "parameters": "number of parameters",
    "images": "number of images seen",
    "data_rows": "number of distinct images",
}
OPTIONAL = ("parameters", "images", "data_rows", "sd", "seeds")
"""What points need not say."""


@dataclass(frozen=True)
class Points:
    """Configurations, their seeds averaged; every array has the shape (R,).

    error: 1 - accuracy, or the metric itself where less is better. cost: FLOPs, unless the caller chose another axis.
    images: seen in training, repeats counted; data_rows: distinct ones. keys name the configurations, once each.
    sd: sample standard deviation of the error from seed to seed, NaN with one seed; seeds: how many were averaged.
    Raises ValueError for arrays of different lengths and for a key that comes twice.
    """

    cost: Floats
    error: Floats
    keys: tuple[str, ...]
    parameters: Floats | None = None
    images: Floats | None = None
    data_rows: Floats | None = None
    labels: tuple[str, ...] = ()
    sd: Floats | None = None
    seeds: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("cost", "error", *OPTIONAL):
            values = getattr(self, name)
            if values is None:
                continue
            array = np.asarray(values, dtype=np.float64)
            if array.shape != (len(self.keys),):
                raise ValueError(f"{name} has the shape {array.shape} and there are {len(self.keys)} keys: one each")
            object.__setattr__(self, name, array)
        object.__setattr__(self, "keys", tuple(self.keys))
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.labels and len(self.labels) != len(self.keys):
            raise ValueError(f"{len(self.labels)} labels for {len(self.keys)} points: one each, or none at all")
        if len(set(self.keys)) < len(self.keys):
            twice = next(key for key in self.keys if self.keys.count(key) > 1)
            raise ValueError(f"the configuration {twice} comes twice: average its seeds first")

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Rows) -> Points:
        """Those points alone, in the order of `rows` (row numbers, or a mask)."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        known = {name: array[chosen] for name in OPTIONAL if (array := getattr(self, name)) is not None}
        return Points(
            self.cost[chosen],
            self.error[chosen],
            tuple(self.keys[row] for row in chosen),
            labels=tuple(self.labels[row] for row in chosen) if self.labels else (),
            **known,
        )

    def input(self, name: str) -> Floats:
        """One of cost, parameters, images and data_rows. Raises ValueError where the points have none."""
        values: Floats | None = getattr(self, name)
        if values is None:
            raise ValueError(f"these points do not say their {CALLED[name]}: this form needs it")
        return values

    def inputs(self, names: Sequence[str]) -> Floats:
        """Several of them, shape (I, R)."""
        return np.stack([self.input(name) for name in names])

    def clean(self, inputs: Sequence[str] = ("cost",)) -> tuple[Points, Dropped]:
        """The points that have a logarithm everywhere, in canonical order, and (reason, keys) of those that do not.

        The order is by cost, then by error, inputs and key, so that nothing later depends on the order given.
        inputs: what the form is a function of; a missing number of parameters does not harm a law of cost.
        """
        reasons = [_reason(self, row, inputs) for row in range(len(self))]
        usable = np.array([reason is None for reason in reasons], dtype=bool)
        dropped: dict[str, list[str]] = {reason: [] for reason in reasons if reason is not None}
        for reason, key in zip(reasons, self.keys, strict=True):
            if reason is not None:
                dropped[reason].append(key)
        kept = self.take(usable)
        order = sorted(
            range(len(kept)),
            key=lambda row: (
                kept.cost[row],
                kept.error[row],
                *(kept.input(name)[row] for name in inputs),
                kept.keys[row],
            ),
        )
        answers = tuple((reason, tuple(sorted(keys))) for reason, keys in sorted(dropped.items()))
        return kept.take(np.array(order, dtype=np.intp)), answers


def _reason(points: Points, row: int, inputs: Sequence[str]) -> str | None:
    """Why this point cannot be used; None: it can."""
    for name in dict.fromkeys(("cost", *inputs)):
        value = points.input(name)[row]
        if not np.isfinite(value):
            return f"no finite {CALLED[name]}"
        if value <= 0:
            return f"{CALLED[name]} of zero or less"
    error = points.error[row]
    if not np.isfinite(error):
        return "no finite error"
    if error == 0:
        return "an error of exactly 0, which has no logarithm"
    return "a negative error" if error < 0 else None
