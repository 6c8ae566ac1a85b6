"""Parses a Parquet shard from bytes at hand: its footer, its class names, and images and labels of a row group.

Nothing is read from files here, so what comes out is made of the very bytes that the caller has verified.
G = row groups, N = rows of a row group.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from studies.manifests import Columns
from workers.supervision import DataError

MAGIC = b"PAR1"
_BATCH_ROWS = 64
"""Images that are parsed at a time."""
MOST_CLASSES = 1 << 20
"""A label above is a mistake: an id, a hash."""

Labels = NDArray[np.int64] | list[list[int]]
"""One label an image, or a list of them each."""


class Stretch:
    """A file of which one stretch is at hand, as a parser wants to see it: reading elsewhere is an OSError."""

    def __init__(self, data: bytes, offset: int, file_size: int) -> None:
        self._buffer = pa.py_buffer(data)
        self._offset = offset
        self._file_size = file_size
        self._at = 0
        self.closed = False

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place: whence = 0 from the start, 1 from here, 2 from the end."""
        self._at = offset + (0, self._at, self._file_size)[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def read_buffer(self, size_bytes: int) -> Any:
        """The next bytes, without a copy."""
        start = self._at - self._offset
        if start < 0 or start + size_bytes > self._buffer.size:
            raise OSError(f"it points at bytes {self._at:,} to {self._at + size_bytes:,}, outside of itself")
        self._at += size_bytes
        return self._buffer.slice(start, size_bytes)

    def read(self, size_bytes: int = -1) -> bytes:
        """The next bytes."""
        return bytes(self.read_buffer(size_bytes))

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Nothing is held open."""
        self.closed = True


@dataclass(frozen=True)
class Layout:
    """Where things lie in a shard."""

    rows_G: NDArray[np.int32]
    offset_G: NDArray[np.int64]
    size_G: NDArray[np.int64]
    """Bytes that all column chunks of the row group span."""
    footer_offset: int
    """From here to the end: what is neither a row group nor before one."""


def parsed_footer(footer: bytes, where: str) -> Any:
    """The `pyarrow.parquet.FileMetaData` from the last bytes of a file. Raises DataError when they are no footer."""
    try:
        # The parser reads more than the footer when a file is longer, so it gets a file that is nothing else.
        return pq.read_metadata(pa.BufferReader(MAGIC + footer[-footer_size(footer) :]))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where} is no readable Parquet file ({error}): write it again") from error


def footer_size(tail: bytes) -> int:
    """Bytes of the footer that a file's last bytes tell of, these included.

    Raises ValueError when they are not the end of a Parquet file.
    """
    if len(tail) < 8 or tail[-4:] != MAGIC:
        raise ValueError(f"it does not end with {MAGIC.decode()}")
    return int.from_bytes(tail[-8:-4], "little") + 8


def layout_of(metadata: Any, file_size: int, where: str) -> Layout:
    """Where the row groups of a file lie. Raises DataError when they overlap or lie outside of it."""
    extents = [_extent(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
    rows_G = np.array([metadata.row_group(group).num_rows for group in range(len(extents))], dtype=np.int32)
    offset_G = np.array([start for start, _ in extents], dtype=np.int64)
    stop_G = np.array([stop for _, stop in extents], dtype=np.int64)
    borders = np.concatenate([[len(MAGIC)], np.stack([offset_G, stop_G], axis=1).reshape(-1), [file_size - 8]])
    if (np.diff(borders) < 0).any():
        raise DataError(f"{where} has row groups that lie across each other: write it again")
    return Layout(rows_G, offset_G, stop_G - offset_G, int(borders[-2]))


def column_extent(metadata: Any, group: int, column: str) -> tuple[int, int]:
    """Where the bytes of a column start and stop in the file, for one row group; nested columns included."""
    return _extent(metadata.row_group(group), column)


def checked_schema(metadata: Any, columns: Columns, where: str) -> Any:
    """The Arrow schema of a file. Raises DataError when a column is missing, or holds no images or labels."""
    schema = metadata.schema.to_arrow_schema()
    for column in (columns.image, columns.label):
        if column not in schema.names:
            raise DataError(
                f"{where} has no column '{column}' among {', '.join(schema.names)}: name the columns of images and"
                " labels with `--image` and `--label`"
            )
    image, label = _plain(schema.field(columns.image).type), _plain(schema.field(columns.label).type)
    if not _is_binary(image) and not (
        pa.types.is_struct(image)
        and image.get_field_index("bytes") >= 0
        and _is_binary(_plain(image.field("bytes").type))
    ):
        raise DataError(
            f"{where}: the column '{columns.image}' holds {image} and not encoded images: write them as"
            " `struct<bytes: binary, path: string>` or as binary"
        )
    if not pa.types.is_integer(_plain(label.value_type) if _is_list(label) else label):
        raise DataError(
            f"{where}: the column '{columns.label}' holds {label} and not labels: write whole numbers 0, 1, ..., or"
            " lists of them"
        )
    return schema


def has_label_lists(schema: Any, columns: Columns) -> bool:
    """Whether each image has a list of labels."""
    return bool(_is_list(_plain(schema.field(columns.label).type)))


def class_names(schema: Any, columns: Columns) -> tuple[str, ...]:
    """The names that the Hugging Face hub's metadata give to labels, none where there are none."""
    try:
        feature: Any = json.loads(schema.metadata[b"huggingface"])["info"]["features"][columns.label]
        while "names" not in feature:
            # A list of labels was written as [feature], as Sequence and as List, one after the other.
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        return tuple(str(name) for name in feature["names"])
    except (KeyError, IndexError, TypeError, ValueError):
        return ()


def labels_in(metadata: Any, group: int, stretch: Stretch, columns: Columns, where: str) -> Labels:
    """Labels of a row group: int64 (N,), or a list for each row.

    stretch: holds the label column of the row group at least.
    Raises DataError for a row without a label, and for a label that is no class number.
    """
    try:
        file = pq.ParquetFile(stretch, metadata=metadata, pre_buffer=False)
        column = file.read_row_group(group, columns=[columns.label], use_threads=False)[columns.label]
    except (pa.ArrowException, OSError) as error:
        raise _unparsable(where, error) from error
    return _labels(column, columns, where)


def images_in(
    metadata: Any, group: int, stretch: Stretch, columns: Columns, only: NDArray[np.int64] | None, where: str
) -> list[bytes]:
    """Encoded images of a row group, or of its rows `only`, in the order in which these are given.

    An image without bytes is an empty one, which no decoder takes: a bad row among others. Raises DataError for what
    cannot be parsed, and where no image of many has bytes, as in a file of paths.
    """
    # Rows that are not wanted take no memory for longer than one batch of them.
    wanted = None if only is None else set(only.tolist())
    images: dict[int, bytes] = {}
    row = 0
    for column in _image_batches(metadata, group, stretch, columns, where):
        if column.null_count == len(column):
            raise DataError(
                f"{where}: row {row} of the row group holds no bytes in '{columns.image}': write the images into the"
                " file, not their paths"
            )
        if column.null_count:
            column = column.fill_null(b"")
        if wanted is None:
            images.update(enumerate(column.to_pylist(), row))
        else:
            for number in wanted.intersection(range(row, row + len(column))):
                images[number] = column[number - row].as_py()
        row += len(column)
    return list(images.values()) if only is None else [images[number] for number in only.tolist()]


def _image_batches(metadata: Any, group: int, stretch: Stretch, columns: Columns, where: str) -> Iterator[Any]:
    """The encoded images of a row group, some rows at a time."""
    nested = pa.types.is_struct(metadata.schema.to_arrow_schema().field(columns.image).type)
    # Of the struct, the path is not read: it is there for people.
    leaf = f"{columns.image}.bytes" if nested else columns.image
    try:
        file = pq.ParquetFile(stretch, metadata=metadata, pre_buffer=False)
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False):
            column = batch.column(0)
            yield _decoded(pc.struct_field(column, "bytes") if nested else column)
    except (pa.ArrowException, OSError) as error:
        raise _unparsable(where, error) from error


