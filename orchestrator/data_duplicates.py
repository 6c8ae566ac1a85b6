"""Finds the images of a split that are in the test sets it will be judged on, and makes a split without them.

Shards are hashed as Ray tasks, each once: the files of hashes stay, and are found again by what the shards hold. What
the search finds is a list of rows beside the registry, whose digest is part of the new split's fingerprint.
"""

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.data_jobs import spread
from orchestrator.data_registry import add_split, drops_folder
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.datasets import BUILT_IN, Cut, DataSet, DropList, Files, Leave, Selection, StoredSplit
from studies.known_sizes import no_images
from studies.registry import Registry
from studies.subsets import rows_digest, subset_of
from workers.data.duplicate_report import Pair, images_at, page
from workers.data.duplicate_search import EXACT, FOUND, NEAR, Other, Part, all_of, found_in, parts
from workers.data.duplicates import FARTHEST
from workers.data.hash_files import HashFile, HashTask, is_written, place_of, write_hashes
from workers.data.shards import Shards
from workers.data.storage import write_bytes
from workers.supervision import DataError

RADIUS = 6
"""Bits that may differ. Of 180 pieces of photographs, 97 in 100 or more stayed within it at another quality, size or
brightness, and half of them at 0; of a million million pairs of random hashes 14 are. Drawings, writing and images of a
few pixels are more alike: a person should look at the report and lower it."""
MOST_PAIRS = 300
"""In a report: a page of 10 MB, and more than a person looks at."""


def dedup(
    settings: Settings,
    registry: Registry,
    name: str,
    split: str,
    against: Sequence[str],
    radius: int = RADIUS,
    new_split: str | None = None,
    report: Path | None = None,
    *,
    cpus: int | None = None,
) -> dict[str, Any]:
    """List the images of a split that are in others, exactly or nearly, and say for programs what was found.

    against: splits as `pets:test`. radius: bits of a hash that may differ. new_split: the split to register that leaves
    these images out; without it the list is written, and the registry stays as it is.
    report: HTML file to draw the pairs into.
    A job that was stopped goes on where it was when it is started again.

    Raises ValueError for what cannot be compared or registered, DataError when images cannot be read, OSError when
    something cannot be written.
    """
    ours, others = _asked(registry, name, split, against, radius)
    _check_results(settings, ours.data_set, new_split, report)
    excluded = np.union1d(ours.left_out, _bad_rows(registry, ours))
    hash_files = _hash(settings, [ours, *others], cpus)
    looked_through = [Other(each.data_set.name, each.split, _chosen(each, hash_files)) for each in others]
    tally = _Tally([0] * len(others))
    for part in parts(hash_files[ours.key]):
        tally.add(part.without(excluded), looked_through, radius)
    found = pa.concat_tables([FOUND.empty_table(), *tally.found])
    listed = _write_list(settings, ours, others, found, radius, new_split)
    if new_split is not None:
        add_split(settings.datasets, name, new_split, {"of": split, "drop": [listed.model_dump()]})
    if report is not None:
        _write_report(report, ours, others, found, radius)
    return _as_json(ours, looked_through, tally, found, radius) | {
        "list": {**listed.model_dump(), "path": str(settings.datasets.parent / listed.file)},
        "new_split": new_split,
        "report": None if report is None else str(report),
    }


@dataclass
class _Tally:
    """What was found so far."""

    counts: list[int]
    """Images that are in each of the others."""
    rows: int = 0
    unreadable: int = 0
    without_hash: int = 0

    def __post_init__(self) -> None:
        self.found: list[pa.Table] = []

    def add(self, part: Part, others: Sequence[Other], radius: int) -> None:
        found, counts = found_in(part, others, radius)
        self.found.append(found)
        self.counts = [before + more for before, more in zip(self.counts, counts, strict=True)]
        self.rows += len(part.row_N)
        self.unreadable += int(np.count_nonzero(~part.readable_N))
        self.without_hash += int(np.count_nonzero(part.readable_N & ~part.has_hash_N))


def _as_json(ours: "_Asked", others: Sequence[Other], tally: _Tally, found: pa.Table, radius: int) -> dict[str, Any]:
    exact = int(pc.sum(pc.equal(found["reason"], EXACT)).as_py() or 0)
    return {
        "dataset": ours.data_set.name,
        "split": ours.split,
        "rows": tally.rows,
        "unreadable": tally.unreadable,
        "without_hash": tally.without_hash,
        "radius": radius,
        "against": [
            {"dataset": each.dataset, "split": each.split, "rows": len(each.images.row_N), "found": count}
            for each, count in zip(others, tally.counts, strict=True)
        ],
        "dropped": len(found),
        "exact": exact,
        "near": len(found) - exact,
    }


