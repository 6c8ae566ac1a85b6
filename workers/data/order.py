"""Which image each position of a training holds: pure functions of (seed, position), whatever was read before.

Positions run on through the epochs, and each `rows` positions, wherever batches end, hold each image once.

Images in memory come in a true permutation, which `shuffled_places` works out. Images in files come as a `Stream`: each
row group's rows, in an order of their own in each epoch, are cut into slices; all slices of the split are permuted; so
many of them as ROUND_BYTES hold are a round, which is read at once. The rows of each slice are spread over the SPREAD
blocks that begin with their round, and a block is permuted. So a batch mixes the slices of SPREAD rounds, while no more
than (SPREAD + 1) / 2 rounds of images wait, where a shuffled window of as many rounds would hold all of them.

What it comes to on the worst files, sorted by class: 1,000 classes of 1,300 images of 110 KB; the mean of different
classes in a batch, and the longest run of one class in an epoch. Beside it, windows of 128 MiB with slices of 16 to 25
rows; two windows must be in memory, four times as much as here.

    row groups           slices of each   batch of 256   of 4,096   longest run
    of 2 MiB, 19 rows    4                180            640        3
      in windows         1 to 2            98            408        4
    of 11 MB, 100 rows   4                 47            183        4
      in windows         4                 54            189        4
    true permutation                      226            983        2

S = slices, R = rounds, T = blocks of an epoch, G = row groups, N = images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studies.permutation import permuted

Numbers = NDArray[np.int64]

SPREAD = 8
"""Blocks that the rows of a slice are spread over."""
ROUND_BYTES = 12 * 2**20
"""Images of a round, about, encoded as they are. It decides the order, as SPREAD does."""
_SOURCES = 256
"""Slices that a batch should mix."""
_MOST_CUTS = 4
"""How often a row group may be read in an epoch."""
_MOST_SLICES = 2**24
"""Of a split: to count them takes seconds at each epoch."""
_CHUNK_SLICES = 2**18
_KEPT_EPOCHS = 2


def shuffled_places(first: int, positions: int, *, rows: int, seed: int) -> Numbers:
    """The places of the subset at positions first, first + 1, ...: in each epoch a permutation of its own."""
    position = np.arange(first, first + positions, dtype=np.int64)
    epoch, place = np.divmod(position, rows)
    found = np.empty_like(place)
    # Positions are in order, so those of one epoch lie together.
    begins = np.flatnonzero(np.diff(epoch, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], positions], strict=True):
        found[begin:end] = permuted(place[begin:end], rows, seed, int(epoch[begin]))
    return found


def cuts_of(rows_G: Numbers, image_bytes: float, *, mixed: bool, round_bytes: int = ROUND_BYTES) -> int:
    """Slices that each row group is cut into: how often it is read in an epoch.

    As many as make a batch of that many sources; one where the files are `mixed` already.
    image_bytes: of an encoded image, the mean.
    """
    groups = max(1, int(np.count_nonzero(rows_G)))
    if mixed:
        return 1
    group_bytes = image_bytes * float(rows_G.sum()) / groups
    wanted = math.ceil(_SOURCES * group_bytes / (SPREAD * round_bytes))
    return max(1, min(wanted, _MOST_CUTS, _MOST_SLICES // groups))


@dataclass(frozen=True)
class Round:
    """Images that are read together."""

    groups: Numbers
    """The row group of each image."""
    numbers: Numbers
    """Each image's place among those of the subset in the order of the files."""
    blocks: Numbers
    """The block of the epoch that the image comes in."""


@dataclass(frozen=True)
class Block:
    """Images in the order of training."""

    epoch: int
    number: int
    """In the epoch."""
    first: int
    """Position of the first image."""
    rounds: Numbers
    groups: Numbers
    numbers: Numbers


