"""The tables of the store, their states explained where they are defined. Views are in `db/views.py`.

All times are seconds since the epoch by the database's clock. A NULL value of a measurement or result means that it was
not a finite number.
"""

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Double, ForeignKey, Index, String, Table, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "0006"
"""The newest migration. A store that names a higher one belongs to a newer version of this program."""
VERSION_TABLE = "vitscale_version"
"""Ours alone: Optuna keeps its own `alembic_version` in the same database."""


class State(StrEnum):
    """Where a run is."""

    WAITING = "waiting"
    """The run that it depends on is not done."""
    READY = "ready"
    """Anyone with the place for it may claim it."""
    RUNNING = "running"
    """Claimed: the attempt with the run's fence works on it for as long as the lease lasts."""
    DONE = "done"
    """Its results are in the store. The one state that nothing leaves."""
    FAILED = "failed"
    """Out of budget, or certain to fail again; `cause` says why."""
    BLOCKED = "blocked"
    """What it depends on failed, is blocked itself, or was cancelled; `cause` names it."""
    CANCELLED = "cancelled"
    """Nobody wants it. Submitting or requeueing brings it back."""
    PRUNED = "pruned"
    """A search gave it up, as it was behind others; `cause` says when. It has no results, and only submitting it anew
    brings it back."""


