"""Which images each batch needs, and threads that read their row groups ahead of it; nothing is decoded here.

Of a large set the row groups of a round are read as the stream of `workers/data/order.py` comes near, of a small one
each is read once and kept, and of an evaluation one after the other in the order of the files.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.data.order import ROUND_BYTES, SPREAD, Block, Stream, cuts_of, shuffled_places
from workers.data.sources import Drawn, Encoded, Label, Source, Stored

Numbers = NDArray[np.int64]

_READ_AHEAD = SPREAD / 2
"""Rounds of images that must wait for later blocks, else one more is read: one ahead of the block that needs it."""
_HELD = _READ_AHEAD + 1.5
"""Rounds that wait in a stream at most, that of the block in use included. A set that is no larger is kept from the
first use of each image on, and comes in a true permutation."""
LOCAL_READS, REMOTE_READS = 2, 16
"""Row groups that are read at once. An object store is slow to answer one question, and not to answer many."""


class Image(NamedTuple):
    """An image, as it is stored or as pixels (H, W, C)."""

    row: int
    content: bytes | NDArray[np.uint8]
    label: Label


@dataclass(frozen=True)
class Wanted:
    """The images of a batch before anything is made of them."""

    numbers: Numbers
    """Positions of a training, or places of an evaluation, (B,)."""
    images: Callable[[int, int], Iterable[Image | Encoded]]
    """Those from one place in the batch to before another: to be asked for once. Waits until they are read."""


def reads_of(source: Source) -> int:
    """Row groups that should be read at once."""
    if isinstance(source, Drawn):
        return 1
    location = source.shards.location
    return REMOTE_READS if "://" in location and not location.startswith("file:") else LOCAL_READS


def training(
    source: Source,
    *,
    batch: int,
    seed: int,
    first_step: int,
    steps: int,
    reads: Executor,
    round_bytes: int = ROUND_BYTES,
) -> Iterator[Wanted]:
    """The batches of a training's steps first_step, first_step + 1, ...: what each holds follows from (seed, step)."""
    starts = range(first_step * batch, (first_step + steps) * batch, batch)
    if isinstance(source, Stored) and source.data.rows * source.image_bytes > _HELD * round_bytes:
        return _streamed(source, starts, batch, seed, reads, round_bytes)
    return _permuted(source, starts, batch, seed, reads)


def evaluation(source: Source, place_N: Numbers | None, *, batch: int, reads: Executor) -> Iterator[Wanted]:
    """All images, or those at these places, each once, in the order of the files; the last batch may be short."""
    if isinstance(source, Stored):
        yield from _filed(source, place_N, batch, reads)
        return
    rows = source.data.rows if place_N is None else len(place_N)
    for start in range(0, rows, batch):
        at = np.arange(start, min(start + batch, rows), dtype=np.int64)
        place = at if place_N is None else place_N[at]
        yield Wanted(place, _drawing(source, source.subset.rows_at(place)))


# ------------------------------------------------------------------------------------------------ small sets, no files


def _permuted(source: Source, starts: range, batch: int, seed: int, reads: Executor) -> Iterator[Wanted]:
    read: dict[int, Future[dict[int, Encoded]]] = {}
    for start in starts:
        place = shuffled_places(start, batch, rows=source.data.rows, seed=seed)
        row = source.subset.rows_at(place)
        position = np.arange(start, start + batch, dtype=np.int64)
        if isinstance(source, Drawn):
            yield Wanted(position, _drawing(source, row))
            continue
        groups = source.shards.row_groups.groups_of(row).tolist()
        for group in groups:
            if group not in read:
                read[group] = reads.submit(_members, source, group)
        yield Wanted(position, _kept([(read[group], each) for group, each in zip(groups, row.tolist(), strict=True)]))


def _members(source: Stored, group: int) -> dict[int, Encoded]:
    return {image.row: image for image in source.fetch(group, source.members(group))}


def _drawing(source: Drawn, row_B: Numbers) -> Callable[[int, int], Iterator[Image]]:
    def images(start: int, stop: int) -> Iterator[Image]:
        row = row_B[start:stop]
        image_NHWC, label_N = source.draw(row)
        return map(Image, row.tolist(), image_NHWC, label_N.tolist())

    return images


Read = tuple[Future[dict[int, Encoded]], int]
"""Where an image will be, and under which key."""


def _kept(found: list[Read]) -> Callable[[int, int], Iterator[Encoded]]:
    return lambda start, stop: (read.result()[key] for read, key in found[start:stop])


