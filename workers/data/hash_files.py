"""The hashes of one shard's images in a Parquet file of their own, which is found again by what the shard holds.

A file has a row for each image, in the shard's order: `digest`, `hash` (null where it says nothing) and `fault`.
"""

from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import NonNegativeInt, PositiveInt

from studies.datasets import Files
from studies.frozen import Digest, Frozen
from studies.manifests import Columns, Shard, digest_of
from workers.data.duplicates import hashed
from workers.data.shards import Shards
from workers.data.storage import write_bytes

REVISION = 1
"""Of what is in these files: another way to hash is another number."""

SCHEMA = pa.schema([("digest", pa.binary(32)), ("hash", pa.uint64()), ("fault", pa.string())])


class HashTask(Frozen):
    """A shard whose images are to be hashed, and where their hashes go."""

    files: Files
    split: str
    fingerprint: Digest | None
    shard: NonNegativeInt
    """Its number in the split."""
    file: str
    """Its name, for messages."""
    target: str

    def __str__(self) -> str:
        """As errors name it."""
        return f"{self.file} in {self.files.location}"


def place_of(folder: Path, shard: Shard, columns: Columns) -> Path:
    """Where the hashes of a shard are. Other bytes have another place, the same bytes in another split have not."""
    name = digest_of({"revision": REVISION, "sha256": shard.sha256, "image": columns.image})
    return folder / name[:2] / f"{name}.parquet"


def is_written(place: Path, rows: int) -> bool:
    """Whether the hashes of a shard of so many rows are there, and whole."""
    try:
        return bool(pq.read_metadata(place).num_rows == rows)
    except (OSError, pa.ArrowException):
        return False


def write_hashes(task: HashTask) -> None:
    """Hash the images of a shard. The file is there whole, or not at all; memory is that of a row group.

    Raises DataError when the shard cannot be read or is not what its index says.
    """
    shards = _opened(task.files, task.split, task.fingerprint)
    tables = []
    for group in np.flatnonzero(shards.row_groups.shard_G == task.shard):
        found = [hashed(bytes(image)) for image in shards.read(int(group)).images]
        columns = [[each.digest for each in found], [each.hash for each in found], [each.fault for each in found]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        tables.append(pa.table(arrays, schema=SCHEMA))
    stream = BytesIO()
    pq.write_table(pa.concat_tables(tables), stream)
    write_bytes(task.target, stream.getvalue())


# A worker process hashes one shard of a split after the other, and a large index takes a while to read.
@lru_cache(maxsize=1)
def _opened(files: Files, split: str, fingerprint: str | None) -> Shards:
    return Shards(files, split, fingerprint)


class HashFile(Frozen):
    """The hashes of a shard, and which rows of the split they are of."""

    place: Path
    first_row: NonNegativeInt
    rows: PositiveInt

    def read(self) -> pa.Table:
        """The columns of the file, and `row`, the numbers of the images in the split."""
        row_N = pa.array(np.arange(self.first_row, self.first_row + self.rows, dtype=np.int64))
        return pq.read_table(self.place, schema=SCHEMA).append_column("row", row_N)