class Stream:
    """The order of images that are read from files as they are needed."""

    def __init__(
        self, rows_G: Numbers, *, image_bytes: float, cuts: int, seed: int, round_bytes: int = ROUND_BYTES
    ) -> None:
        """rows_G: images of the subset in each row group, (G,); not all 0. image_bytes: the mean."""
        self.rows = int(rows_G.sum())
        assert self.rows > 0
        self.seed = seed
        self.cuts = cuts
        self.number_G = np.cumsum(rows_G) - rows_G
        """Of the first image of each row group."""
        self._group = np.flatnonzero(rows_G)
        self._rows = rows_G[self._group].astype(np.int64)
        self._slices = len(self._group) * cuts
        slice_bytes = image_bytes * self.rows / self._slices
        self._round_slices = max(1, round(round_bytes / slice_bytes))
        self.rounds = -(-self._slices // self._round_slices)
        """In each epoch."""
        self._begins: dict[int, Numbers] = {}
        self._rounds: dict[tuple[int, int], Round] = {}

    def blocks(self, position: int) -> Iterator[Block]:
        """The block that holds a position, and all that follow, without end."""
        epoch, at = divmod(position, self.rows)
        start = int(np.searchsorted(self._begins_of(epoch), at, side="right")) - 1
        while True:
            begin_T = self._begins_of(epoch)
            for number in range(start, len(begin_T) - 1):
                if begin_T[number] < begin_T[number + 1]:
                    yield self._block(epoch, number)
            epoch, start = epoch + 1, 0

    def round(self, epoch: int, number: int) -> Round:
        """The images that are read together as a round of an epoch."""
        key = (epoch, number)
        if key not in self._rounds:
            while len(self._rounds) > 2 * SPREAD:
                del self._rounds[next(iter(self._rounds))]
            self._rounds[key] = self._worked_out(epoch, number)
        return self._rounds[key]

    def _begins_of(self, epoch: int) -> Numbers:
        """Positions within an epoch at which its blocks begin, and its end."""
        if epoch not in self._begins:
            while len(self._begins) >= _KEPT_EPOCHS:
                del self._begins[next(iter(self._begins))]
            self._begins[epoch] = self._counted_begins(epoch)
        return self._begins[epoch]

    def _counted_begins(self, epoch: int) -> Numbers:
        rows_T = np.zeros(self.rounds + SPREAD - 1, dtype=np.int64)
        rounds = max(1, _CHUNK_SLICES // self._round_slices)
        for start in range(0, self.rounds, rounds):
            ordinal_S = np.arange(start * self._round_slices, min((start + rounds) * self._round_slices, self._slices))
            begin_S, end_S = self._borders(self._slices_at(ordinal_S, epoch))
            rows_S = end_S - begin_S
            begin_R = np.arange(0, len(ordinal_S), self._round_slices)
            for later in range(SPREAD):
                share_S = (later - ordinal_S) % SPREAD
                share_rows_S = (share_S + 1) * rows_S // SPREAD - share_S * rows_S // SPREAD
                rows_T[start + later : start + later + len(begin_R)] += np.add.reduceat(share_rows_S, begin_R)
        return np.concatenate([[0], np.cumsum(rows_T)])

    def _slices_at(self, ordinal_S: Numbers, epoch: int) -> Numbers:
        """Slices by when they are read in an epoch."""
        return permuted(ordinal_S, self._slices, self.seed, "slices", epoch)

    def _borders(self, slice_S: Numbers) -> tuple[Numbers, Numbers]:
        """Where slices begin and end among the rows of their row groups."""
        group, cut = np.divmod(slice_S, self.cuts)
        rows = self._rows[group]
        return cut * rows // self.cuts, (cut + 1) * rows // self.cuts

    def _worked_out(self, epoch: int, number: int) -> Round:
        first = number * self._round_slices
        slice_S = self._slices_at(np.arange(first, min(first + self._round_slices, self._slices)), epoch)
        begin_S, end_S = self._borders(slice_S)
        rows_S = end_S - begin_S
        group, at_S = np.unique(slice_S // self.cuts, return_inverse=True)
        # All rows of these row groups, each group's in this epoch's order.
        within, of = _counted(self._rows[group])
        number_M = self.number_G[self._group[group]][of] + within
        key_M = permuted(number_M, self.rows, self.seed, "members", epoch)
        number_M = number_M[np.lexsort((key_M, of))]
        begin_of_group = np.cumsum(self._rows[group]) - self._rows[group]
        within_N, slice_N = _counted(rows_S)
        # Row m of n in a slice is in its share q with q n // SPREAD <= m < (q + 1) n // SPREAD. Slices take turns at
        # which block their first share goes to, so that a slice of few rows favours no block.
        share_N = ((within_N + 1) * SPREAD - 1) // rows_S[slice_N]
        later_N = (share_N + first + slice_N) % SPREAD
        return Round(
            groups=self._group[group[at_S]][slice_N],
            numbers=number_M[(begin_of_group[at_S] + begin_S)[slice_N] + within_N],
            blocks=number + later_N,
        )

    def _block(self, epoch: int, number: int) -> Block:
        begin_T = self._begins_of(epoch)
        rows = int(begin_T[number + 1] - begin_T[number])
        numbers = range(max(0, number - SPREAD + 1), min(number, self.rounds - 1) + 1)
        round_N, group_N, number_N = [], [], []
        for each in numbers:
            found = self.round(epoch, each)
            here = found.blocks == number
            round_N.append(np.full(np.count_nonzero(here), each, dtype=np.int64))
            group_N.append(found.groups[here])
            number_N.append(found.numbers[here])
        order = permuted(np.arange(rows, dtype=np.int64), rows, self.seed, "block", epoch, number)
        return Block(
            epoch=epoch,
            number=number,
            first=epoch * self.rows + int(begin_T[number]),
            rounds=np.concatenate(round_N)[order],
            groups=np.concatenate(group_N)[order],
            numbers=np.concatenate(number_N)[order],
        )


def _counted(counts: Numbers) -> tuple[Numbers, Numbers]:
    """0, 1, ... within each of several runs of so many, one after the other, and which run it is."""
    of = np.repeat(np.arange(len(counts)), counts)
    return np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts), of
