"""The images that a run's data names: checked against the run's fingerprint, row by row, or decoded into memory.

In which order a training takes them is in `workers/data/order.py`; `workers/data/loader.py` makes batches of them.
N = images, H, W = pixels, C = channels, K = classes, G = row groups.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from studies.datasets import DataSet, DropList, Leave, Selection
from studies.definitions import Data
from studies.known_sizes import no_images
from studies.procedural import Shapes
from studies.registry import Registry
from studies.subsets import Certificate, Rows, Subset, rows_digest, subset_of
from workers.data.decoding import BadImage, decode
from workers.data.procedural import render
from workers.data.shards import Shards
from workers.supervision import DataError

RESIDENT_BYTES = 2**30
"""Small images that need no more when they are decoded stay in memory."""
RESIDENT_PIXELS = 64
"""Side of a small image."""
_SHARED_BYTES = 2**28
"""A split that needs no more is decoded as a whole, for all the subsets of it that a worker may be asked for."""
_TABLE_ROWS = 2**20
"""Rows of a subset that are kept in a table; those of a larger one are worked out whenever they are needed."""
_CHUNK_ROWS = 2**18
_DRAWN_ROWS = 4096
_MIXED = 0.05
"""Files are mixed when neighbours share a class no more often than this, where 0 is chance and 1 is always."""

Decoded = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, H, W, C) and labels (N,)."""
Label = int | list[int]
"""The class of an image, or all of them in a set with many labels an image."""


class Encoded(NamedTuple):
    """An image as it is stored."""

    row: int
    encoded: bytes
    label: Label


@dataclass(frozen=True)
class Drawn:
    """Images that are generated where they are needed. Threads may share it."""

    data: Data
    subset: Subset
    shapes: Shapes

    @property
    def resident(self) -> bool:
        """Whether all images are to stay in memory."""
        return _is_resident(self.data)

    def certificate(self) -> Certificate:
        """What is read, for two machines to compare."""
        return self.subset.certificate()

    def labels(self) -> NDArray[np.int64]:
        """The label at each place of the subset, (N,). The images are drawn for it."""
        return np.concatenate([label_N for _, label_N in self._chunks()])

    def draw(self, row_N: Rows) -> Decoded:
        """The images of these rows of the split."""
        return render(self.shapes, self.subset.selection.stored, row_N)

    def decoded(self) -> Decoded:
        """All images in the order of their places. Other runs share them: nobody may change them."""
        return _kept(self.data, self._drawn)

    def _drawn(self) -> Decoded:
        image_NHWC, label_N = _empty(self.data)
        start = 0
        for image, label in self._chunks():
            image_NHWC[start : start + len(label)], label_N[start : start + len(label)] = image, label
            start += len(label)
        return image_NHWC, label_N

    def _chunks(self) -> Iterator[Decoded]:
        for row in self.subset.chunks():
            for start in range(0, len(row), _DRAWN_ROWS):
                yield self.draw(row[start : start + _DRAWN_ROWS])