class Outcome(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    USER_ERROR = "user_error"
    """What was asked for cannot work: final at once."""
    OUT_OF_MEMORY = "out_of_memory"
    NOT_FINITE = "not_finite"
    """The loss is no finite number, and would be none again: final at once."""
    DATA_ERROR = "data_error"
    PREEMPTED = "preempted"
    """It gave its place up and made no mistake: costs nothing of the budget."""
    DIED = "died"
    """The process vanished, or was not heard of until its lease was over."""
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    PRUNED = "pruned"
    LOST = "lost"
    """Given up for dead, it turned out to live: a later write of it was refused."""


class Wanted(StrEnum):
    """What a live attempt is asked to do, told to it with its next renewal."""

    YIELD = "yield"
    """Save a checkpoint and give the place up; the run is ready again."""
    STOP = "stop"
    """Give up at once; the run is cancelled."""
    PRUNE = "prune"
    """Give up at once; the run is pruned."""


class SearchState(StrEnum):
    """Where a search is."""

    OPEN = "open"
    """Trials are made, or wait for the pre-training."""
    DECIDED = "decided"
    """The choice stands, whatever comes later."""
    FAILED = "failed"
    """No trial came to an end; `cause` says why. Requeueing what failed opens it again."""
    CANCELLED = "cancelled"
    """Nobody wants it. Submitting or requeueing opens it again."""


TRAININGS = ("train", "finetune")
"""The kinds of runs that other runs may stand on."""


class Base(DeclarativeBase):
    """All tables of the store."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {float: Double(), str: Text()}


class StudyRow(Base):
    """A study as it was last submitted."""

    __tablename__ = "study"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    source: Mapped[str]
    shows: Mapped[str]
    text: Mapped[str]
    """The YAML, so that a store explains itself without the file."""
    file: Mapped[str]
    submitted_at: Mapped[float]


class RunRow(Base):
    """One deterministic piece of work, once for all studies that want it."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    kind: Mapped[str]
    configuration: Mapped[str] = mapped_column(String(64), index=True)
    definition: Mapped[str]
    """Canonical JSON: everything that decides the numbers."""
    model: Mapped[str]
    family: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    dataset: Mapped[str]
    """With `split` and `image_size`: what an evaluation classifies, what a training trains on."""
    split: Mapped[str]
    image_size: Mapped[int]
    data_rows: Mapped[int] = mapped_column(BigInteger)
    """With `epochs`: images in the subset of the pre-training that it is or stands on."""
    epochs: Mapped[float]
    steps: Mapped[int] = mapped_column(BigInteger)
    """Optimizer updates; 0 for an evaluation."""
    upstream_id: Mapped[int | None] = mapped_column(ForeignKey("run.id"), index=True)
    """What it waits for: the training that it evaluates, fine-tunes, or starts from as from a trunk."""
    parameters: Mapped[int] = mapped_column(BigInteger)
    flops: Mapped[float]
    """Of this run itself."""
    train_flops: Mapped[float | None]
    """Of the pre-training that it is or stands on; NULL where no cost is known."""
    images: Mapped[int] = mapped_column(BigInteger)
    cpus: Mapped[int]
    gpus: Mapped[int]
    priority: Mapped[int]
    """The lowest number is claimed first."""
    micro_batch: Mapped[int | None] = mapped_column(BigInteger)
    """Images of a step on the device at a time; NULL is all. From the first checkpoint on it stays as it is."""
    state: Mapped[str]
    owner: Mapped[str | None]
    lease_until: Mapped[float | None]
    fence: Mapped[int] = mapped_column(server_default="0")
    """Grows by one with every claim; a write that carries an older one is refused."""
    wanted: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    preemptions: Mapped[int] = mapped_column(server_default="0")
    forgiven: Mapped[int] = mapped_column(server_default="0")
    """Attempts up to this fence no longer count against the budget: the run was requeued after them."""
    cause: Mapped[str | None]
    """Why it failed or is blocked, in one line."""
    checkpoint: Mapped[str | None]
    """Path relative to the checkpoint store; of a training that is done, the trained model."""
    checkpoint_step: Mapped[int] = mapped_column(BigInteger, server_default="0")
    step: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Reached, as last heard."""
    numerics: Mapped[str | None]
    """The numerics class that step 0 ran in."""
    mixed_numerics: Mapped[bool] = mapped_column(server_default=text("false"))
    """The result stands on steps of more than one numerics class."""
    data_digest: Mapped[str | None] = mapped_column(String(64))
    """Certificate of the images that it read: SHA-256 of their row numbers (`studies/subsets.py`)."""
    data_skipped: Mapped[int | None] = mapped_column(BigInteger)
    """Bad rows that its split leaves out."""
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    seconds: Mapped[float | None]
    """Worker time of all ended attempts together."""

    # Partial, so that their size follows the work to do and not the store's history.
    __table_args__ = (
        Index(
            "run_ready",
            "priority",
            "id",
            sqlite_where=text("state = 'ready'"),
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "run_leases",
            "lease_until",
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )


class StudyRunRow(Base):
    """A study wants a run."""

    __tablename__ = "study_run"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True, index=True)
    position: Mapped[int]
    """Place in the study, from 0."""
    sweep: Mapped[str | None]
    """Shared by the runs that differ only in searched recipe fields and seed."""
    searched: Mapped[str | None]
    """The searched fields of this run as JSON."""
    role: Mapped[str | None]
    """`trunk`, `trial` or `final`; NULL for a run that a cell of the study names."""
    transfer: Mapped[str | None]
    """What the study calls the transfer that the run belongs to; NULL for pre-trainings and their evaluations."""


class SearchRow(Base):
    """A hyper-parameter search of a study: which values, for which network, on which data."""

    __tablename__ = "search"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    key: Mapped[str] = mapped_column(String(64))
    """Also the `sweep` of its runs."""
    upstream_id: Mapped[int] = mapped_column(ForeignKey("run.id"), index=True)
    """The pre-training."""
    position: Mapped[int]
    """Place among the searches of the study, from 0."""
    transfer: Mapped[str]
    definition: Mapped[str]
    """Canonical JSON of `studies.searches.Search`."""
    optuna_study: Mapped[str]
    """Name of the Optuna study in this database whose trials mirror the runs."""
    cpus: Mapped[int]
    gpus: Mapped[int]
    priority: Mapped[int]
    micro_batch: Mapped[int | None] = mapped_column(BigInteger)
    together: Mapped[bool] = mapped_column(server_default=text("false"))
    """A worker may train trials that differ only in their rates as one program."""
    state: Mapped[str]
    cause: Mapped[str | None]
    chosen: Mapped[str | None]
    """The choice, as JSON; NULL until it is made."""
    development: Mapped[float | None]
    """Mean accuracy of the choice on the development splits."""
    edge: Mapped[str | None]
    """Searched fields whose best value is the smallest or largest that was tried, as JSON: {"lr_peak": "high"}."""
    extended: Mapped[bool] = mapped_column(server_default=text("false"))
    """A value beyond the grid was tried."""
    trials: Mapped[int] = mapped_column(server_default="0")
    """That ended, pruned and failed ones included, when the choice was made."""
    owner: Mapped[str | None]
    """Who works on it, as `host:pid:time of its start`."""
    lease_until: Mapped[float | None]

    __table_args__ = (UniqueConstraint("study_id", "key", name="search_once_a_study"),)


class AttemptRow(Base):
    """One try at a run."""

    __tablename__ = "attempt"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    process_started: Mapped[float | None]
    """By the host's clock: with `pid` it names a process, which a pid alone does not."""
    device: Mapped[str | None]
    started_at: Mapped[float]
    ended_at: Mapped[float | None]
    outcome: Mapped[str | None]
    error: Mapped[str | None]
    traceback: Mapped[str | None]
    numerics: Mapped[str | None]
    first_step: Mapped[int] = mapped_column(BigInteger)
    last_step: Mapped[int | None] = mapped_column(BigInteger)
    refused_at: Mapped[float | None]
    """When a write of it was first refused, because the run was no longer its own."""


class MeasurementRow(Base):
    """What was measured on the way. Append-only: a repeated step measures the same again."""

    __tablename__ = "measurement"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class ResultRow(Base):
    """The final value of a metric: exactly one for each run, metric, data set and split."""

    __tablename__ = "result"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    image_size: Mapped[int]
    value: Mapped[float | None]


class SeriesRow(Base):
    """Points of a study that may be compared: one kind of run, metric, data set, split and resolution."""

    __tablename__ = "series"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    kind: Mapped[str]
    metric: Mapped[str]
    dataset: Mapped[str]
    split: Mapped[str]
    image_size: Mapped[int]
    direction: Mapped[int]
    """+1 where more is better, -1 where less is."""

    __table_args__ = (
        UniqueConstraint("study_id", "kind", "metric", "dataset", "split", "image_size", name="series_once_a_study"),
    )


class PointRow(Base):
    """A configuration in a series, its seeds averaged. Derived: kept up to date by the commit of each result."""

    __tablename__ = "point"

    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), primary_key=True)
    configuration: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of the evaluation."""
    training: Mapped[str] = mapped_column(String(64))
    """The configuration of the training that was evaluated: shared by its points in all series."""
    pretraining: Mapped[str] = mapped_column(String(64), server_default="")
    """That of the pre-training below it, or the same: shared by what fine-tunings on several data sets made of it."""
    family: Mapped[str]
    model: Mapped[str]
    cost: Mapped[float | None]
    """Training FLOPs, > 0; NULL where an imported result has another cost alone."""
    quality: Mapped[float]
    """direction * value: more is better."""
    value: Mapped[float]
    """Mean over the seeds, exactly rounded and so independent of the order in which they finished."""
    sd: Mapped[float | None]
    """Sample standard deviation; NULL for one seed."""
    seeds: Mapped[int]
    epochs: Mapped[float | None]
    data_rows: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    images: Mapped[float | None]
    """Training images seen, repeats counted."""
    forward_flops: Mapped[float | None]
    """FLOPs of the network that was measured, for one image."""
    device_seconds: Mapped[float | None]
    """Of the pre-training, its trunks included, mean over the seeds: worker time times the devices of its place, which
    are its GPUs, or where it has none its CPU cores. NULL where the time of a part is not known."""
    device: Mapped[str | None]
    """The kind of device that the time is of; NULL where there were several, or none is known."""
    money: Mapped[float | None]
    """As imported, in whatever currency; what own runs cost follows from their time and a price."""
    external: Mapped[bool] = mapped_column(server_default=text("false"))
    """Imported: no run of this store stands behind it."""
    leads: Mapped[bool] = mapped_column(server_default=text("false"))
    """On the frontier of its family over training FLOPs: the triggers of `db/standing.py` keep it true."""
    sweep: Mapped[str | None]
    searched: Mapped[str | None]


# The frontier walks along this index and looks at nothing else. It is narrow so that a million points fit into memory:
# with the configuration in it, PostgreSQL took three times as long.
Index("point_frontier", PointRow.series_id, PointRow.family, PointRow.cost, PointRow.quality.desc())

# The standing frontiers: as long as they are, however many points there are.
Index(
    "point_leads",
    PointRow.series_id,
    PointRow.family,
    PointRow.cost,
    PointRow.quality,
    sqlite_where=text("leads"),
    postgresql_where=text("leads"),
)

# All that a tie is told from: of few repeated configurations among many single ones it reads only the few.
Index(
    "point_repeated",
    PointRow.series_id,
    PointRow.family,
    PointRow.cost,
    PointRow.quality,
    PointRow.sd,
    PointRow.seeds,
    sqlite_where=text("sd IS NOT NULL"),
    postgresql_where=text("sd IS NOT NULL"),
)


class ExternalRow(Base):
    """A published or foreign result that was imported beside a study's own: no run, and never worked on."""

    __tablename__ = "external"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    key: Mapped[str] = mapped_column(String(64))
    """SHA-256 of what it says: importing it again changes nothing."""
    configuration: Mapped[str] = mapped_column(String(64))
    """Shared by the seeds of a label's value in a series."""
    training: Mapped[str] = mapped_column(String(64))
    """Shared by the values of one network in all series."""
    source: Mapped[str]
    """The file that it is from, and the row there."""
    kind: Mapped[str]
    """With `metric`, `dataset`, `split` and `image_size`: the series that it stands in."""
    metric: Mapped[str]
    dataset: Mapped[str]
    split: Mapped[str]
    image_size: Mapped[int]
    family: Mapped[str]
    model: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    value: Mapped[float | None]
    """NULL: not a finite number."""
    train_flops: Mapped[float | None]
    device_seconds: Mapped[float | None]
    device: Mapped[str | None]
    """The kind of device that the time is of; NULL where nobody says."""
    money: Mapped[float | None]
    images: Mapped[float | None]
    forward_flops: Mapped[float | None]
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    data_rows: Mapped[int | None] = mapped_column(BigInteger)
    epochs: Mapped[float | None]
    imported_at: Mapped[float]

    __table_args__ = (UniqueConstraint("study_id", "key", name="external_once_a_study"),)


class LawRow(Base):
    """A fitted law, bound to the exact results that it was fitted on."""

    __tablename__ = "law"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    key: Mapped[str] = mapped_column(String(64))
    """SHA-256 of all that decides its digits: form, options, version of the code and `points_digest`."""
    points_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 over the keys, costs and values of the runs that it was fitted on."""
    form: Mapped[str]
    family: Mapped[str | None]
    kind: Mapped[str]
    metric: Mapped[str]
    dataset: Mapped[str]
    split: Mapped[str]
    image_size: Mapped[int]
    answer: Mapped[str]
    """JSON, as `vitscale fit --json` prints it."""
    draws: Mapped[str]
    """JSON: the parameters of each bootstrap replicate, from which bands follow."""
    fitted_at: Mapped[float]

    __table_args__ = (UniqueConstraint("study_id", "key", name="law_once_a_study"),)


def table_of(row: type[Base]) -> Table:
    """The table behind a row class, for statements that name the table itself."""
    table = row.__table__
    assert isinstance(table, Table)
    return table
