"""Finds and reads images in Parquet files, to write them again with other row groups, shards or columns."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from studies.manifests import Columns
from workers.data import parquet
from workers.data.importing.plans import Found, Naming, Row, is_hidden, natural, row_schema, split_in
from workers.supervision import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_ROWS_AT_ONCE = 16
"""Of a row group, which may hold all of a file."""


def recognized(source: Path) -> bool:
    """Whether it is a Parquet file, or a folder with some."""
    return bool(_files(source))


def find(source: Path, naming: Naming) -> Found:
    """All rows of all files, in splits by what the files or their folders are called.

    Raises DataError for a file without such columns, a row without a label, and files that name classes otherwise.
    """
    root, names = root_of(source), set()
    splits: dict[str, list[Any]] = {}
    for file in _files(source):
        place = root / file
        try:
            with pq.ParquetFile(place, pre_buffer=False) as opened:
                columns = _columns(opened.schema_arrow.names, naming)
                schema = parquet.checked_schema(opened.metadata, columns, str(place))
                names.add(parquet.class_names(schema, columns))
                splits.setdefault(split_in(file), []).append(_rows(opened, columns, schema, file, place))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{place} is no readable Parquet file ({error}): write it again") from error
    if len(names) != 1:
        raise DataError(f"the files of {source} name their classes otherwise: import them one after the other")
    try:
        tables = {split: pa.concat_tables(parts) for split, parts in splits.items()}
    except pa.ArrowException as error:
        raise DataError(
            f"some files of {source} have one label an image and some have lists: import them apart"
        ) from error
    return Found(tables, names.pop())


def root_of(source: Path) -> Path:
    """What rows name files in."""
    return source if source.is_dir() else source.parent


def images(root: Path, rows: Iterable[Row], naming: Naming) -> Iterator[bytes]:
    """The bytes of each image. Raises DataError for a row that holds none."""
    for name, those in groupby(rows, key=lambda row: row.file):
        place, wanted = root / name, [row.at for row in those]
        try:
            yield from _images(place, wanted[0], wanted[-1] + 1, naming)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{place} cannot be read ({error}): put it back as it was") from error


def _images(place: Path, start: int, stop: int, naming: Naming) -> Iterator[bytes]:
    """Images of the rows [start, stop) of a file."""
    with pq.ParquetFile(place, pre_buffer=False) as opened:
        column = _columns(opened.schema_arrow.names, naming).image
        at = 0
        for group in range(opened.metadata.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if at + rows <= start or at >= stop:
                at += rows
                continue
            for batch in opened.iter_batches(_ROWS_AT_ONCE, [group], columns=[column], use_threads=False):
                first, last = max(start - at, 0), min(stop - at, len(batch))
                if first < last:
                    yield from _bytes(batch.column(0).slice(first, last - first), place, at + first)
                at += len(batch)


def _columns(names: list[str], naming: Naming) -> Columns:
    """Columns of images and labels: those that were named, else usual ones."""

    def one(given: str | None, usual: tuple[str, ...]) -> str:
        return given or next((name for name in usual if name in names), usual[0])

    return Columns(image=one(naming.image, IMAGE_COLUMNS), label=one(naming.label, LABEL_COLUMNS))


def _files(source: Path) -> list[str]:
    if source.is_file():
        return [source.name] if source.suffix == ".parquet" else []
    found = (file.relative_to(source).as_posix() for file in source.rglob("*.parquet")) if source.is_dir() else ()
    return sorted((file for file in found if not any(map(is_hidden, file.split("/")))), key=natural)


def _bytes(column: Any, place: Path, at: int) -> list[bytes]:
    image = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if image.null_count:
        row = at + pc.index(pc.is_null(image), True).as_py()
        raise DataError(f"{place}: row {row} holds no bytes: write the images into the file, not their paths")
    found: list[bytes] = image.to_pylist()
    return found


def _rows(opened: Any, columns: Columns, schema: Any, file: str, place: Path) -> Any:
    """The table of rows of a file."""
    metadata = opened.metadata
    nested = pa.types.is_struct(schema.field(columns.image).type)
    has_path = nested and schema.field(columns.image).type.get_field_index("path") >= 0
    wanted = [columns.label, *([f"{columns.image}.path"] if has_path else [])]
    table = opened.read(columns=wanted, use_threads=False)
    label = table[columns.label].combine_chunks()
    is_list = parquet.has_label_lists(schema, columns)
    flat = pc.list_flatten(label) if is_list else label
    if label.null_count or flat.null_count or (len(flat) and pc.min(flat).as_py() < 0):
        raise DataError(f"{place} has rows without a label, or with one below 0: leave a split out that has no labels")
    sizes = [
        max(metadata.row_group(group).total_byte_size // max(metadata.row_group(group).num_rows, 1), 1)
        for group in range(metadata.num_row_groups)
        for _ in range(metadata.row_group(group).num_rows)
    ]
    count = metadata.num_rows
    path = pc.struct_field(table[columns.image], "path").combine_chunks() if has_path else pa.nulls(count, pa.string())
    fields = [pa.repeat(file, count), pa.array(range(count), pa.int64()), pa.array(sizes, pa.int64()), label, path]
    due = row_schema(multi_label=is_list)
    return pa.table([pa.array(each).cast(kind.type) for each, kind in zip(fields, due, strict=True)], schema=due)
