"""Adds a data set to the registry from Parquet shards as they lie: tells splits, indexes the shards, looks at sizes."""

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.data_jobs import spread
from orchestrator.data_registry import add_data_set
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.datasets import Files
from studies.manifests import Columns, Manifest, digest_of
from studies.registry import check_name, load_registry
from workers.data.checking import has_size, pieces_of, sample
from workers.data.index import (
    SplitIndex,
    index_shard,
    joined_split,
    manifest_of,
    packed,
    read_index,
    unpacked,
    write_index,
)
from workers.data.shards import Shards
from workers.data.storage import listed, shown, write_bytes
from workers.supervision import DataError

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""What files and folders call splits, and our names for these."""
_NUMBERED = re.compile(r"(?P<split>[A-Za-z0-9_.]+?)-(?P<number>\d{5})-of-(?P<files>\d{5})(?:-[0-9a-f]{16})?")
"""A file of the hub, without its ending: `train-00000-of-00294`, in older sets with a digest behind."""
_SAMPLE = 256
"""Images whose sizes and channels say whether looking at all of them is worth while."""


def add(
    settings: Settings,
    name: str,
    location: str,
    *,
    patterns: Mapping[str, str] | None = None,
    columns: Columns | None = None,
    index: str | None = None,
    source: str = "",
    development: str | None = None,
    replace: bool = False,
    cpus: int | None = None,
) -> dict[str, Any]:
    """Index the Parquet shards at a location, and register them under a name.

    location, index: an absolute folder or a URI. The index is written beside the shards unless `index` names a place.
    patterns: the files of each split, as `train-*.parquet`; else names of files and folders tell, as the hub's do.
    replace: take the place of the data set that has the name, whose entry is gone then.
    A second call goes on where a first one was stopped. The result has the fields of the new entry.
    Raises ValueError for a name that is taken and for files whose split nobody can tell, and DataError for shards that
    cannot be used and for an index that cannot be written.
    """
    check_name(name)
    registry_path = settings.datasets
    if load_registry(registry_path).own(name) is not None and not replace:
        raise ValueError(f"'{name}' is a data set of {registry_path} already: choose another name, or say --replace")
    columns = columns or Columns()
    files = matching(location, patterns) if patterns else told_splits(location)
    place = Files(location=location, index=index)
    _check_nobody_elses(place, files, columns)
    work = settings.folder / "indexing" / digest_of([location, columns.model_dump()])[:16]
    parts = _indexed(work, location, files, columns, cpus)
    manifest = manifest_of(parts, columns, channels=3, image_size=None)
    _write(place, manifest, parts)
    manifest = _looked_at(place, manifest, cpus)
    _write(place, manifest, {})
    entry = _entry(place, manifest, source, development)
    add_data_set(registry_path, name, entry, replace=replace)
    shutil.rmtree(work, ignore_errors=True)
    return {"name": name, "registry": str(registry_path), "index": place.index_location, **entry}


def _check_nobody_elses(place: Files, files: Mapping[str, Sequence[str]], columns: Columns) -> None:
    """Raise ValueError for an index of other columns or files, which ours would make unreadable for its data set."""
    try:
        there = read_index(place).manifest
    except DataError:
        return  # none, or one that nobody can use
    same = {split: [shard.file for shard in found.shards] for split, found in there.splits.items()} == dict(files)
    if there.columns != columns or not same:
        raise ValueError(
            f"{shown(place.index_location)} is the index of other columns or splits, which a data set may use: name"
            " another place with --index, or remove it"
        )


def _entry(place: Files, manifest: Manifest, source: str, development: str | None) -> dict[str, Any]:
    """The fields of `studies.registry.FilesEntry`."""
    return {
        "location": place.location,
        "index": place.index,
        "classes": manifest.classes,
        "channels": manifest.channels,
        "image_size": manifest.image_size,
        "multi_label": manifest.multi_label or None,
        "source": source or None,
        "development": development,
        "splits": {
            split: {
                "rows": found.rows,
                "fingerprint": manifest.fingerprint(split),
                **({} if manifest.multi_label else {"fewest": min(found.class_counts)}),
            }
            for split, found in manifest.splits.items()
        },
    }


# ------------------------------------------------------------------------------------------------------------ splits


def matching(location: str, patterns: Mapping[str, str]) -> dict[str, list[str]]:
    """The files of each split by its pattern. Raises ValueError when one has none, or two splits share one."""
    files: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}
    for split, pattern in patterns.items():
        check_name(split)
        files[split] = listed(location, pattern)
        if not files[split]:
            raise ValueError(f"no file below {shown(location)} matches '{pattern}': correct --split {split}={pattern}")
        for file in files[split]:
            if file in split_of:
                raise ValueError(f"{file} would be in the splits {split_of[file]} and {split}: correct their --split")
            split_of[file] = split
    return files


def told_splits(location: str) -> dict[str, list[str]]:
    """The Parquet files of each split below a location, as the names of files or of their folders tell it.

    Raises ValueError when there is no file, when a name tells nothing, and when a numbered file is missing or is there
    twice; DataError when there is no such folder.
    """
    files, where = listed(location, "**/*.parquet"), shown(location)
    if not files:
        raise ValueError(f"there is no .parquet file below {where}: correct the location, or use vitscale data import")
    cure = "name the files of each split, as in --split 'train=train-*.parquet'"
    splits: dict[str, list[str]] = {}
    numbers: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        path = Path(file)
        numbered = _NUMBERED.fullmatch(path.stem)
        if numbered:
            split: str | None = _SPLITS.get(numbered["split"].lower(), numbered["split"].lower())
            numbers.setdefault(str(split), []).append((int(numbered["number"]), int(numbered["files"])))
        else:
            split = _split_in(path.parent.name) or _split_in(path.stem)
        if split is None:
            raise ValueError(f"no split can be told from the name {file} in {where}: {cure}")
        splits.setdefault(split, []).append(file)
    for split, found in numbers.items():
        _check_numbers(split, found, where, cure)
    order = [*dict.fromkeys(_SPLITS.values())]
    return dict(sorted(splits.items(), key=lambda item: (order.index(item[0]) if item[0] in order else 9, item[0])))


def _split_in(name: str) -> str | None:
    """The split that the first word of a name tells."""
    return _SPLITS.get(re.split(r"[-_.\s]", name.lower())[0])


def _check_numbers(split: str, found: Sequence[tuple[int, int]], where: str, cure: str) -> None:
    """Raise ValueError unless the files are 0 of n to n - 1 of n, each once."""
    totals = {total for _, total in found}
    numbers = [number for number, _ in found]
    if len(totals) > 1 or len(set(numbers)) < len(numbers):
        raise ValueError(f"more than one set of files in {where} is called {split}: {cure}")
    missing = sorted(set(range(totals.pop())) - set(numbers))
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(missing) + len(found):,} files of the {split} split are missing in {where},"
            f" number {missing[0]:05} first: get them, or {cure}"
        )


# ---------------------------------------------------------------------------------------------------------- indexing


def _indexed(
    work: Path, location: str, files: Mapping[str, Sequence[str]], columns: Columns, cpus: int | None
) -> dict[str, SplitIndex]:
    """The index of each split. What a call that was stopped has left in the folder `work` is not read again."""
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, SplitIndex] = {}
    everything = [file for each in files.values() for file in each]
    for file in everything:
        record = _record(work, file)
        if record.exists():
            found[file] = unpacked(record.read_bytes())
    if found:
        say(f"{len(found):,} of {len(everything):,} shards were indexed by a command that was stopped")
    left = [file for file in everything if file not in found]
    with closing(spread(partial(_packed_index, location, columns), left, cpus=cpus, label="indexing")) as done:
        for file, data in done:
            write_bytes(str(_record(work, file)), data)
            found[file] = unpacked(data)
    return {split: joined_split([found[file] for file in each]) for split, each in files.items()}


def _packed_index(location: str, columns: Columns, file: str) -> bytes:
    return packed(index_shard(location, file, columns))


def _record(work: Path, file: str) -> Path:
    return work / f"{digest_of(file)[:32]}.npz"


def _write(place: Files, manifest: Manifest, parts: Mapping[str, SplitIndex]) -> None:
    """Write the index. Raises DataError, with the option that helps, where nothing can be written."""
    try:
        write_index(place.index_location, manifest, parts)
    except OSError as error:
        raise DataError(
            f"the index cannot be written to {shown(place.index_location)} ({error}):"
            f" {'correct' if place.index else 'name a place for it with'} --index"
        ) from error


# ------------------------------------------------------------------------------------------------------------- sizes


def _looked_at(place: Files, manifest: Manifest, cpus: int | None) -> Manifest:
    """The manifest with channels, and with a size where every image has it.

    A sample decides about channels: grey when all of it is. All headers are read only where the sample has one size.
    """
    seen = [
        each for split in manifest.splits for each in sample(Shards(place, split, None), _SAMPLE) if each.fault is None
    ]
    grey = bool(seen) and all("grey" in each.oddities for each in seen)
    sizes = {(each.width, each.height) for each in seen}
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    image_size = width if width == height and _all_have(place, manifest, width, cpus) else None
    return manifest.model_copy(update={"channels": 1 if grey else 3, "image_size": image_size})


def _all_have(place: Files, manifest: Manifest, size: int, cpus: int | None) -> bool:
    """Whether every image is a square of this size."""
    pieces = [piece for split in manifest.splits for piece in pieces_of(Shards(place, split, None))]
    with closing(spread(partial(has_size, place, size), pieces, cpus=cpus, label="looking at sizes")) as done:
        return all(answer for _, answer in done)