@dataclass(frozen=True)
class Stored:
    """Images in Parquet shards. Threads may share it."""

    data: Data
    subset: Subset
    shards: Shards

    @property
    def resident(self) -> bool:
        """Whether all images are to stay in memory, decoded."""
        return _is_resident(self.data)

    @property
    def image_bytes(self) -> float:
        """Of an encoded image, the mean."""
        return float(self.shards.row_groups.size_G.sum()) / self.shards.rows

    @cached_property
    def rows_of_groups(self) -> Rows:
        """Images of the subset in each row group, (G,)."""
        groups = self.shards.row_groups
        if self._is_whole:
            return groups.rows_G.astype(np.int64)
        counts = np.zeros(len(groups.rows_G), dtype=np.int64)
        for row in self.subset.chunks():
            group, images = np.unique(groups.groups_of(row), return_counts=True)
            counts[group] += images
        return counts

    def certificate(self) -> Certificate:
        """What is read, for two machines to compare."""
        return self.subset.certificate()

    def labels(self) -> NDArray[np.int64]:
        """The label at each place of the subset, (N,), by the index: no shard is touched.

        Raises DataError for a set with many labels an image, and for a label that is no class.
        """
        stored_N = _labels_of(self.shards, self.data)
        label_N = np.concatenate([stored_N[row] for row in self.subset.chunks()]).astype(np.int64)
        (wrong,) = np.nonzero(label_N >= self.data.classes)
        if len(wrong):
            raise self._no_class(int(self.subset.rows_at(wrong[:1])[0]), int(label_N[wrong[0]]))
        return label_N

    def is_mixed(self) -> bool:
        """Whether classes follow each other in the files as if by chance."""
        label_N = self.shards.index.labels(self.shards.split)
        if label_N is None or len(label_N) < 2:
            return False
        by_chance = float(((np.bincount(label_N) / len(label_N)) ** 2).sum())
        found = float(np.mean(label_N[1:] == label_N[:-1]))
        return by_chance < 1 and (found - by_chance) / (1 - by_chance) < _MIXED

    def members(self, group: int) -> Rows:
        """The rows of the subset in a row group, in the order of the file."""
        groups = self.shards.row_groups
        first = int(groups.first_row_G[group])
        row = np.arange(first, first + int(groups.rows_G[group]), dtype=np.int64)
        if self._is_whole:
            return row
        if self._table is not None:
            return self._table[slice(*np.searchsorted(self._table, (first, first + len(row))).tolist())]
        return row[self.subset.places_at(row) >= 0]

    def by_group(self, place_N: Rows | None = None) -> Iterator[tuple[int, Rows, Rows]]:
        """Row groups in the order of the files, and the rows and the places of images in each: of all, or of these."""
        for row, place in self._in_file_order(place_N):
            group = self.shards.row_groups.groups_of(row)
            begins = np.flatnonzero(np.diff(group, prepend=-1))
            for begin, end in zip(begins, [*begins[1:], len(row)], strict=True):
                yield int(group[begin]), row[begin:end], place[begin:end]

    def fetch(self, group: int, row_N: Rows) -> list[Encoded]:
        """Some rows of a row group, in their order.

        Raises DataError as `Shards.read` does, and for a label that is no class.
        """
        found = self.shards.read(group, row_N - self.shards.row_groups.first_row_G[group])
        labels = found.labels if isinstance(found.labels, list) else found.labels.tolist()
        for row, label in zip(row_N.tolist(), labels, strict=True):
            highest = max(label, default=0) if isinstance(label, list) else label
            if highest >= self.data.classes:
                raise self._no_class(row, highest)
        return list(map(Encoded, row_N.tolist(), found.images, labels))

    def unreadable(self, row: int, error: BadImage) -> DataError:
        """What to say of an image that cannot be decoded."""
        return DataError(
            f"{self.shards.named(row)}: the image cannot be decoded ({error}): correct the file, or find all such rows"
            f" with `vitscale data check {self.data.name}` and say `bad_rows: skip`"
        )

    def decoded(self) -> Decoded:
        """All images in the order of their places. Other runs share them: nobody may change them.

        Raises DataError when an image cannot be decoded or has another size than the set, or a label is no class.
        """
        whole = self.subset.selection.rows
        if self.data.per_class is None and whole * _image_bytes(self.data) <= _SHARED_BYTES:
            # A subset is the beginning of every larger one, so it is a part of the whole split, without a copy.
            data = self.data.model_copy(update={"rows": whole})
            everything = Stored(data, Subset(self.subset.selection, data, self.subset.dropped, None), self.shards)
            # An image that cannot be shown is no matter to a run that does not see it.
            with suppress(DataError):
                image_NHWC, label_N = _kept(data, everything._decoded)
                return image_NHWC[: self.data.rows], label_N[: self.data.rows]
        return _kept(self.data, self._decoded)

    def _decoded(self) -> Decoded:
        image_NHWC, label_N = _empty(self.data)
        due = image_NHWC.shape[1:]
        for group, rows, places in self.by_group():
            for place, (row, encoded, label) in zip(places, self.fetch(group, rows), strict=True):
                try:
                    image_HWC = decode(encoded, self.data.channels)
                except BadImage as error:
                    raise self.unreadable(row, error) from error
                if image_HWC.shape != due:
                    raise DataError(
                        f"{self.shards.named(row)}: the image is {image_HWC.shape[1]} x {image_HWC.shape[0]} pixels,"
                        f" and those of {self.data.name} should be {due[1]} x {due[0]}: correct the file, or leave"
                        " `image_size` out of the registry"
                    )
                image_NHWC[place], label_N[place] = image_HWC, label
        return image_NHWC, label_N

    @property
    def _is_whole(self) -> bool:
        return self.data.rows == self.shards.rows

    @cached_property
    def _table(self) -> Rows | None:
        """The rows of the subset in the order of the files, where they are few."""
        # `per_class` has a table anyway, and would sort it for each row group.
        if self.data.rows > _TABLE_ROWS and self.subset.per_class is None:
            return None
        return np.sort(np.concatenate(list(self.subset.chunks())))

    def _in_file_order(self, place_N: Rows | None) -> Iterator[tuple[Rows, Rows]]:
        """Rows and places, a bounded number at a time that ends where a row group does."""
        if place_N is None and self._table is not None:
            place_N = np.arange(self.data.rows, dtype=np.int64)
        if place_N is not None:
            row = self.subset.rows_at(place_N)
            order = np.argsort(row, kind="stable")
            yield row[order], place_N[order]
            return
        end_G = np.cumsum(self.shards.row_groups.rows_G, dtype=np.int64)
        start = 0
        while start < self.shards.rows:
            end = int(end_G[np.searchsorted(end_G, min(start + _CHUNK_ROWS, self.shards.rows))])
            row = np.arange(start, end, dtype=np.int64)
            place = self.subset.places_at(row)
            yield row[place >= 0], place[place >= 0]
            start = end

    def _no_class(self, row: int, label: int) -> DataError:
        return DataError(
            f"{self.shards.named(row)}: the label {label} is none of the {self.data.classes} classes: correct the file,"
            " or `classes` in the registry"
        )


