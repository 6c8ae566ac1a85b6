"""Batches of a training or an evaluation, made by threads ahead of the one that asks: the same bits for any number.

Which images a batch holds is in `workers/data/fetching.py`, what is made of one in `workers/data/views.py`. There are
two kinds of threads: some read row groups, the readers make images of bytes.
B = images of a batch, H, W = pixels, C = channels, K = classes.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from studies.definitions import Data
from workers.data.fetching import Wanted, evaluation, reads_of, training
from workers.data.headers import BadImage
from workers.data.order import ROUND_BYTES
from workers.data.sources import Source, Stored
from workers.data.views import EvalView, TrainView

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.float32]
"""Classes (B,); of a set with many labels an image 1 for each and 0 elsewhere, (B, K), as float32."""

_AHEAD_BYTES = 24 * 2**20
"""Batches that are made ahead need no more together, where that is enough for all readers."""
_MOST_AHEAD = 4
_JOB_IMAGES = 16


class TrainBatch(NamedTuple):
    """Images of a training step."""

    images: Pixels
    """(B, H, W, C). Only until the next batch is asked for: their memory is then used again."""
    labels: Labels
    positions: Numbers
    """In the whole training, through all epochs, (B,)."""


class Batch(NamedTuple):
    """Images of an evaluation."""

    images: Pixels
    """(B, H, W, C). Only until the next batch is asked for: their memory is then used again."""
    labels: Labels
    places: Numbers
    """In the subset, (B,)."""


class TrainLoader:
    """The batches of a training's steps, one after the other. Leaving its `with` block, or `close`, ends its threads.

    For sets that stay in memory, `workers/data/resident.py` is faster.
    """

    def __init__(
        self,
        source: Source,
        view: TrainView,
        *,
        batch: int,
        seed: int,
        first_step: int,
        steps: int,
        readers: int,
        round_bytes: int = ROUND_BYTES,
    ) -> None:
        """steps: how many batches, from that of `first_step` on. readers: threads that make images.

        round_bytes: of the stream of a large set (`workers/data/order.py`); another value is another order.
        """

        def wanted(reads: Executor) -> Iterator[Wanted]:
            return training(
                source,
                batch=batch,
                seed=seed,
                first_step=first_step,
                steps=steps,
                reads=reads,
                round_bytes=round_bytes,
            )

        self._readers = _Readers(source, view, wanted, batch=batch, readers=readers)

    @property
    def waited_seconds(self) -> float:
        """That the caller spent in waiting for batches, all together."""
        return self._readers.waited_seconds

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrainBatch:
        """Raise what happened to a reader as it is: DataError for data that cannot be read."""
        return TrainBatch(*next(self._readers))

    def close(self) -> None:
        """End all threads, however many batches were not asked for."""
        self._readers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def eval_batches(
    source: Source, view: EvalView, batch: int, place_N: Numbers | None = None, *, readers: int
) -> Iterator[Batch]:
    """All images of a source, or those at these places of its subset, each once; the last batch may be short.

    They come in the order of the files, so that each row group is read once: `Batch.places` says which they are.
    Raises DataError for data that cannot be read. Threads end with the iterator.
    """
    made = _Readers(
        source, view, lambda reads: evaluation(source, place_N, batch=batch, reads=reads), batch=batch, readers=readers
    )
    try:
        for images, labels, places in made:
            yield Batch(images, labels, places)
    finally:
        made.close()


class _Readers:
    """Makes batches of what is wanted, some ahead of the caller. All planning is done in the caller's thread."""

    def __init__(
        self,
        source: Source,
        view: TrainView | EvalView,
        wanted: Callable[[Executor], Iterator[Wanted]],
        *,
        batch: int,
        readers: int,
    ) -> None:
        assert readers > 0
        self.waited_seconds = 0.0
        self._source = source
        self._view = view
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        self._reads = ThreadPoolExecutor(reads_of(source), thread_name_prefix="row-groups")
        self._wanted = wanted(self._reads)
        shape = (batch, view.image_size, view.image_size, view.channels)
        # Two jobs for each reader, or more in so far as they need little memory.
        busy = -(-2 * readers * _JOB_IMAGES // batch)
        ahead = max(busy, min(_MOST_AHEAD, _AHEAD_BYTES // math.prod(shape)))
        # One more is in the caller's hands.
        self._free = deque(np.empty(shape, dtype=np.uint8) for _ in range(ahead + 1))
        self._lent: Pixels | None = None
        self._begun: deque[tuple[Wanted, Pixels, Labels, list[Future[None]]]] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Pixels, Labels, Numbers]:
        started = time.perf_counter()
        try:
            if self._lent is not None:
                self._free.append(self._lent)
                self._lent = None
            while self._free and (wanted := next(self._wanted, None)) is not None:
                self._begin(wanted)
            if not self._begun:
                raise StopIteration
            wanted, self._lent, labels, jobs = self._begun.popleft()
            for job in jobs:
                job.result()
        except BaseException:
            self.close()
            raise
        self.waited_seconds += time.perf_counter() - started
        return self._lent[: len(wanted.numbers)], labels, wanted.numbers

    def close(self) -> None:
        self._wanted = iter(())
        self._begun.clear()
        # A reader that waits for a row group hears that it will not come.
        self._reads.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)
        self._reads.shutdown()

    def _begin(self, wanted: Wanted) -> None:
        """Give out the images of a batch."""
        image_BHWC = self._free.popleft()
        rows = len(wanted.numbers)
        labels = _no_labels(self._source.data, rows)
        words_BW = self._view.words(wanted.numbers)
        jobs = [
            self._threads.submit(
                self._make, wanted, words_BW, image_BHWC, labels, start, min(start + _JOB_IMAGES, rows)
            )
            for start in range(0, rows, _JOB_IMAGES)
        ]
        self._begun.append((wanted, image_BHWC, labels, jobs))

    def _make(
        self,
        wanted: Wanted,
        words_BW: NDArray[np.uint64],
        image_BHWC: Pixels,
        labels: Labels,
        start: int,
        stop: int,
    ) -> None:
        """In a thread: write some images of a batch and their labels into their slots."""
        for at, (row, content, label) in enumerate(wanted.images(start, stop), start):
            try:
                self._view.render(content, words_BW[at], image_BHWC[at])
            except BadImage as error:
                assert isinstance(self._source, Stored)
                raise self._source.unreadable(row, error) from error
            if isinstance(label, list):
                labels[at, label] = 1
            else:
                labels[at] = label


def _no_labels(data: Data, images: int) -> Labels:
    if data.multi_label:
        return np.zeros((images, data.classes), dtype=np.float32)
    return np.empty(images, dtype=np.int64)
