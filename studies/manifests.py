"""What is known of the files of a data set without opening them: shards, digests and counts, and the name they give.

Only the format: `workers/data/index.py` writes and reads the files of an index.
"""

import hashlib
import json
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from studies.frozen import Digest, Frozen, Listed

FOLDER = "vitscale-index"
"""Where an index is beside its shards, unless the registry names another place."""
FILE = "manifest.json"


class Columns(Frozen):
    """Which columns of the Parquet files hold what."""

    image: str = "image"
    """`struct<bytes: binary, path: string>`, the Hugging Face layout, or plain binary."""
    label: str = "label"
    """Whole numbers, or lists of them for a set of many labels an image."""


class Shard(Frozen):
    """One Parquet file of a split."""

    file: str
    """Path below the data set's location, with forward slashes."""
    rows: PositiveInt
    size_bytes: PositiveInt
    sha256: Digest


class SplitManifest(Frozen):
    """The files of one split, in the order of its rows."""

    shards: Listed[Shard]
    row_groups: Digest
    """Of the arrays that say where each row group lies and what its bytes digest to (`workers/data/index.py`)."""
    labels: Digest | None
    """SHA-256 of the labels of all rows as little-endian int32; None for a set of many labels an image."""
    class_counts: Listed[NonNegativeInt]
    """Images of each class; with many labels an image, each counts."""

    @property
    def rows(self) -> int:
        """Images."""
        return sum(shard.rows for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.size_bytes for shard in self.shards)


class Manifest(Frozen):
    """An index of a data set's files."""

    format: Literal[1] = 1
    columns: Columns = Columns()
    classes: PositiveInt
    class_names: Listed[str] = ()
    """In the order of the labels; none when the files name none."""
    channels: PositiveInt = 3
    image_size: PositiveInt | None = None
    """Side of the images in pixels when all are squares of that size."""
    multi_label: bool = False
    splits: dict[str, SplitManifest]

    def fingerprint(self, split: str) -> str:
        """The name of a split's rows: other bytes, other labels or another order give another name.

        File names and places are no part of it, so a copy elsewhere is the same data.
        """
        found = self.splits[split]
        return digest_of(
            {
                "format": self.format,
                "columns": self.columns.model_dump(),
                "shards": [[shard.rows, shard.size_bytes, shard.sha256] for shard in found.shards],
                "row_groups": found.row_groups,
                "labels": found.labels,
            }
        )


def digest_of(value: Any) -> str:
    """SHA-256 of a value's JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
