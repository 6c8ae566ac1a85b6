"""Which rows of the files a run's data is: worked out place by place, never as a table of all rows.

A place is a number in [0, rows) of the run's subset, in the order in which subsets are nested; a row is a number of the
stored split, in the order of its files.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.datasets import Cut, Leave, Selection
from studies.definitions import Data
from studies.frozen import Digest, Frozen
from studies.permutation import permuted, places_of

Rows = NDArray[np.int64]
_CHUNK = 1 << 18
"""Places that are worked out at a time."""


class Certificate(Frozen):
    """What a run really read: stored with it, so that two machines can compare."""

    rows: int
    digest: Digest
    """`rows_digest` of the rows in the order of their places."""
    skipped: int
    """Bad rows that the split leaves out."""


@dataclass(frozen=True)
class Subset:
    """The images of a run's data."""

    selection: Selection
    data: Data
    dropped: Rows
    """The sorted rows of the stored split that the selection leaves out."""
    per_class: Rows | None
    """With `per_class`: numbers within the selection, (classes, per_class)."""

    @property
    def rows(self) -> int:
        """Images."""
        return self.data.rows

    def rows_at(self, place: Rows) -> Rows:
        """The row of the stored split at each place of the subset; any shape."""
        assert self.data.fingerprint is not None
        if self.per_class is None:
            number = permuted(place, self.selection.rows, self.data.fingerprint, "subset")
        else:
            number = self.per_class[place % self.data.classes, place // self.data.classes]
        for step in reversed(self.selection.steps):
            number = self._up(number, step)
        return number

    def places_at(self, row: Rows) -> Rows:
        """The place of each row of the stored split, -1 where it is not in the subset; shape (N,)."""
        assert self.data.fingerprint is not None
        place = row.copy()
        inside = np.arange(len(row))
        for step in self.selection.steps:
            number, kept = self._down(place[inside], step)
            inside = inside[kept]
            place[inside] = number
        if self.per_class is None:
            numbers = places_of(place[inside], self.selection.rows, self.data.fingerprint, "subset")
        else:
            numbers = self._place_of_class(place[inside])
        chosen = (numbers >= 0) & (numbers < self.rows)
        found = np.full(len(row), -1, dtype=np.int64)
        found[inside[chosen]] = numbers[chosen]
        return found

    def chunks(self) -> Iterator[Rows]:
        """The rows at places 0, 1, ..., a bounded number at a time."""
        for start in range(0, self.rows, _CHUNK):
            yield self.rows_at(np.arange(start, min(start + _CHUNK, self.rows), dtype=np.int64))

    def certificate(self) -> Certificate:
        """How many rows these are, and the digest of their numbers."""
        digest = hashlib.sha256()
        for row in self.chunks():
            digest.update(row.astype("<i8").tobytes())
        return Certificate(rows=self.rows, digest=digest.hexdigest(), skipped=self.selection.skipped)

    def _up(self, number: Rows, step: Cut | Leave) -> Rows:
        """Numbers after a step to numbers before it."""
        if isinstance(step, Cut):
            before = number + step.start
            return before if step.shuffled is None else permuted(before, self._before(step), step.shuffled, "part")
        # Before the j-th dropped row stand dropped[j] - j rows that stay.
        return number + np.searchsorted(self.dropped - np.arange(len(self.dropped)), number, side="right")

    def _down(self, number: Rows, step: Cut | Leave) -> tuple[Rows, NDArray[np.bool_]]:
        """Numbers before a step to those after it, and which there are."""
        if isinstance(step, Cut):
            after = number if step.shuffled is None else places_of(number, self._before(step), step.shuffled, "part")
            kept = (after >= step.start) & (after < step.start + step.rows)
            return (after - step.start)[kept], kept
        at = np.searchsorted(self.dropped, number)
        kept = np.append(self.dropped, -1)[at] != number
        return (number - at)[kept], kept

    def _before(self, step: Cut) -> int:
        """Rows of what a step takes its rows from."""
        index = self.selection.steps.index(step)
        return self.selection.steps[index - 1].rows if index else self.selection.stored_rows

    def _place_of_class(self, number: Rows) -> Rows:
        assert self.per_class is not None
        by_place = self.per_class.T.reshape(-1)
        order = np.argsort(by_place)
        at = np.minimum(np.searchsorted(by_place[order], number), len(by_place) - 1)
        return np.where(by_place[order][at] == number, order[at], -1)


def subset_of(selection: Selection, data: Data, dropped: Rows, label_N: NDArray[np.int64] | None) -> Subset:
    """The images of a run's data.

    dropped: sorted rows of the stored split that the selection leaves out.
    label_N: of all rows of the stored split; needed with `per_class` alone.
    Raises ValueError when the drop lists are not those of the selection, or a class has too few images.
    """
    due = sum(each.rows for step in _leaves(selection) for each in step.lists)
    if len(dropped) != due:
        raise ValueError(
            f"the drop lists of {data.name}, {data.split} split, name {len(dropped):,} rows, not {due:,}:"
            " they overlap or are of another time; run `vitscale data check` and then `vitscale data dedup` again"
        )
    everything = Subset(selection, data, dropped, None)
    if data.per_class is None:
        return everything
    assert label_N is not None
    number_N = np.arange(selection.rows, dtype=np.int64)
    row_N = number_N
    for step in reversed(selection.steps):
        row_N = everything._up(row_N, step)
    label_of_number = label_N[row_N]
    of_class = []
    for label in range(data.classes):
        number = number_N[label_of_number == label]
        if len(number) < data.per_class:
            raise ValueError(
                f"class {label} has {len(number):,} images in the {data.split} split of {data.name}, fewer than the"
                f" {data.per_class:,} that the run takes of each: take fewer"
            )
        place = np.arange(data.per_class, dtype=np.int64)
        of_class.append(number[permuted(place, len(number), data.fingerprint or "", "class", label)])
    return Subset(selection, data, dropped, np.stack(of_class))


def rows_digest(row: Rows) -> str:
    """SHA-256 of row numbers as little-endian int64."""
    return hashlib.sha256(row.astype("<i8").tobytes()).hexdigest()


def _leaves(selection: Selection) -> list[Leave]:
    return [step for step in selection.steps if isinstance(step, Leave)]