# ------------------------------------------------------------------------------------------------------ what is asked


@dataclass(frozen=True)
class _Asked:
    """A split whose images are compared."""

    data_set: DataSet
    split: str
    files: Files
    selection: Selection
    left_out: NDArray[np.int64]
    """Sorted rows of the stored split that the selection leaves out."""

    @property
    def key(self) -> tuple[str, str]:
        """The stored split, of which several splits may be made."""
        return self.data_set.name, self.selection.stored


def _asked(
    registry: Registry, name: str, split: str, against: Sequence[str], radius: int
) -> tuple[_Asked, list[_Asked]]:
    """The split to clean and those to look through. Raises ValueError for what cannot be compared."""
    if not against:
        raise ValueError("there is nothing to compare with: name a split, as --against pets:test")
    if not 0 <= radius <= FARTHEST:
        raise ValueError(f"the radius is {radius}: give a number of bits from 0 to {FARTHEST}")
    ours = _named(registry, name, split)
    if any(isinstance(step, Cut) for step in ours.selection.steps):
        stored = ours.selection.stored
        raise ValueError(
            f"the {split} split of {name} is a part of {stored}: drop images of {stored}, and take the part of the rest"
        )
    others = []
    for text in against:
        other_name, colon, other_split = text.partition(":")
        if not (other_name and colon and other_split):
            raise ValueError(f"'{text}' names no split: write the data set and the split, as pets:test")
        others.append(_named(registry, other_name, other_split))
    return ours, others


def _named(registry: Registry, name: str, split: str) -> _Asked:
    data_set = registry.get(name)
    selection = data_set.selection(split)
    if not isinstance(data_set.origin, Files):
        if data_set.origin is None:
            raise ValueError(no_images(name))
        raise ValueError(f"{name} is generated: it has no files whose images could be compared")
    lists = [each for step in selection.steps if isinstance(step, Leave) for each in step.lists]
    return _Asked(data_set, split, data_set.origin, selection, _rows_listed(registry, lists))


def _check_results(settings: Settings, data_set: DataSet, new_split: str | None, report: Path | None) -> None:
    """Raise ValueError for what would otherwise fail after hours of hashing."""
    if new_split is not None and data_set.name in BUILT_IN:
        raise ValueError(f"{data_set.name} is built in, and takes no split '{new_split}': leave its name out")
    if new_split in data_set.splits:
        raise ValueError(f"{data_set.name} has a split '{new_split}' in {settings.datasets}: choose another name")
    if report is not None and not report.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {report.absolute().parent} for the report: make it, or name another")


def _bad_rows(registry: Registry, ours: _Asked) -> NDArray[np.int64]:
    """Rows that are known to be bad. They are never listed as duplicates: a row may be in one list of a split only."""
    stored = ours.data_set.splits[ours.selection.stored]
    assert isinstance(stored, StoredSplit)
    return _rows_listed(registry, [] if stored.bad is None else [stored.bad])


def _rows_listed(registry: Registry, lists: Sequence[DropList]) -> NDArray[np.int64]:
    """The sorted rows of drop lists. Raises DataError when one is missing or was changed."""
    found = [np.empty(0, dtype=np.int64)]
    for each in lists:
        path = Path(each.file) if registry.file is None else registry.file.absolute().parent / each.file
        try:
            row: NDArray[np.int64] = np.sort(pq.read_table(path, columns=["row"])["row"].to_numpy())
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}, a list of dropped rows, cannot be read ({error}): put it back") from error
        if rows_digest(row) != each.digest:
            raise DataError(f"{path}, a list of dropped rows, is not the one that the registry names: put that back")
        found.append(row)
    return np.unique(np.concatenate(found))


# ------------------------------------------------------------------------------------------------------------ hashing


