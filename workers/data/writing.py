"""Writes Parquet shards in the layout that image data sets have on the Hugging Face hub. Which rows, others decide.

A shard has the columns `image: struct<bytes: binary, path: string>` and `label: int64` (or a list of them), class names
in the schema's metadata, and row groups of about equal bytes. The same rows give the same file, byte for byte.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_BYTES = 2 * 1024**2
"""What a reader fetches and verifies at a time: small enough to shuffle over, large enough for an object store."""
SHARD_BYTES = 256 * 1024**2

Label = int | list[int]


class ShardWriter:
    """Writes one shard. Use as a context: a file whose context fails is removed, another is on disk when it ends."""

    def __init__(
        self,
        file: Path,
        class_names: tuple[str, ...] = (),
        *,
        multi_label: bool = False,
        row_group_bytes: int = ROW_GROUP_BYTES,
    ) -> None:
        self.file = file
        self.rows = 0
        self._schema = schema(class_names, multi_label=multi_label)
        self._row_group_bytes = row_group_bytes
        self._waiting: list[tuple[bytes, str | None, Label]] = []
        self._waiting_bytes = 0
        self._stream: Any = None
        self._writer: Any = None

    def __enter__(self) -> "ShardWriter":
        self._stream = self.file.open("wb")
        self._writer = pq.ParquetWriter(
            self._stream,
            self._schema,
            compression="none",  # the images are compressed, and labels are few bytes beside them
            use_dictionary=["label"],
            write_statistics=["label"],
            store_schema=False,  # it would hold the class names once more
        )
        self._writer.add_key_value_metadata(self._schema.metadata)
        return self

    def add(self, encoded: bytes, label: Label, name: str | None = None) -> None:
        """Append a row. name: of the file that the image was in, for people."""
        self._waiting.append((encoded, name, label))
        self._waiting_bytes += len(encoded)
        self.rows += 1
        if self._waiting_bytes >= self._row_group_bytes:
            self._write_row_group()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = False
        try:
            if kind is None:
                self._write_row_group()
                self._writer.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                whole = True
        finally:
            if not whole:
                with suppress(OSError, pa.ArrowException):  # the disk may be full
                    self._writer.close()
                self._writer.is_open = False  # else it tries again when it is collected
                self.file.unlink(missing_ok=True)
            self._stream.close()

    def _write_row_group(self) -> None:
        if not self._waiting:
            return
        encoded, names, labels = zip(*self._waiting, strict=True)
        image = pa.StructArray.from_arrays(
            [pa.array(encoded, pa.binary()), pa.array(names, pa.string())], names=["bytes", "path"]
        )
        label = pa.array(labels, self._schema.field("label").type)
        self._writer.write_table(pa.table([image, label], schema=self._schema))
        self._waiting, self._waiting_bytes = [], 0


def schema(class_names: tuple[str, ...] = (), *, multi_label: bool = False) -> Any:
    """The Arrow schema of a shard, with what `datasets` wants to know of its features."""
    one: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
    if class_names:
        one = {"names": list(class_names), "_type": "ClassLabel"}
    label = {"feature": one, "_type": "List"} if multi_label else one
    features = {"image": {"_type": "Image"}, "label": label}
    return pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.list_(pa.int64()) if multi_label else pa.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
