"""Parquet shards of small images for tests, in the layout in which the Hugging Face hub ships them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(number: int, width: int = 20, height: int = 16, format: str = "JPEG", mode: str = "RGB") -> bytes:
    """An image that differs from those of other numbers."""
    y, x = np.mgrid[:height, :width]
    wave = 127 + 120 * np.sin((x * (1 + number % 5) + y * (1 + number % 3)) / 6 + np.arange(3)[:, None, None] + number)
    file = io.BytesIO()
    Image.fromarray(wave.transpose(1, 2, 0).astype(np.uint8)).convert(mode).save(file, format)
    return file.getvalue()


def write_shard(
    file: Path, images: Sequence[bytes | None], labels: Sequence[Any], names: Sequence[str] = (), group: int = 4
) -> None:
    """Write a shard with so many rows in a row group."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": image, "path": f"{row}.jpg"} for row, image in enumerate(images)],
                pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            ),
            "label": pa.array(list(labels)),
        }
    )
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)


def write_split(folder: Path, split: str, shards: int, rows: int, classes: int = 3, **image: Any) -> None:
    """Write shards named as the hub names them, with so many rows each and labels 0, 1, ..., 0, 1, ..."""
    names = [f"class {chr(97 + label)}" for label in range(classes)]
    for shard in range(shards):
        number = range(shard * rows, (shard + 1) * rows)
        write_shard(
            folder / f"{split}-{shard:05}-of-{shards:05}.parquet",
            [encoded(each, **image) for each in number],
            [each % classes for each in number],
            names,
        )
