"""Looks at every image of a data set as Ray tasks, and writes down beside the registry which cannot be trained on."""

import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data_jobs import spread
from orchestrator.data_registry import drops_folder, set_bad
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.datasets import BUILT_IN, DataSet, Files, StoredSplit
from studies.known_sizes import no_images
from studies.manifests import digest_of
from studies.registry import load_registry
from studies.subsets import rows_digest
from workers.data.checking import Findings, Piece, Promise, Tally, by_row, by_row_group, check, crashed, pieces_of
from workers.data.image_sizes import described
from workers.data.shards import Shards
from workers.data.storage import write_bytes

Look = Callable[[Piece], Findings | None]


def check_data(
    settings: Settings,
    name: str,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    cpus: int | None = None,
    look: Callable[[Promise, Piece], Findings] = check,
) -> dict[str, Any]:
    """Decode every image of the stored splits of a data set, or of one of them.

    The rows that cannot be trained on go into a list beside the registry, which names it from then on; a built-in set
    has no place for one. A check that was stopped goes on where it was, shard by shard.
    skip_bad: trainings leave these rows out from now on.
    look: what a task does with a piece.
    Raises ValueError for a set without files and for a split that is not stored, and DataError when the index cannot be
    read.
    """
    registry_path = settings.datasets
    data_set = load_registry(registry_path).get(name)
    splits = _stored(data_set, split)
    ours = name not in BUILT_IN
    if skip_bad and not ours:
        raise ValueError(f"'{name}' is built in: there is no entry of the registry that could skip its bad rows")
    found = []
    promise = _promise(data_set)
    for checked in _checked(settings, promise, splits, partial(look, promise), cpus):
        bad = None
        if ours and not checked.found.broken:  # of what cannot be read nobody knows which rows are bad
            bad = _listed(registry_path, name, checked)
            set_bad(registry_path, name, checked.split, bad, skip=skip_bad)
        found.append({**_as_json(data_set, checked), "bad": bad})
    return {
        "dataset": name,
        "registry": str(registry_path) if ours else None,
        "bad_rows": "skip" if skip_bad else data_set.bad_rows,
        "sound": not any(each["faults"] or each["broken"] for each in found),
        "splits": found,
    }


def _stored(data_set: DataSet, split: str | None) -> list[str]:
    """The splits to check. Raises ValueError when there is nothing to read."""
    if data_set.origin is None:
        raise ValueError(no_images(data_set.name))
    if not isinstance(data_set.origin, Files):
        raise ValueError(f"{data_set.name} is generated in the worker: there are no files that could be checked")
    if split is None:
        return [each for each, use in data_set.splits.items() if isinstance(use, StoredSplit)]
    from_split = data_set.model_copy(update={"bad_rows": "fail"}).selection(split).stored
    if from_split != split:
        raise ValueError(f"the {split} split of {data_set.name} has no files of its own: check --split {from_split}")
    return [split]


# ---------------------------------------------------------------------------------------------------------- checking


@dataclass(frozen=True)
class _Checked:
    """What was found in a split."""

    split: str
    found: Findings
    pieces: list[Piece]
    """One a shard."""
    size_bytes: int
    """Of the shards."""
    fingerprint: str
    resumed: int
    """Shards that a check which was stopped had read."""

    def place(self, row: int) -> dict[str, Any]:
        """Where a row lies: its file, its number there and its number in the split."""
        piece = self.pieces[bisect_right(self.pieces, row, key=lambda piece: piece.first_row) - 1]
        return {"file": piece.file, "row_in_file": row - piece.first_row, "row": row}


def _promise(data_set: DataSet) -> Promise:
    assert isinstance(data_set.origin, Files)
    return Promise(
        files=data_set.origin,
        fingerprints={split: use.fingerprint for split, use in data_set.splits.items() if isinstance(use, StoredSplit)},
        classes=data_set.classes,
        channels=data_set.channels,
        image_size=data_set.image_size,
    )


