"""Capsules: one archive of all that a store knows of a study, and its way into another store.

A capsule holds the study's rows as Parquet, its file, its figures, and where it was made. It holds no weights, no logs,
no address of the store and no password; tracebacks in it may name paths and hosts.
"""

import json
import platform
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from db import answers, capsules, exported, frontiers
from db.exported import RECORDS, StudyTables
from db.store import Connection, Store, retrying
from db.tables import State
from orchestrator import capsule_files, rows
from orchestrator.capsule_checks import check
from orchestrator.capsule_files import CapsuleError
from orchestrator.settings import Settings
from studies.definitions import REVISION

MERGE_SECONDS = 60.0
MOST_ROWS = 10_000_000
"""Of a table: they are held in memory."""


# ------------------------------------------------------------------------------------------------------------- writing


def write(store: Store, study: answers.Study, path: Path) -> dict[str, int]:
    """Write the capsule of a study; how many rows it holds, by table.

    The same rows give the same bytes, whatever the database, the time or the numbers that a store gives to its rows;
    but `environment.json` says where the capsule was made.
    Raises ValueError when the file's ending is not one of a capsule or a table is too long, OSError as it comes.
    """
    capsule_files.check_ending(path)
    with store.read() as connection:
        tables = exported.tables_of(connection, study.id)
        figures = _figures(connection, study)
    pack(path, tables, figures)
    return _counts(tables)


def pack(path: Path, tables: StudyTables, figures: Mapping[str, bytes]) -> None:
    """Write rows and figures, by the name of their files, as a capsule. Raises as `write` does."""
    counts = _counts(tables)
    for name, count in counts.items():
        if count > MOST_ROWS:
            raise ValueError(
                f"a capsule holds at most {MOST_ROWS:,} {name}, and the study has {count:,}: export tables with --what"
            )
    files = {
        "study.yaml": tables.study[0].text.encode(),
        "environment.json": (json.dumps(_environment(tables), indent=1, sort_keys=True) + "\n").encode(),
        **{f"tables/{name}.parquet": rows.as_parquet(RECORDS[name], getattr(tables, name)) for name in counts},
        **figures,
    }
    program = f"vitscale {version('vitscale')}"
    about = {"program": program, "revision": REVISION, "study": tables.study[0].name, "rows": counts}
    capsule_files.write(path, about, files)


def _counts(tables: StudyTables) -> dict[str, int]:
    return {name: len(getattr(tables, name)) for name in RECORDS}


def _figures(connection: Connection, study: answers.Study) -> dict[str, bytes]:
    """The frontier of each series that has one over training compute, as SVG."""
    from orchestrator import figures

    drawn: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, series in enumerate(frontiers.series_of(connection, study.id), 1):
            points = frontiers.points_of(connection, series)
            if not points:
                continue
            file = Path(folder, "figure.svg")
            led = frontiers.frontier(connection, series, by_family=True)
            figures.draw_frontier(file, study.title, series, points, led, by_family=True)
            words = f"{series.kind} {series.metric} {series.dataset} {series.split} {series.image_size}"
            name = re.sub(r"[^A-Za-z0-9]+", "-", words)[:60].strip("-")
            drawn[f"figures/{number:03d}-{name}.svg"] = file.read_bytes()
    return drawn


def _environment(tables: StudyTables) -> dict[str, Any]:
    """What computed the runs, and what wrote the capsule; nothing that tells one minute or host name from another."""
    from workers.kernels import processor

    numerics = Counter(run.numerics for run in tables.runs if run.state == State.DONE and run.numerics)
    devices = Counter(attempt.device for attempt in tables.attempts if attempt.device)
    return {
        "runs": {"done_by_numerics_class": dict(numerics), "attempts_by_device": dict(devices)},
        "written_by": {
            "python": sys.version,
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cpu": processor.fact("model name") or platform.machine(),
            "packages": {each.name: each.version for each in distributions()},
        },
    }


# ------------------------------------------------------------------------------------------------------------- reading


def read(path: Path) -> StudyTables:
    """The rows of a capsule, checked.

    Raises CapsuleError for one that is damaged, forged or newer than this program, OSError as it comes.
    """
    manifest, files = capsule_files.read(path)
    try:
        tables = _tables(manifest, files)
        check(tables)
    except CapsuleError as error:
        raise CapsuleError(f"{path} was not imported: {error}") from error
    return tables


def _tables(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> StudyTables:
    revision = manifest.get("revision")
    if not isinstance(revision, int) or revision > REVISION:
        raise CapsuleError("its keys are of a newer vitscale: upgrade vitscale")
    read: dict[str, tuple[Any, ...]] = {}
    for name, kind in RECORDS.items():
        member = f"tables/{name}.parquet"
        if member not in files:
            raise CapsuleError(f"{member} is not in it")
        try:
            read[name] = rows.from_parquet(kind, files[member], most_rows=MOST_ROWS)
        except ValueError as error:
            raise CapsuleError(f"{member} cannot be read: {error}") from error
    counts = {name: len(of_table) for name, of_table in read.items()}
    if manifest.get("rows") != counts:
        raise CapsuleError("its tables do not have as many rows as its manifest says")
    tables = StudyTables(**read)
    if [(study.name, study.text.encode()) for study in tables.study] != [
        (manifest.get("study"), files.get("study.yaml"))
    ]:
        raise CapsuleError("its study is not the one that its manifest names")
    return tables


def take_in(store: Store, settings: Settings, tables: StudyTables, name: str | None) -> capsules.Merged:
    """Merge a capsule into a store in one transaction, as `db/capsules.py` says.

    name: what the study is called here; None is what it is called there.
    Raises ValueError when another study has the name, StoreUnreachable when the store stays away.
    """
    weights = {run.key for run in tables.runs if run.checkpoint and (settings.checkpoints / run.checkpoint).is_dir()}
    called = name or tables.study[0].name

    def merge(connection: Connection) -> capsules.Merged:
        return capsules.merge(connection, tables, called, weights)

    return retrying(store, merge, seconds=MERGE_SECONDS)
