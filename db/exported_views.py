"""The store's views `run_summary` and `sweep_best` as rows with stable columns, for exports. Nothing here writes."""

from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class RunOfStudy:
    """A run that a study wants, and what for; the fields are explained in `db/tables.py`."""

    position: int
    key: str
    kind: str
    model: str
    family: str
    seed: int
    dataset: str
    split: str
    image_size: int
    data_rows: int
    epochs: float
    parameters: int
    flops: float
    train_flops: float | None
    images: int
    state: str
    step: int
    steps: int
    failures: int
    preemptions: int
    attempts: int
    cause: str | None
    numerics: str | None
    mixed_numerics: bool
    data_digest: str | None
    data_skipped: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: float | None
    configuration: str
    upstream: str | None
    sweep: str | None
    searched: str | None
    role: str | None
    transfer: str | None


@dataclass(frozen=True)
class Sweep:
    """What a sweep or search chose, and what that was measured at: a row of the view `sweep_best`."""

    sweep: str
    dataset: str
    image_size: int
    model: str
    searched: str | None
    configuration: str
    development_value: float | None
    test_value: float | None
    test_sd: float | None
    seeds: int | None
    cost: float | None
    candidates: int
    edge: str | None
    extended: bool


def runs_of(connection: Connection, study: str) -> list[RunOfStudy]:
    """The runs that a study wants, in its order."""
    return sorted(_of_view(connection, study, RunOfStudy, "run_summary"), key=lambda run: (run.position, run.key))


def sweeps_of(connection: Connection, study: str) -> list[Sweep]:
    """What the sweeps and searches of a study chose, by model, data set and resolution."""
    rows = _of_view(connection, study, Sweep, "sweep_best")
    return sorted(rows, key=lambda each: (each.model, each.dataset, each.image_size, each.sweep, each.configuration))


def _of_view(connection: Connection, study: str, kind: type[Any], view: str) -> list[Any]:
    """The rows of a view for one study; SQLite has no truth values but numbers."""
    names = [field.name for field in fields(kind)]
    truths = [field.name for field in fields(kind) if field.type is bool]
    query = text(f"SELECT {', '.join(names)} FROM {view} WHERE study = :study")
    found = [dict(row._mapping) for row in connection.execute(query, {"study": study})]
    return [kind(**{**row, **{name: bool(row[name]) for name in truths}}) for row in found]
