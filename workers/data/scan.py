"""One pass over the bytes of a shard: digests of its row groups, its footer and all of it, and its labels.

What this becomes on disk is in `workers/data/index.py`. G = row groups, N = rows, K = classes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from studies.manifests import Columns
from workers.data import parquet
from workers.data.storage import ReadableFile
from workers.supervision import DataError

_PIECE_BYTES = 256 << 10
"""Hashed twice while it is in the cache."""
_FETCH_BYTES = 8 << 20
"""Read at a time: an object store answers each read after some hundredths of a second."""
_TAIL_BYTES = 64 << 10
"""Most footers are shorter."""


@dataclass(frozen=True)
class Scanned:
    """What one pass over a shard finds."""

    layout: parquet.Layout
    digests: list[bytes]
    """SHA-256 of the bytes of each row group."""
    footer_digest: bytes
    sha256: str
    """Of the file."""
    label_N: NDArray[np.int32] | None
    """None when each image has a list of labels."""
    count_K: NDArray[np.int64]
    """Images of each class, up to the last class that has any."""
    class_names: tuple[str, ...]


def scanned(source: ReadableFile, columns: Columns, file: str) -> Scanned:
    """Read a shard once; memory is one piece of it, its labels and its footer.

    file: what errors call it.
    Raises OSError when it cannot be read, and DataError when it is no Parquet file, has no row, or lacks the columns,
    for a row without a label, and for a label that is no class number.
    """
    metadata = parquet.parsed_footer(_footer(source, file), file)
    schema = parquet.checked_schema(metadata, columns, file)
    if not metadata.num_rows:
        raise DataError(f"{file} has no rows: leave it out")
    layout = parquet.layout_of(metadata, source.size_bytes, file)
    reading = _Pass(source, file)
    digests = []
    labels: list[parquet.Labels] = []
    for group, (offset, size) in enumerate(zip(layout.offset_G.tolist(), layout.size_G.tolist(), strict=True)):
        reading.section(offset)
        label_start, label_stop = parquet.column_extent(metadata, group, columns.label)
        digest, label_bytes = reading.section(offset + size, label_start, label_stop)
        digests.append(digest)
        stretch = parquet.Stretch(label_bytes, label_start, source.size_bytes)
        labels.append(parquet.labels_in(metadata, group, stretch, columns, f"{file}, row group {group}"))
    reading.section(layout.footer_offset)
    footer_digest, _ = reading.section(source.size_bytes)
    names = parquet.class_names(schema, columns)
    label_N, count_K = _joined_labels(labels)
    if names and len(count_K) > len(names):
        raise DataError(f"{file} has the label {len(count_K) - 1}, and names {len(names)} classes: correct its labels")
    return Scanned(layout, digests, footer_digest, reading.whole.hexdigest(), label_N, count_K, names)


class _Pass:
    """Goes over a file from its start to its end, and hashes what it passes."""

    def __init__(self, source: ReadableFile, file: str) -> None:
        self.whole = hashlib.sha256()
        self._source = source
        self._file = file
        self._at = 0
        self._fetched = memoryview(b"")

    def section(self, stop: int, keep_start: int = 0, keep_stop: int = 0) -> tuple[bytes, bytes]:
        """The SHA-256 of the bytes from here to a place, and those in [keep_start, keep_stop)."""
        digest = hashlib.sha256()
        kept = bytearray()
        while self._at < stop:
            piece = self._next(stop)
            digest.update(piece)
            self.whole.update(piece)
            kept += piece[max(keep_start - self._at, 0) : max(keep_stop - self._at, 0)]
            self._at += len(piece)
        return digest.digest(), bytes(kept)

    def _next(self, stop: int) -> memoryview:
        if not self._fetched:
            size = min(_FETCH_BYTES, self._source.size_bytes - self._at)
            self._fetched = memoryview(self._source.read(self._at, size))
            if not self._fetched:
                raise DataError(f"{self._file} became shorter while it was read: index it when nobody writes to it")
        size = min(_PIECE_BYTES, stop - self._at)
        piece, self._fetched = self._fetched[:size], self._fetched[size:]
        return piece


def _footer(source: ReadableFile, file: str) -> bytes:
    """The last bytes of a file, which hold its footer."""
    tail = source.read(max(0, source.size_bytes - _TAIL_BYTES), _TAIL_BYTES)
    try:
        size = parquet.footer_size(tail)
    except ValueError as error:
        raise DataError(f"{file} is no Parquet file, or a part of one ({error}): write it again") from error
    if len(tail) < size <= source.size_bytes:
        tail = source.read(source.size_bytes - size, size)
    return tail


def _joined_labels(labels: Sequence[parquet.Labels]) -> tuple[NDArray[np.int32] | None, NDArray[np.int64]]:
    """Labels of all rows, when each has one, and how many each class has."""
    parts = [list(chain.from_iterable(part)) if isinstance(part, list) else part for part in labels]
    label_N = np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
    return None if isinstance(labels[0], list) else label_N, np.bincount(label_N).astype(np.int64)