def _checked(
    settings: Settings, promise: Promise, splits: Sequence[str], look: Look, cpus: int | None
) -> list[_Checked]:
    """Look at some splits, shard by shard; what a check that was stopped has left is not read again."""
    shards_of = {split: promise.shards(split) for split in splits}
    fingerprint_of = {split: shards.index.manifest.fingerprint(split) for split, shards in shards_of.items()}
    pieces = [piece for shards in shards_of.values() for piece in pieces_of(shards)]
    work = settings.folder / "checks" / digest_of([promise.model_dump(), fingerprint_of])[:16]
    record_of = {piece: work / f"{number:06}.json" for number, piece in enumerate(pieces)}
    tallies = {split: Tally() for split in splits}
    known = {piece for piece in pieces if record_of[piece].exists()}
    for piece in known:
        tallies[piece.split].add(Findings.model_validate_json(record_of[piece].read_bytes()))
    if known:
        say(f"{len(known):,} of {len(pieces):,} shards were read by a check that was stopped")
    for piece, found in _spread(shards_of, [piece for piece in pieces if piece not in known], look, cpus):
        write_bytes(str(record_of[piece]), found.model_dump_json().encode())
        tallies[piece.split].add(found)
    shutil.rmtree(work, ignore_errors=True)
    return [
        _Checked(
            split=split,
            found=tallies[split].findings(),
            pieces=[piece for piece in pieces if piece.split == split],
            size_bytes=shards.manifest.size_bytes,
            fingerprint=fingerprint_of[split],
            resumed=sum(piece.split == split for piece in known),
        )
        for split, shards in shards_of.items()
    ]


def _spread(
    shards_of: Mapping[str, Shards], pieces: Sequence[Piece], look: Look, cpus: int | None
) -> Iterator[tuple[Piece, Findings]]:
    """Findings of each piece. One whose process dies is looked at again row group by row group, and then row by row."""

    def each(pieces: Sequence[Piece], label: str) -> Iterator[tuple[Piece, Findings | None]]:
        with closing(spread(look, pieces, cpus=cpus, label=label, died=lambda piece: None)) as done:
            yield from done

    deadly = []
    for piece, found in each(pieces, "shards checked"):
        if found is None:
            deadly.append(piece)
        else:
            yield piece, found
    for piece in deadly:
        say(f"{piece.file}: the process that decoded its images died; looking for the image")
        tally, suspects = Tally(), []
        for part, found in each(by_row_group(shards_of[piece.split], piece), "row groups checked"):
            if found is None:
                suspects += by_row(part)
            else:
                tally.add(found)
        for row, found in each(suspects, "rows checked"):
            tally.add(found or crashed(row))
        yield piece, tally.findings()


# ---------------------------------------------------------------------------------------------------- writing it down


def _listed(registry_path: Path, name: str, checked: _Checked) -> dict[str, Any]:
    """Write the list of bad rows; the fields of `DropList` that name it.

    Its name holds its digest, so a list that the registry still names is never written over.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    bad = checked.found.bad
    digest = rows_digest(np.array([each.row for each in bad], dtype=np.int64))
    places = [checked.place(each.row) for each in bad]
    table = pa.table(
        {
            "row": pa.array([each.row for each in bad], pa.int64()),
            "fault": pa.array([each.fault for each in bad], pa.string()),
            "message": pa.array([each.message for each in bad], pa.string()),
            "shard": pa.array([place["file"] for place in places], pa.string()),
            "row_in_shard": pa.array([place["row_in_file"] for place in places], pa.int64()),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    file = drops_folder(registry_path) / name / f"{checked.split}-bad-{digest[:8]}.parquet"
    write_bytes(str(file), buffer.getvalue().to_pybytes())
    return {
        "file": file.relative_to(registry_path.absolute().parent).as_posix(),
        "rows": len(bad),
        "digest": digest,
    }


def _as_json(data_set: DataSet, checked: _Checked) -> dict[str, Any]:
    """A split's findings for programs and the screen."""
    found = checked.found
    oddities: dict[str, dict[str, list[int]]] = {}
    for kind, rows in found.oddities.items():
        for place in map(checked.place, rows):
            oddities.setdefault(kind, {}).setdefault(place["file"], []).append(place["row_in_file"])
    return {
        "split": checked.split,
        "fingerprint": checked.fingerprint,
        "rows": sum(piece.rows for piece in checked.pieces),
        "rows_read": found.rows,
        "shards": len(checked.pieces),
        "shards_read_before": checked.resumed,
        "size_bytes": checked.size_bytes,
        "image_bytes": found.image_bytes,
        "formats": found.formats,
        "sizes": described(found.sizes),
        "class_counts": [found.class_counts.get(label, 0) for label in range(data_set.classes)],
        "faults": [{**checked.place(each.row), "fault": each.fault, "message": each.message} for each in found.bad],
        "broken": [
            {**checked.place(each.first_row), "rows": each.rows, "message": each.message} for each in found.broken
        ],
        "oddities": oddities,
    }
