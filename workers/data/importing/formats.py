"""The foreign formats by name, and which of them a source is in."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.data.importing import arrays, cifar, folders, idx, lists, parquet_shards, webdataset
from workers.data.importing.plans import Found, Naming, Row


@dataclass(frozen=True)
class Format:
    """What a format's module offers."""

    recognized: Callable[[Path], bool]
    find: Callable[[Path, Naming], Found]
    root_of: Callable[[Path], Path]
    images: Callable[[Path, Iterable[Row], Naming], Iterator[bytes]]


FORMATS = {
    "csv": Format(lists.recognized, lists.find, lists.root_of, lists.images),
    "cifar": Format(cifar.recognized, cifar.find, cifar.root_of, cifar.images),
    "idx": Format(idx.recognized, idx.find, idx.root_of, idx.images),
    "arrays": Format(arrays.recognized, arrays.find, arrays.root_of, arrays.images),
    "webdataset": Format(webdataset.recognized, webdataset.find, webdataset.root_of, webdataset.images),
    "parquet": Format(parquet_shards.recognized, parquet_shards.find, parquet_shards.root_of, parquet_shards.images),
    "folders": Format(folders.recognized, folders.find, folders.root_of, folders.images),
}
"""In the order in which they are tried: almost any folder could be a tree of classes."""


def detected(source: Path) -> str:
    """The name of the format of a source. Raises ValueError when it is none of ours, or is not there."""
    if not source.exists():
        raise ValueError(f"there is no {source}: correct the path")
    for name, each in FORMATS.items():
        if each.recognized(source):
            return name
    raise ValueError(
        f"{source} is in none of the formats {', '.join(FORMATS)} as far as can be seen: give the folder above the"
        " class folders, or the file itself, and name the format with --format"
    )
