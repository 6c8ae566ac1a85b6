"""Turns images in foreign formats into a registered data set of Parquet shards, as Ray tasks, and goes on after a kill.

An import first writes its plan into the place where shards go: which images each shard holds. Then each task writes one
shard; the index and the registry come last. The same source gives the same shards, whoever was killed in between.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.data_jobs import spread
from orchestrator.data_registry import add_data_set, add_split
from orchestrator.screen import say
from studies.datasets import DataSet, Files, StoredSplit
from studies.manifests import FILE, FOLDER, Columns, Manifest
from studies.registry import check_name, load_registry
from workers.data.importing.formats import FORMATS, detected
from workers.data.importing.places import emptied, exists, folders_in, removed
from workers.data.importing.planning import (
    check_split_name,
    count_classes,
    named_splits,
    plan_bytes,
    same_classes,
    shard_borders,
)
from workers.data.importing.plans import Naming
from workers.data.importing.shard_tasks import Job, Task, Written, plan_file, write_shard
from workers.data.index import SplitIndex, joined_split, manifest_of, read_index, write_index
from workers.data.storage import joined, read_bytes, shown, write_bytes
from workers.data.writing import SHARD_BYTES
from workers.supervision import DataError

WORK_FOLDER = "vitscale-import"
"""Below the place of the shards: plans, records of shards, and what was imported."""
_PLAN, _DONE = "plan.json", "done.json"
_VERSION = 1
"""Of what shards hold: another version would not go on with the work of this one."""


@dataclass(frozen=True)
class Request:
    """What decides the shards of an import."""

    source: str
    format: str
    image: str | None
    label: str | None
    split: str | None
    resize: int | None
    shard_bytes: int
    skip_bad: bool
    version: int = _VERSION

    @property
    def digest(self) -> str:
        """Names the work folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def naming(self) -> Naming:
        """How the user names what the source calls otherwise."""
        return Naming(self.image, self.label)


@dataclass(frozen=True)
class Plan:
    """What was found in the source, beside the rows."""

    shards: dict[str, int]
    """Of each split."""
    class_names: tuple[str, ...]
    classes: int
    multi_label: bool
    ignored: dict[str, int]


@dataclass(frozen=True)
class Target:
    """Where an import goes."""

    registry_path: Path
    name: str
    entry: str
    """The location as the registry has it."""
    location: str
    registered: DataSet | None
    """The data set that other splits are added to."""

    @property
    def index_location(self) -> str:
        """Where the index is, or will be."""
        origin = None if self.registered is None else self.registered.origin
        return origin.index_location if isinstance(origin, Files) else joined(self.location, FOLDER)


def import_(
    registry_path: Path,
    source: Path,
    name: str,
    *,
    to: str | None = None,
    format: str | None = None,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    resize: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    skip_bad: bool = False,
    cpus: int | None = None,
    about: str = "",
) -> dict[str, Any]:
    """Import a source as the data set `name`, or as another split of it; what came of it, for JSON.

    to: where the shards go; `data/NAME` beside the registry when None.
    format: one of `FORMATS`; seen from the files when None.
    split: of a source with splits the one to take, of another source what to call its split; `train` when None.
    image, label: names of columns, arrays or members.
    resize: shorter side in pixels to which larger images are made smaller, as JPEG of quality 95.
    skip_bad: leave images out that cannot be resized.
    cpus: to use; all when None.
    about: the source, for the registry.

    An import that was ended goes on when it is asked for again in the same way; one that came to its end is not made
    again.
    Raises ValueError for what cannot be asked for, and DataError for a source that cannot be read.
    """
    if split is not None:
        check_split_name(split)
    if skip_bad and resize is None:
        raise ValueError("--skip-bad does nothing without --resize: bytes are kept as they are, also of bad images")
    source = source.absolute()
    request = Request(str(source), format or detected(source), image, label, split, resize, shard_bytes, skip_bad)
    if request.format not in FORMATS:
        raise ValueError(f"'{format}' is no format: choose among {', '.join(FORMATS)}")
    target = _target(registry_path, name, to)
    work = joined(target.location, WORK_FOLDER, request.digest)
    if (result := _done_before(work, target)) is None:
        before = _manifest_before(target)
        plan = _plan(request, target, work, before)
        written = _written(_job(request, target, work, plan), plan, name, cpus)
        try:
            splits = _split_indexes(plan, written, request.source)
            manifest = _manifest(splits, plan, written, before, name)
        except DataError:  # the same would come of it again
            _withdraw(target, work, plan)
            raise
        write_index(target.index_location, manifest, splits)
        _register(target, manifest, list(splits), about or f"imported from {source}")
        result = _result(request, target, plan, manifest, written)
        write_bytes(joined(work, _DONE), json.dumps(result).encode())
    emptied(work, keep=_DONE)
    return result


