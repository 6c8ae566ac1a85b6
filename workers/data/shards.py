"""Encoded images and labels from the shards of a split, a row group at a time, each verified before it is parsed.

Decoding is in `workers/data/decoding.py`, the order of rows in `workers/data/order.py`. N = rows that are read.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.datasets import Files
from studies.manifests import Shard
from workers.data import parquet
from workers.data.index import Index, RowGroups, read_index
from workers.data.storage import ReadableFile, joined, shown
from workers.supervision import DataError

_OPEN_FILES = 128
_FOOTER_BYTES = 16 << 20
"""Footers that are kept as they lie in the files."""
_PARSED_FOOTERS = 4
"""Footers that are kept parsed: enough for reading in order. A parsed one is thousands of small allocations, ten times
its bytes; with a hundred of them that come and go, what lies free between them grows to hundreds of megabytes."""
_CURE = (
    "put the file back that was indexed, or add the data set again with `vitscale data add`, which gives it another"
    " fingerprint"
)


@dataclass(frozen=True)
class Group:
    """Rows of a row group."""

    first_row: int
    """Of the row group, in rows of the split."""
    images: list[bytes]
    """As they were encoded."""
    labels: parquet.Labels
    """int64 (N,), or a list of labels for each image."""


@dataclass(frozen=True)
class _Opened:
    """A shard whose footer was verified."""

    file: ReadableFile
    footer: bytes


class Shards:
    """The stored rows of a split. Several threads may read at once; memory is the row groups they are reading."""

    def __init__(self, files: Files, split: str, fingerprint: str | None) -> None:
        """Read the index, and no shard yet.

        fingerprint: what the rows must be, by `Manifest.fingerprint`; None takes them as the index has them.
        Raises DataError when the index is missing or damaged, or is of other rows.
        """
        self.location = files.location
        self.split = split
        self.index: Index = read_index(files)
        self.manifest = self.index.split(split)
        found = self.index.manifest.fingerprint(split)
        if fingerprint not in (None, found):
            raise DataError(
                f"the {split} split in {shown(files.location)} has the fingerprint {found[:12]}..., not"
                f" {str(fingerprint)[:12]}...: put back the data that this was written for, or add the data set again"
                " and submit the study again"
            )
        self.row_groups: RowGroups = self.index.row_groups(split)
        self._columns = self.index.manifest.columns
        self._verified_G = np.zeros(len(self.row_groups.rows_G), dtype=np.bool_)
        self._opened: OrderedDict[int, _Opened] = OrderedDict()
        self._parsed: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Of all shards."""
        return self.row_groups.rows

    def group_of(self, row: int) -> int:
        """The row group of a row."""
        return int(self.row_groups.groups_of(np.array(row, dtype=np.int64)))

    def named(self, row: int) -> str:
        """A row as a person finds it: its file, and its number there, from 0."""
        groups = self.row_groups
        shard = int(groups.shard_G[self.group_of(row)])
        return f"{self.manifest.shards[shard].file}, row {row - int(groups.first_row_G[groups.first_group_S[shard]])}"

    def read(self, group: int, only: NDArray[np.int64] | None = None) -> Group:
        """Images and labels of a row group.

        only: numbers of rows within it, in any order: the images of these rows alone are kept.
        The bytes are compared with the index the first time that they are read. Raises DataError, which names file,
        row group and cure, when the shard is missing, truncated or changed, or a row has no image bytes.
        """
        shard, where = self._place(group)
        opened, metadata = self._shard(shard, where)
        groups = self.row_groups
        offset = int(groups.offset_G[group])
        data = _bytes(opened.file, offset, int(groups.size_G[group]), where)
        if not self._verified_G[group]:
            if hashlib.sha256(data).digest() != groups.digest_G[group].tobytes():
                raise DataError(f"{where}: its bytes changed since they were indexed: {_CURE}")
            self._verified_G[group] = True
        stretch = parquet.Stretch(data, offset, opened.file.size_bytes)
        number = group - int(groups.first_group_S[shard])
        labels = parquet.labels_in(metadata, number, stretch, self._columns, where)
        if only is not None:
            labels = [labels[row] for row in only.tolist()] if isinstance(labels, list) else labels[only]
        images = parquet.images_in(metadata, number, stretch, self._columns, only, where)
        return Group(int(groups.first_row_G[group]), images, labels)

    def _place(self, group: int) -> tuple[int, str]:
        """The shard of a row group, and what errors call the row group."""
        shard = int(self.row_groups.shard_G[group])
        file = shown(joined(self.location, self.manifest.shards[shard].file))
        return shard, f"{file}, row group {group - int(self.row_groups.first_group_S[shard])}"

    def _shard(self, shard: int, where: str) -> tuple[_Opened, Any]:
        """A shard's open file, and its parsed footer."""
        with self._lock:
            opened, metadata = self._opened.get(shard), self._parsed.get(shard)
        # Two threads may both open one shard: the second opening takes the place of the first.
        if opened is None:
            opened, metadata = self._open(shard, self.manifest.shards[shard], where)
        elif metadata is None:
            metadata = parquet.parsed_footer(opened.footer, where)
        with self._lock:
            self._opened[shard], self._parsed[shard] = opened, metadata
            self._opened.move_to_end(shard)
            self._parsed.move_to_end(shard)
            while len(self._parsed) > _PARSED_FOOTERS:
                self._parsed.popitem(last=False)
            while len(self._opened) > 1 and (
                len(self._opened) > _OPEN_FILES
                or sum(len(each.footer) for each in self._opened.values()) > _FOOTER_BYTES
            ):
                self._opened.popitem(last=False)
        return opened, metadata

    def _open(self, shard: int, listed: Shard, where: str) -> tuple[_Opened, Any]:
        try:
            file = ReadableFile(joined(self.location, listed.file))
        except FileNotFoundError as error:
            raise DataError(f"{where}: the file is missing: put it back, or correct the location") from error
        except OSError as error:
            raise DataError(f"{where}: the file cannot be read ({error}): make it readable, or try again") from error
        if file.size_bytes != listed.size_bytes:
            kind = "truncated" if file.size_bytes < listed.size_bytes else "another one"
            raise DataError(
                f"{where}: the file has {file.size_bytes:,} bytes and had {listed.size_bytes:,} when it was indexed, so"
                f" it is {kind}: {_CURE}"
            )
        groups = self.row_groups
        footer = _bytes(file, int(groups.footer_offset_S[shard]), int(groups.footer_size_S[shard]), where)
        if hashlib.sha256(footer).digest() != groups.footer_digest_S[shard].tobytes():
            raise DataError(f"{where}: the file's footer changed since it was indexed: {_CURE}")
        metadata = parquet.parsed_footer(footer, where)
        parquet.checked_schema(metadata, self._columns, where)
        # Without the page index before it.
        return _Opened(file, footer[-parquet.footer_size(footer) :]), metadata


def _bytes(file: ReadableFile, offset: int, size_bytes: int, where: str) -> bytes:
    try:
        data = file.read(offset, size_bytes)
    except OSError as error:
        raise DataError(f"{where}: the file cannot be read ({error}): make it readable, or try again") from error
    if len(data) != size_bytes:
        raise DataError(f"{where}: the file became shorter while it was read: {_CURE}")
    return data
