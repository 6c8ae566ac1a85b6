"""Goes over the files of hashes of a split, a part at a time, and tells which of its images are in other splits.

`duplicates.py` compares hashes, `hash_files.py` reads them. Memory is that of a part and of the other splits' hashes.
N = images, P = images that were found, Q = images that have a hash.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workers.data.duplicates import Distances, Hashes, Places, nearest, same
from workers.data.hash_files import HashFile

FOUND = pa.schema(
    [
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("distance", pa.int8()),
        ("other_dataset", pa.string()),
        ("other_split", pa.string()),
        ("other_row", pa.int64()),
        ("hash", pa.uint64()),
        ("other_hash", pa.uint64()),
    ]
)
"""A found image a row, each once, with the nearest image of the others. Rows are numbers of the stored splits, and
hashes are null where they say nothing."""

EXACT, NEAR = "exact", "near"
_ROWS_AT_ONCE = 2**20
_SAME_BYTES = -1
"""Nearer than each distance of hashes."""
_FAR = 127


@dataclass(frozen=True)
class Part:
    """Images of a split in memory, without pixels."""

    row_N: Places
    digest_N: pa.Array
    hash_N: Hashes
    """0 where there is none."""
    has_hash_N: NDArray[np.bool_]
    readable_N: NDArray[np.bool_]

    def without(self, row: Places) -> "Part":
        """All but some rows."""
        return self.only(~np.isin(self.row_N, row))

    def only(self, kept_N: NDArray[np.bool_]) -> "Part":
        """The images that a mask tells."""
        digest = self.digest_N.filter(pa.array(kept_N))
        return Part(self.row_N[kept_N], digest, self.hash_N[kept_N], self.has_hash_N[kept_N], self.readable_N[kept_N])


@dataclass(frozen=True)
class Other:
    """A split that is looked through for images of another one."""

    dataset: str
    split: str
    images: Part


def parts(files: Sequence[HashFile], most_rows: int = _ROWS_AT_ONCE) -> Iterator[Part]:
    """The images of a split in order; a part ends with the file that brings it to so many rows."""
    tables: list[pa.Table] = []
    for file in files:
        tables.append(file.read())
        if sum(map(len, tables)) >= most_rows:
            yield _part(pa.concat_tables(tables))
            tables = []
    if tables:
        yield _part(pa.concat_tables(tables))


def all_of(files: Sequence[HashFile]) -> Part:
    """All images of a split at once."""
    return _part(pa.concat_tables([file.read() for file in files]))


def found_in(images: Part, others: Sequence[Other], radius: int) -> tuple[pa.Table, list[int]]:
    """The images that are in others, as FOUND has them, and how many are in each of the others.

    Nearest is what has the same bytes, then what differs by the fewest bits; then the first of the others, and in it
    the first row. An image that cannot be decoded is not looked for.
    """
    nearest_N = np.full(len(images.row_N), _FAR, dtype=np.int8)
    other_N = np.zeros(len(images.row_N), dtype=np.int64)
    place_N = np.zeros(len(images.row_N), dtype=np.int64)
    counts = []
    for number, other in enumerate(others):
        found_N, distance_N = _nearest_of(images, other.images, radius)
        counts.append(int(np.count_nonzero(distance_N < _FAR)))
        nearer_N = distance_N < nearest_N
        nearest_N[nearer_N] = distance_N[nearer_N]
        other_N[nearer_N], place_N[nearer_N] = number, found_N[nearer_N]
    row = np.flatnonzero(nearest_N < _FAR)
    return _table(images, others, row, nearest_N[row], other_N[row], place_N[row]), counts


def _nearest_of(images: Part, other: Part, radius: int) -> tuple[Places, Distances]:
    """For each image the place of the nearest in the other split, and its distance or `_FAR`."""
    distance_N = np.full(len(images.row_N), _FAR, dtype=np.int8)
    place_N = np.zeros(len(images.row_N), dtype=np.int64)
    base = np.flatnonzero(other.has_hash_N)
    query = np.flatnonzero(images.has_hash_N)
    found_Q, bits_Q = nearest(images.hash_N[query], other.hash_N[base], radius)
    near = found_Q >= 0
    distance_N[query[near]] = bits_Q[near]
    place_N[query[near]] = base[found_Q[near]]
    equal_N = same(images.digest_N, other.digest_N)
    exact = np.flatnonzero((equal_N >= 0) & images.readable_N)
    distance_N[exact] = _SAME_BYTES
    place_N[exact] = equal_N[exact]
    return place_N, distance_N


def _table(
    images: Part, others: Sequence[Other], found_P: Places, distance_P: Distances, other_P: Places, place_P: Places
) -> pa.Table:
    other_row_P = np.zeros(len(found_P), dtype=np.int64)
    other_hash_P = np.zeros(len(found_P), dtype=np.uint64)
    has_other_hash_P = np.zeros(len(found_P), dtype=bool)
    for number, other in enumerate(others):
        of_this = other_P == number
        place = place_P[of_this]
        other_row_P[of_this] = other.images.row_N[place]
        other_hash_P[of_this] = other.images.hash_N[place]
        has_other_hash_P[of_this] = other.images.has_hash_N[place]
    columns = [
        images.row_N[found_P],
        np.where(distance_P == _SAME_BYTES, EXACT, NEAR).astype(object),
        np.maximum(distance_P, 0),
        np.array([other.dataset for other in others], dtype=object)[other_P],
        np.array([other.split for other in others], dtype=object)[other_P],
        other_row_P,
        pa.array(images.hash_N[found_P], mask=~images.has_hash_N[found_P]),
        pa.array(other_hash_P, mask=~has_other_hash_P),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, FOUND, strict=True)]
    return pa.table(arrays, schema=FOUND)


def _part(table: pa.Table) -> Part:
    digest = pa.concat_arrays(table["digest"].chunks)
    has_hash = table["hash"].is_valid().to_numpy()
    return Part(
        row_N=table["row"].to_numpy(),
        digest_N=digest,
        hash_N=table["hash"].fill_null(0).to_numpy(),
        has_hash_N=has_hash,
        readable_N=table["fault"].is_null().to_numpy(),
    )