# ------------------------------------------------------------------------------------------------------------ before


def _target(registry_path: Path, name: str, to: str | None) -> Target:
    """Where an import goes. Raises ValueError for a name that cannot be given, or is that of other shards."""
    check_name(name)
    folder = registry_path.absolute().parent
    entry = f"data/{name}" if to is None else to.rstrip("/") if "://" in to else str(Path(to).absolute())
    location = entry if "://" in entry else str(folder / entry)
    registered = load_registry(registry_path).own(name)
    if registered is not None:
        origin = registered.origin
        if not isinstance(origin, Files) or (to is not None and origin.location.rstrip("/") != location):
            raise ValueError(f"'{name}' is a data set of {registry_path} already: choose another name")
        location = origin.location.rstrip("/")
    return Target(registry_path, name, entry, location, registered)


def _done_before(work: str, target: Target) -> dict[str, Any] | None:
    """What an earlier import of the same came to, when its splits are registered as it left them."""
    try:
        done: dict[str, Any] = json.loads(read_bytes(joined(work, _DONE)))
    except (OSError, ValueError):
        return None
    if target.registered is None or done["name"] != target.name:
        return None
    for split, facts in done["splits"].items():
        stored = target.registered.splits.get(split)
        if not isinstance(stored, StoredSplit) or stored.fingerprint != facts["fingerprint"]:
            return None
    return done | {"was_there": True}


def _manifest_before(target: Target) -> Manifest | None:
    """Of a data set that another split is added to. Raises ValueError when shards of ours would not fit to it."""
    if target.registered is None:
        return None
    assert isinstance(target.registered.origin, Files)
    manifest = read_index(target.registered.origin).manifest
    if manifest.columns != Columns():
        raise ValueError(
            f"the columns of {target.name} are {manifest.columns.image} and {manifest.columns.label}, and those of an"
            " import are image and label: choose another name"
        )
    return manifest


# ---------------------------------------------------------------------------------------------------------- planning


def _plan(request: Request, target: Target, work: str, before: Manifest | None) -> Plan:
    """The plan of an import: the one that was made when it was begun, or a new one."""
    try:
        fields = json.loads(read_bytes(joined(work, _PLAN)))
        return Plan(**(fields | {"class_names": tuple(fields["class_names"])}))
    except (OSError, ValueError, TypeError):
        pass
    say(f"looking through {request.source} ...")
    found = FORMATS[request.format].find(Path(request.source), request.naming)
    tables = named_splits(found, request.split, request.source)
    _check_place(target, set(tables))
    names, tables = same_classes(found, tables, before, target.name)
    classes = count_classes(tables, names, before, request.source)
    shards = {}
    for split, table in tables.items():
        borders = shard_borders(table["size_bytes"].to_numpy(), request.shard_bytes)
        write_bytes(plan_file(work, split), plan_bytes(table, borders))
        shards[split] = len(borders)
    plan = Plan(shards, names, classes, found.multi_label, dict(sorted(found.ignored.items())))
    write_bytes(joined(work, _PLAN), json.dumps(asdict(plan)).encode())
    return plan


def _check_place(target: Target, splits: set[str]) -> None:
    """Raise ValueError when the place, or one of the splits, belongs to something else."""
    place = shown(target.location)
    if target.registered is None and exists(joined(target.index_location, FILE)):
        raise ValueError(
            f"{place} holds a data set already: register it with `vitscale data add`, or choose another place with --to"
        )
    if target.registered is not None and (there := sorted(splits & set(target.registered.splits))):
        raise ValueError(
            f"{target.name} has a split '{there[0]}' already: name another with --split, or choose another name"
        )
    works = joined(target.location, WORK_FOLDER)
    for other in folders_in(works):
        try:
            theirs = sorted(splits & set(json.loads(read_bytes(joined(works, other, _PLAN)))["shards"]))
        except (OSError, ValueError, KeyError):
            continue
        if theirs:
            raise ValueError(
                f"another import of the {theirs[0]} split into {place} was begun and not ended: give its command again,"
                f" or remove {shown(joined(works, other))} and {theirs[0]}-*.parquet"
            )