def _unparsable(where: str, error: Exception) -> DataError:
    return DataError(f"{where} cannot be parsed ({error}): write the file again")


def _labels(column: Any, columns: Columns, where: str) -> Labels:
    values = _decoded(column)
    if values.null_count:
        raise DataError(
            f"{where}: row {_first_null(values)} of the row group has no label in '{columns.label}': leave the file out"
            " or label its rows"
        )
    if not _is_list(values.type):
        label_N = _numbers(values)
        _check_range(label_N, np.arange(len(label_N)), columns, where)
        return label_N
    lengths = pc.list_value_length(values).to_numpy().astype(np.int64)
    flat = _decoded(pc.list_flatten(values))
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    if flat.null_count:
        raise DataError(
            f"{where}: row {row_of[_first_null(flat)]} of the row group has an empty place among its labels: write the"
            " labels again"
        )
    number = _numbers(flat)
    _check_range(number, row_of, columns, where)
    stops = np.cumsum(lengths)
    return [number[stop - length : stop].tolist() for stop, length in zip(stops, lengths, strict=True)]


def _check_range(label: NDArray[np.int64], row_of: NDArray[np.int64], columns: Columns, where: str) -> None:
    wrong = np.flatnonzero((label < 0) | (label >= MOST_CLASSES))
    if len(wrong):
        raise DataError(
            f"{where}: row {row_of[wrong[0]]} of the row group has the label {label[wrong[0]]} in '{columns.label}',"
            " and labels are 0, 1, 2 ...: leave a split out whose labels the authors keep to themselves, or correct it"
        )


def _numbers(values: Any) -> NDArray[np.int64]:
    """Whole numbers as int64; those above its range, which only uint64 has, become the first that is no label."""
    if values.type == pa.uint64():
        values = pc.min_element_wise(values, pa.scalar(MOST_CLASSES, pa.uint64()))
    return np.asarray(values.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _decoded(column: Any) -> Any:
    """A column without its dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_list(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _first_null(column: Any) -> int:
    return int(pc.index(pc.is_null(column), True).as_py())


def _extent(row_group: Any, column: str | None = None) -> tuple[int, int]:
    """Where the column chunks of a row group start and stop in the file."""
    starts, stops = [], []
    for number in range(row_group.num_columns):
        chunk = row_group.column(number)
        if column is not None and chunk.path_in_schema != column and not chunk.path_in_schema.startswith(f"{column}."):
            continue
        start = chunk.data_page_offset
        # Some writers give 0 where there is no dictionary.
        if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        starts.append(start)
        stops.append(start + chunk.total_compressed_size)
    return min(starts), max(stops)