def _taken(found: list[Read]) -> Callable[[int, int], Iterator[Encoded]]:
    """As `_kept`, and its memory is free afterwards."""
    return lambda start, stop: (read.result().pop(key) for read, key in found[start:stop])


# ---------------------------------------------------------------------------------------------------------- large sets


def _streamed(
    source: Stored, starts: range, batch: int, seed: int, reads: Executor, round_bytes: int
) -> Iterator[Wanted]:
    rows_G, image_bytes = source.rows_of_groups, source.image_bytes
    cuts = cuts_of(rows_G, image_bytes, mixed=source.is_mixed(), round_bytes=round_bytes)
    stream = Stream(rows_G, image_bytes=image_bytes, cuts=cuts, seed=seed, round_bytes=round_bytes)
    if not starts:
        return
    blocks = stream.blocks(starts[0])
    block = next(blocks)
    rounds = _Rounds(source, stream, reads, block)
    found = rounds.images(block)[starts[0] - block.first :]
    for start in starts:
        while len(found) < batch:
            found += rounds.images(next(blocks))
        yield Wanted(np.arange(start, start + batch, dtype=np.int64), _taken(found[:batch]))
        found = found[batch:]


class _Rounds:
    """The rounds of a stream, read in their order, some before the block that first needs them."""

    def __init__(self, source: Stored, stream: Stream, reads: Executor, first: Block) -> None:
        self._source = source
        self._stream = stream
        self._reads = reads
        self._first = first
        self._next = (first.epoch, max(0, first.number - SPREAD + 1))
        self._read: dict[tuple[int, int], dict[int, Future[dict[int, Encoded]]]] = {}
        self._waiting = 0
        self._most = _READ_AHEAD * stream.rows / stream.rounds

    def images(self, block: Block) -> list[Read]:
        """Where the images of a block will be, in their order; blocks must be asked for one after the other."""
        while self._next <= (block.epoch, min(block.number, self._stream.rounds - 1)):
            self._read_next()
        groups = [self._read[block.epoch, number] for number in block.rounds.tolist()]
        images = [
            (each[group], number)
            for each, group, number in zip(groups, block.groups.tolist(), block.numbers.tolist(), strict=True)
        ]
        self._waiting -= len(images)
        for old in [key for key in self._read if key <= (block.epoch, block.number - SPREAD + 1)]:
            del self._read[old]
        while self._waiting < self._most:
            self._read_next()
        return images

    def _read_next(self) -> None:
        epoch, number = self._next
        found = self._stream.round(epoch, number)
        # Blocks before the first are over: a training goes on from here.
        due = (epoch > self._first.epoch) | (found.blocks >= self._first.number)
        order = np.argsort(found.groups[due], kind="stable")
        groups, numbers = found.groups[due][order], found.numbers[due][order]
        begins = np.flatnonzero(np.diff(groups, prepend=-1)).tolist()
        self._read[self._next] = {
            int(groups[begin]): self._reads.submit(self._fetch, int(groups[begin]), numbers[begin:end])
            for begin, end in pairwise([*begins, len(groups)])
        }
        self._waiting += len(groups)
        self._next = (epoch, number + 1) if number + 1 < self._stream.rounds else (epoch + 1, 0)

    def _fetch(self, group: int, numbers: Numbers) -> dict[int, Encoded]:
        row = self._source.members(group)[numbers - self._stream.number_G[group]]
        return dict(zip(numbers.tolist(), self._source.fetch(group, row), strict=True))


# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass
class _Gathered:
    """Images of the batches to come."""

    places: list[int] = field(default_factory=list)
    read: list[Read] = field(default_factory=list)


def _filed(source: Stored, place_N: Numbers | None, batch: int, reads: Executor) -> Iterator[Wanted]:
    gathered = _Gathered()
    for group, row, place in source.by_group(place_N):
        future = reads.submit(_by_row, source, group, row)
        gathered.places += place.tolist()
        gathered.read += [(future, each) for each in row.tolist()]
        while len(gathered.places) >= batch:
            yield _next_batch(gathered, batch)
    if gathered.places:
        yield _next_batch(gathered, batch)


def _by_row(source: Stored, group: int, row: Numbers) -> dict[int, Encoded]:
    return dict(zip(row.tolist(), source.fetch(group, row), strict=True))


def _next_batch(gathered: _Gathered, batch: int) -> Wanted:
    wanted = Wanted(np.array(gathered.places[:batch], dtype=np.int64), _taken(gathered.read[:batch]))
    del gathered.places[:batch], gathered.read[:batch]
    return wanted