def _job(request: Request, target: Target, work: str, plan: Plan) -> Job:
    return Job(
        format=request.format,
        source=request.source,
        naming=request.naming,
        location=target.location,
        work=work,
        class_names=plan.class_names,
        multi_label=plan.multi_label,
        resize=request.resize,
        skip_bad=request.skip_bad,
    )


# ----------------------------------------------------------------------------------------------------------- writing


def _written(job: Job, plan: Plan, name: str, cpus: int | None) -> dict[str, list[Written]]:
    """All shards of each split in order."""
    tasks = [Task(split, number, shards) for split, shards in plan.shards.items() for number in range(shards)]
    with closing(spread(partial(write_shard, job), tasks, cpus=cpus, label=f"importing {name}")) as results:
        found = dict(results)
    return {
        split: [found[Task(split, number, shards)] for number in range(shards)] for split, shards in plan.shards.items()
    }


def _split_indexes(plan: Plan, written: Mapping[str, Sequence[Written]], source: str) -> dict[str, SplitIndex]:
    splits = {}
    for split in plan.shards:
        parts = [each.index for each in written[split] if each.index is not None]
        if not parts:
            raise DataError(f"no image of the {split} split of {source} could be decoded: is it the right source?")
        splits[split] = joined_split(parts)
    return splits


def _manifest(
    splits: Mapping[str, SplitIndex],
    plan: Plan,
    written: Mapping[str, Sequence[Written]],
    before: Manifest | None,
    name: str,
) -> Manifest:
    """Of the data set with its new splits. Raises DataError when these break what it promises of all its images."""
    records = [each.record for parts in written.values() for each in parts if each.index is not None]
    sides = {record.side for record in records}
    side = sides.pop() if len(sides) == 1 else 0
    channels = max(record.channels for record in records)
    if before is None:
        return manifest_of(splits, Columns(), channels=channels, image_size=side or None, classes=plan.classes)
    if before.image_size is not None and side != before.image_size:
        size = before.image_size
        raise DataError(
            f"all images of {name} have {size} x {size} pixels, and some of these have not: import them as another data"
            " set"
        )
    new = {split: index.manifest(before.classes) for split, index in splits.items()}
    return before.model_copy(update={"splits": {**before.splits, **new}})


def _register(target: Target, manifest: Manifest, splits: Sequence[str], about: str) -> None:
    entries = {split: _split_entry(manifest, split) for split in splits}
    if target.registered is not None:
        for split, entry in entries.items():
            if split not in target.registered.splits:  # it is when we were ended right after the registry was written
                add_split(target.registry_path, target.name, split, entry)
        return
    fields = {
        "location": target.entry,
        "classes": manifest.classes,
        "channels": manifest.channels,
        "image_size": manifest.image_size,
        "multi_label": manifest.multi_label or None,
        "source": about,
        "splits": entries,
    }
    add_data_set(target.registry_path, target.name, fields)


def _split_entry(manifest: Manifest, split: str) -> dict[str, Any]:
    found = manifest.splits[split]
    entry: dict[str, Any] = {"rows": found.rows, "fingerprint": manifest.fingerprint(split)}
    return entry if manifest.multi_label else entry | {"fewest": min(found.class_counts)}


def _withdraw(target: Target, work: str, plan: Plan) -> None:
    """Remove the shards of an import that can come to no end, and then what says that it was begun."""
    for split, shards in plan.shards.items():
        for number in range(shards):
            removed(joined(target.location, Task(split, number, shards).file))
    emptied(work)


def _result(
    request: Request, target: Target, plan: Plan, manifest: Manifest, written: Mapping[str, Sequence[Written]]
) -> dict[str, Any]:
    return {
        "name": target.name,
        "source": request.source,
        "format": request.format,
        "location": shown(target.location),
        "classes": manifest.classes,
        "channels": manifest.channels,
        "image_size": manifest.image_size,
        "resized": request.resize,
        "splits": {
            split: _split_entry(manifest, split)
            | {"shards": len(manifest.splits[split].shards), "size_bytes": manifest.splits[split].size_bytes}
            for split in written
        },
        "ignored": plan.ignored,
        "skipped": [
            {"split": split, "file": file, "fault": fault}
            for split, parts in written.items()
            for each in parts
            for file, fault in each.record.skipped
        ],
        "shards_from_before": sum(each.was_there for parts in written.values() for each in parts),
        "was_there": False,
    }