def _hash(settings: Settings, asked: Sequence[_Asked], cpus: int | None) -> dict[tuple[str, str], tuple[HashFile, ...]]:
    """The files of hashes of each stored split; those that are not there yet are made."""
    folder = settings.folder / "hashes"
    files: dict[tuple[str, str], tuple[HashFile, ...]] = {}
    missing: dict[Path, HashTask] = {}
    for each in {one.key: one for one in asked}.values():
        # Opened for its check too: hashes may all be there, and the data be another by now.
        shards = Shards(each.files, each.selection.stored, each.selection.stored_fingerprint)
        first_row, of_split = 0, []
        for number, shard in enumerate(shards.manifest.shards):
            place = place_of(folder, shard, shards.index.manifest.columns)
            of_split.append(HashFile(place=place, first_row=first_row, rows=shard.rows))
            first_row += shard.rows
            if place not in missing and not is_written(place, shard.rows):
                missing[place] = HashTask(
                    files=each.files,
                    split=each.selection.stored,
                    fingerprint=each.selection.stored_fingerprint,
                    shard=number,
                    file=shard.file,
                    target=str(place),
                )
        files[each.key] = tuple(of_split)
    due = len({file.place for of_split in files.values() for file in of_split})
    if 0 < len(missing) < due:
        say(f"{due - len(missing):,} of {due:,} shards have been hashed before")
    with closing(spread(write_hashes, list(missing.values()), cpus=cpus, label="shards hashed")) as done:
        for _ in done:
            pass
    return files


def _chosen(asked: _Asked, hash_files: dict[tuple[str, str], tuple[HashFile, ...]]) -> Part:
    """The images of a split that are looked through."""
    images = all_of(hash_files[asked.key])
    if not asked.selection.steps:
        return images
    subset = subset_of(asked.selection, asked.data_set.take(asked.split), asked.left_out, None)
    return images.only(subset.places_at(images.row_N) >= 0)


# ------------------------------------------------------------------------------------------------------------ results


def _write_list(
    settings: Settings,
    ours: _Asked,
    others: Sequence[_Asked],
    found: pa.Table,
    radius: int,
    new_split: str | None,
) -> DropList:
    """Put the list beside the registry, with what it came from, and say how the registry names it."""
    facts = {
        "dataset": ours.data_set.name,
        "split": ours.split,
        "fingerprint": ours.selection.fingerprint,
        "against": [[each.data_set.name, each.split, each.selection.fingerprint] for each in others],
        "radius": radius,
        "hash": f"phash of ImageHash {version('imagehash')}",
    }
    path = drops_folder(settings.datasets) / ours.data_set.name / f"{new_split or f'{ours.split}-duplicates'}.parquet"
    stream = BytesIO()
    pq.write_table(found.replace_schema_metadata({"vitscale": json.dumps(facts)}), stream)
    write_bytes(str(path), stream.getvalue())
    return DropList(
        file=path.relative_to(settings.datasets.parent).as_posix(),
        rows=len(found),
        digest=rows_digest(found["row"].to_numpy()),
    )


def _write_report(report: Path, ours: _Asked, others: Sequence[_Asked], found: pa.Table, radius: int) -> None:
    """Draw the pairs, those of the most different hashes first. Raises DataError and OSError."""
    order = [("distance", "descending"), ("reason", "descending"), ("row", "ascending")]
    shown = found.sort_by(order).slice(0, MOST_PAIRS).to_pylist()
    dropped = _images(ours, [pair["row"] for pair in shown])
    like = {
        each: _images(other, [pair["other_row"] for pair in shown if _other(pair) == each])
        for each, other in ((f"{other.data_set.name}:{other.split}", other) for other in others)
    }
    pairs = [
        Pair(pair["reason"], pair["distance"], dropped[pair["row"]], like[_other(pair)][pair["other_row"]])
        for pair in shown
    ]
    exact = int(pc.sum(pc.equal(found["reason"], EXACT)).as_py() or 0)
    facts = [
        ("images", f"{ours.selection.rows:,}"),
        ("against", ", ".join(f"{other.data_set.name}:{other.split}" for other in others)),
        ("radius", f"{radius} of 64 bits"),
        (EXACT, f"{exact:,}"),
        (NEAR, f"{len(found) - exact:,}"),
    ]
    title = f"Duplicates in {ours.data_set.name}:{ours.split}"
    write_bytes(str(report.absolute()), page(title, facts, pairs, found=len(found)).encode())


def _other(pair: dict[str, Any]) -> str:
    return f"{pair['other_dataset']}:{pair['other_split']}"


def _images(asked: _Asked, row: Sequence[int]) -> Any:
    rows = np.array(row, dtype=np.int64)
    return images_at(asked.data_set.name, asked.split, asked.files, asked.selection, rows)