Source = Stored | Drawn


# ---------------------------------------------------------------------------------------------------------- opening


def open_source(data: Data, registry: Registry) -> Source:
    """The images that a run's data names; of files only the index is read.

    Raises DataError when the registry knows no such set or split, or other rows by that name; when it has no images;
    and when its index or a list of rows to leave out is missing or changed.
    """
    data_set, selection = _checked(data, registry)
    if isinstance(data_set.origin, Shapes):
        return Drawn(data, subset_of(selection, data, np.empty(0, dtype=np.int64), None), data_set.origin)
    assert data_set.origin is not None
    shards = Shards(data_set.origin, selection.stored, selection.stored_fingerprint)
    if shards.rows != selection.stored_rows:
        raise DataError(
            f"the {selection.stored} split of {data.name} has {shards.rows:,} rows in its files and"
            f" {selection.stored_rows:,} in the registry: add the data set again"
        )
    label_N = None if data.per_class is None else _labels_of(shards, data).astype(np.int64)
    try:
        return Stored(data, subset_of(selection, data, _dropped(selection, registry, shards.rows), label_N), shards)
    except ValueError as error:
        raise DataError(str(error)) from error


def _checked(data: Data, registry: Registry) -> tuple[DataSet, Selection]:
    """The data set and the split that a run names, if they are what they were when the run was submitted."""
    try:
        data_set = registry.get(data.name)
        selection = data_set.selection(data.split)
    except ValueError as error:
        raise DataError(f"{error}: give this worker the registry with which the study was submitted") from error
    if data_set.origin is None or selection.fingerprint is None or data.fingerprint is None:
        raise DataError(no_images(data.name))
    if selection.fingerprint != data.fingerprint:
        raise DataError(
            f"the run names the {data.split} split of {data.name} by the fingerprint {data.fingerprint[:12]}, and the"
            f" registry by {selection.fingerprint[:12]}: submit the study again, or give the registry with which it was"
            " submitted"
        )
    if data.rows > selection.rows:
        raise DataError(
            f"the {data.split} split of {data.name} has {selection.rows:,} images, not {data.rows:,}: submit the study"
            " again"
        )
    return data_set, selection


def _dropped(selection: Selection, registry: Registry, stored_rows: int) -> Rows:
    """The sorted rows that a selection leaves out."""
    lists = [each for step in selection.steps if isinstance(step, Leave) for each in step.lists]
    row = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *(_rows_in(each, registry) for each in lists)]))
    if len(row) and (row[0] < 0 or row[-1] >= stored_rows or (np.diff(row) == 0).any()):
        raise DataError(
            f"the rows to leave out in {', '.join(each.file for each in lists)} are named twice, or are none of the"
            f" {stored_rows:,} rows of the files: make the lists again"
        )
    return row


def _rows_in(listed: DropList, registry: Registry) -> Rows:
    """The sorted rows of one list."""
    folder = Path() if registry.file is None else registry.file.absolute().parent
    file = folder / listed.file
    try:
        row = np.sort(pq.read_table(file, columns=["row"])["row"].to_numpy().astype(np.int64))
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{file}, rows to leave out, cannot be read ({error}): put the file back") from error
    if rows_digest(row) != listed.digest:
        raise DataError(
            f"{file}, rows to leave out, names other rows than the registry says: put the file back, or make the list"
            " and the study again"
        )
    return row


def _labels_of(shards: Shards, data: Data) -> NDArray[np.int32]:
    """Labels of all rows in the files."""
    label_N = shards.index.labels(shards.split)
    if label_N is None:
        raise DataError(f"images of {data.name} have many labels each, and this needs one: choose another data set")
    return label_N


# ----------------------------------------------------------------------------------------------------------- memory

_KEPT: OrderedDict[Data, Decoded] = OrderedDict()
"""What was decoded last. A worker stays warm across the runs of a study, most of which read the same few splits."""


def _kept(data: Data, decoded: Callable[[], Decoded]) -> Decoded:
    if data not in _KEPT:
        # Make room first, so that memory holds no more than is allowed.
        while _KEPT and sum(image.nbytes for image, _ in _KEPT.values()) + _needed_bytes(data) > RESIDENT_BYTES:
            _KEPT.popitem(last=False)
        _KEPT[data] = decoded()
    _KEPT.move_to_end(data)
    return _KEPT[data]


def _empty(data: Data) -> Decoded:
    assert data.image_size is not None
    shape = (data.rows, data.image_size, data.image_size, data.channels)
    return np.empty(shape, dtype=np.uint8), np.empty(data.rows, dtype=np.int64)


def _is_resident(data: Data) -> bool:
    small = data.image_size is not None and data.image_size <= RESIDENT_PIXELS and not data.multi_label
    return small and _needed_bytes(data) <= RESIDENT_BYTES


def _needed_bytes(data: Data) -> int:
    return data.rows * _image_bytes(data)


def _image_bytes(data: Data) -> int:
    assert data.image_size is not None
    return data.image_size**2 * data.channels
