"""One task of an import: writes one shard of a plan, whole or not at all, and says what is in it.

A plan is a Parquet file of rows (`workers/data/importing/plans.py`) whose row group k is shard k.
"""

import errno
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from studies.manifests import Columns
from workers.data.headers import BadImage
from workers.data.importing.formats import FORMATS
from workers.data.importing.pixels import Uniformity, resized
from workers.data.importing.places import exists, hidden_folder, moved_in
from workers.data.importing.plans import Naming, Row, rows_in
from workers.data.index import SplitIndex, index_shard
from workers.data.storage import joined, opened, read_bytes, shown, write_bytes
from workers.data.writing import ShardWriter
from workers.supervision import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Job:
    """What all tasks of an import share."""

    format: str
    source: str
    naming: Naming
    location: str
    """Where shards go."""
    work: str
    """Where plans and records are."""
    class_names: tuple[str, ...]
    multi_label: bool
    resize: int | None
    """Side in pixels, None for the bytes as they are."""
    skip_bad: bool


@dataclass(frozen=True)
class Task:
    """One shard."""

    split: str
    number: int
    shards: int

    @property
    def file(self) -> str:
        """As files are called on the hub."""
        return f"{self.split}-{self.number:05d}-of-{self.shards:05d}.parquet"

    def __str__(self) -> str:
        return self.file


@dataclass(frozen=True)
class Record:
    """What a task leaves behind of its shard, before the shard itself appears."""

    size_bytes: int
    sha256: str
    """Of the shard; empty when no row was left to write."""
    side: int
    """Of the images in pixels when all are squares of it, else 0."""
    channels: int
    skipped: list[list[str]]
    """File and fault of each image that was left out."""


@dataclass(frozen=True)
class Written:
    """A shard that is in its place."""

    task: Task
    record: Record
    index: SplitIndex | None
    """None when every image was left out, and there is no file."""
    was_there: bool
    """Since an earlier try."""


def plan_file(work: str, split: str) -> str:
    """Where the plan of a split is."""
    return joined(work, f"{split}.plan.parquet")


def write_shard(job: Job, task: Task) -> Written:
    """Write a shard, or find that it is there already as its record says.

    Raises DataError for what cannot be read, for an image that cannot be resized, and when the disk is full.
    """
    if written := _earlier(job, task):
        return written
    if exists(joined(job.location, task.file)) and not exists(_record_file(job, task)):
        raise DataError(
            f"{shown(joined(job.location, task.file))} is there, and not of this import: choose another place with --to"
        )
    try:
        with hidden_folder(job.work) as hidden:
            return _written(job, task, hidden)
    except OSError as error:
        if error.errno in _FULL:
            raise DataError(
                f"there is no room for {task.file} in {shown(job.location)}: make some, and give the same command"
                " again, which goes on from here"
            ) from error
        raise


def _earlier(job: Job, task: Task) -> Written | None:
    """What an earlier try left, when it is whole: all bytes of the shard are read."""
    try:
        record = Record(**json.loads(read_bytes(_record_file(job, task))))
    except (OSError, ValueError, TypeError):
        return None
    if not record.sha256:
        return Written(task, record, None, was_there=True)
    try:
        index = index_shard(job.location, task.file, Columns())
    except DataError:
        return None
    return Written(task, record, index, was_there=True) if index.shards[0].sha256 == record.sha256 else None


def _written(job: Job, task: Task, hidden: Path) -> Written:
    uniformity, skipped = Uniformity(), []
    file = hidden / task.file
    with ShardWriter(file, job.class_names, multi_label=job.multi_label) as writer:
        for row, label, name, encoded in _images(job, task):
            if job.resize is not None:
                try:
                    encoded = resized(encoded, job.resize)
                except BadImage as bad:
                    if not job.skip_bad:
                        raise DataError(
                            f"{_named(row, name)} cannot be resized, {bad}: mend it, leave it out, or add --skip-bad"
                        ) from bad
                    skipped.append([_named(row, name), str(bad)])
                    continue
            uniformity.add(encoded)
            writer.add(encoded, label, name)
    if not writer.rows:
        record = Record(0, "", uniformity.side, uniformity.channels, skipped)
        write_bytes(_record_file(job, task), json.dumps(asdict(record)).encode())
        return Written(task, record, None, was_there=False)
    index = index_shard(str(hidden), task.file, Columns())
    shard = index.shards[0]
    record = Record(shard.size_bytes, shard.sha256, uniformity.side, uniformity.channels, skipped)
    # The record comes first: a shard without one is not ours.
    write_bytes(_record_file(job, task), json.dumps(asdict(record)).encode())
    moved_in(file, joined(job.location, task.file))
    return Written(task, record, index, was_there=False)


def _images(job: Job, task: Task) -> Iterator[tuple[Row, Any, str | None, bytes]]:
    """Row, label, name and bytes of each image of a shard."""
    filesystem, path = opened(plan_file(job.work, task.split))
    with filesystem.open_input_file(path) as stream:
        table = pq.ParquetFile(stream).read_row_group(task.number, use_threads=False)
    rows = list(rows_in(table))
    kind = FORMATS[job.format]
    found = kind.images(kind.root_of(Path(job.source)), rows, job.naming)
    yield from zip(rows, table["label"].to_pylist(), table["name"].to_pylist(), found, strict=True)


def _named(row: Row, name: str | None) -> str:
    """An image, for people."""
    if name is None:
        return f"image {row.at} of {row.file}"
    return row.file if row.file.endswith(name) else f"{name} in {row.file}"


def _record_file(job: Job, task: Task) -> str:
    return joined(job.work, f"{task.file}.json")
