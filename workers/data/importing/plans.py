"""What an importer finds in a foreign source before it reads an image: one row an image, in order, with its label.

A row says where the bytes of an image are: in `file` (below the source, with forward slashes, or absolute), `at` a byte
or a row, as the format counts. N = rows.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.data.writing import Label
from workers.supervision import DataError

UNSPLIT = ""
"""The split of a source that has none of its own: the user's to name."""

SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)  # fmt: skip
"""Names of files that hold an image."""
HIDDEN = "hidden"
_AT_ONCE = 100_000


class Row(NamedTuple):
    """Where an image is."""

    file: str
    at: int
    size_bytes: int
    """Of an encoded image exactly; of pixels about what it takes."""


class Naming(NamedTuple):
    """How the user names what a source calls otherwise; None is by convention."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Found:
    """All that a source has."""

    splits: dict[str, Any]
    """For each split a `pyarrow.Table` of rows: the fields of Row, `label`, and `name` of the image's file or null."""
    class_names: tuple[str, ...] = ()
    """In the order of the labels; none when the source has numbers only."""
    classes: int = 0
    """Counted from the labels when there are no names and it is 0."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Files that are no part of the data set, by suffix."""

    @property
    def multi_label(self) -> bool:
        """Whether each image has a list of labels."""
        return any(pa.types.is_list(table.schema.field("label").type) for table in self.splits.values())


class Rows:
    """Collects rows; millions of them cost what their text costs."""

    def __init__(self, *, multi_label: bool = False) -> None:
        self._schema = row_schema(multi_label=multi_label)
        self._batches: list[Any] = []
        self._waiting: list[tuple[str, int, int, Label, str | None]] = []

    def add(self, file: str, at: int, size_bytes: int, label: Label, name: str | None = None) -> None:
        """Append a row."""
        self._waiting.append((file, at, size_bytes, label, name))
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def add_array(self, file: str, label_N: NDArray[np.int64], image_bytes: int) -> None:
        """Append all images of an array: row `at` of it, each of so many bytes."""
        self._flush()
        count = len(label_N)
        columns = [
            pa.repeat(file, count),
            pa.array(np.arange(count)),
            pa.repeat(pa.scalar(image_bytes, pa.int64()), count),
            pa.array(label_N.astype(np.int64)),
            pa.nulls(count, pa.string()),
        ]
        self._batches.append(pa.record_batch(columns, schema=self._schema))

    def table(self) -> Any:
        """All rows, as a `pyarrow.Table`."""
        self._flush()
        return pa.Table.from_batches(self._batches, self._schema)

    def _flush(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, self._schema, strict=True)]
            self._batches.append(pa.record_batch(arrays, schema=self._schema))
            self._waiting = []


def row_schema(*, multi_label: bool) -> Any:
    """Of a table of rows."""
    label = pa.list_(pa.int64()) if multi_label else pa.int64()
    return pa.schema(
        [("file", pa.string()), ("at", pa.int64()), ("size_bytes", pa.int64()), ("label", label), ("name", pa.string())]
    )


def rows_in(table: Any) -> Iterator[Row]:
    """The rows of a table."""
    columns = (table[name].to_pylist() for name in Row._fields)
    return (Row(*values) for values in zip(*columns, strict=True))


def split_in(name: str) -> str:
    """The split that a file's name speaks of, UNSPLIT when it speaks of none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD), UNSPLIT)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A sort key: digits count as numbers."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def is_hidden(name: str) -> bool:
    """Whether a file is none of the data set's: hidden by its name, or left by a system."""
    return name.startswith((".", "__MACOSX"))


def named_labels(names: Iterable[str]) -> dict[str, int]:
    """The label of each class name: names are sorted."""
    return {name: label for label, name in enumerate(sorted(set(names)))}


def whole_numbers(values: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Labels as int64 (N,), from (N,) or (N, 1). Raises DataError for anything but whole numbers from 0 on."""
    label_N = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if label_N.ndim != 1 or label_N.dtype.kind not in "iu":
        raise DataError(
            f"the labels of {where} are {values.dtype} of shape {values.shape}: give one whole number an image, as"
            " np.argmax makes of one column a class"
        )
    if len(label_N) and int(label_N.min()) < 0:
        row = int(np.argmax(label_N < 0))
        raise DataError(f"{where}: row {row} has the label {label_N[row]}, and labels are 0, 1, 2 ...: correct it")
    return label_N.astype(np.int64)
