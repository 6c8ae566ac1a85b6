"""What the reading commands ask of the store, gathered for printing. Nothing here writes."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from db import answers, frontiers
from db.store import Store
from orchestrator.settings import Settings
from orchestrator.worker import log_path


class NotFound(Exception):
    """What was asked for by name is not in the store."""


MOST_LISTED = 50
"""Running or failed runs that a status lists one by one."""


@dataclass(frozen=True)
class Status:
    """How far studies are."""

    studies: list[tuple[answers.Study, answers.Totals]]
    running: list[answers.Run]
    failed: list[answers.Run]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to work on."""
        return all(totals.is_over for _, totals in self.studies)

    @property
    def has_searches(self) -> bool:
        """Whether any of the studies searches."""
        return any(totals.searches for _, totals in self.studies)

    def counted(self, state: str) -> int:
        """Runs in a state; one that two studies share counts for each."""
        return sum(totals.states[state] for _, totals in self.studies)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "studies": [
                {
                    "study": study.name,
                    "title": study.title,
                    "submitted_at": study.submitted_at,
                    "runs": dict(totals.states),
                    "trainings": dict(totals.trainings),
                    "flops": totals.flops,
                    "flops_done": totals.flops_done,
                    "images": totals.images,
                    "images_done": totals.images_done,
                    "worker_seconds": totals.seconds,
                    "searches": {
                        "open": totals.searches_open,
                        "stuck": totals.searches_stuck,
                        "decided": totals.searches_decided,
                        "failed": totals.searches_failed,
                    },
                }
                for study, totals in self.studies
            ],
            "running": [_run_line(run) for run in self.running],
            "failed": [{**_run_line(run), "cause": run.cause} for run in self.failed],
        }


def _run_line(run: answers.Run) -> dict[str, Any]:
    return {
        "key": run.key,
        "kind": run.kind,
        "model": run.model,
        "seed": run.seed,
        "step": run.step,
        "steps": run.steps,
        "owner": run.owner,
    }


def status(store: Store, study_id: int | None) -> Status:
    """The status of one study, or of all."""
    with store.read() as connection:
        studies = [study for study in answers.studies(connection) if study_id in (None, study.id)]
        return Status(
            studies=[(study, answers.totals(connection, study.id)) for study in studies],
            running=answers.runs_in_state(connection, study_id, "running", MOST_LISTED),
            failed=answers.runs_in_state(connection, study_id, "failed", MOST_LISTED),
        )


# --------------------------------------------------------------------------------------------------------------- runs


def run(store: Store, found: answers.Run, settings: Settings) -> dict[str, Any]:
    """Everything about one run."""
    with store.read() as connection:
        attempts = answers.attempts_of(connection, found.id)
        results = answers.results_of_run(connection, found.id)
        measurements = {
            metric: answers.measurements_of(connection, found.id, metric)
            for metric in answers.measured_metrics_of(connection, found.id)
        }
    report = asdict(found)
    report["definition"] = json.loads(found.definition)
    report["checkpoint"] = str(settings.checkpoints / found.checkpoint) if found.checkpoint else None
    report["results"] = [
        {"metric": each.metric, "dataset": each.dataset, "split": each.split, "value": each.value} for each in results
    ]
    report["measurements"] = measurements
    report["attempts"] = [
        {**asdict(attempt), "log": str(log_path(settings.logs, found.key, attempt.fence))} for attempt in attempts
    ]
    return report


def log(store: Store, found: answers.Run, settings: Settings, number: int | None, *, follow: bool) -> Iterator[str]:
    """The log of an attempt in pieces; with `follow` until the run is over.

    Raises NotFound when there is no such attempt, or its log is on another host.
    """
    with store.read() as connection:
        attempts = answers.attempts_of(connection, found.id)
    if not attempts:
        raise NotFound(f"run {found.key[:12]} has not been tried yet: it is {found.state}")
    chosen = next((attempt for attempt in attempts if attempt.fence == (number or attempts[-1].fence)), None)
    if chosen is None:
        numbers = ", ".join(str(attempt.fence) for attempt in attempts)
        raise NotFound(f"run {found.key[:12]} has no attempt {number}; it has {numbers}")
    path = log_path(settings.logs, found.key, chosen.fence)
    if not path.exists():
        raise NotFound(
            f"the log of attempt {chosen.fence} is not at {path}; it was written on {chosen.host.split('#')[0]} "
            "(--folder or VITSCALE_FOLDER names the folder of checkpoints and logs)"
        )
    with path.open() as file:
        yield file.read()
        while follow and _is_live(store, found, chosen.fence):
            time.sleep(0.5)
            yield file.read()
    if chosen.traceback and chosen.traceback.strip() not in path.read_text():
        yield chosen.traceback


def _is_live(store: Store, found: answers.Run, fence: int) -> bool:
    with store.read() as connection:
        return any(
            attempt.fence == fence and attempt.ended_at is None for attempt in answers.attempts_of(connection, found.id)
        )


# ----------------------------------------------------------------------------------------------------------- frontier


@dataclass(frozen=True)
class Frontier:
    """One frontier with all that stands behind it."""

    study: answers.Study
    series: frontiers.Series
    points: list[frontiers.Point]
    frontier: list[frontiers.FrontierPoint]
    excluded: list[tuple[str, list[str]]]


def frontier(
    store: Store, study: answers.Study, wanted: Mapping[str, str | int | None], *, by_family: bool
) -> Frontier:
    """The frontier of one series of a study, of all families together or one for each.

    wanted: fields of a series by name; None is any. Where several are left, accuracies go before other metrics, then
    pre-trained models before transfers, then the test split before others.
    Raises NotFound when no series matches, ValueError when more than one does.
    """
    with store.read() as connection:
        found = frontiers.series_of(connection, study.id)
        series = _one_series(study, found, {name: value for name, value in wanted.items() if value is not None})
        return Frontier(
            study=study,
            series=series,
            points=frontiers.points_of(connection, series.id),
            frontier=frontiers.frontier(connection, series.id, by_family=by_family),
            excluded=frontiers.excluded(connection, series),
        )


_PREFERRED = {"metric": "accuracy", "kind": "evaluate", "split": "test"}
_OPTIONS = {
    "kind": "--kind",
    "metric": "--metric",
    "dataset": "--data",
    "split": "--split",
    "image_size": "--image-size",
}


def _one_series(
    study: answers.Study, found: list[frontiers.Series], wanted: Mapping[str, str | int]
) -> frontiers.Series:
    match = [series for series in found if all(getattr(series, name) == value for name, value in wanted.items())]
    for name, value in _PREFERRED.items():
        if name not in wanted and len(match) > 1:
            match = [series for series in match if getattr(series, name) == value] or match
    if len(match) == 1:
        return match[0]
    if not found:
        raise NotFound(f"{study.name} has no results yet; see how far it is with: vitscale status {study.name}")
    if match:
        raise ValueError(
            f"{study.name} has more than one such series, which must not be mixed: {_listed(match, wanted)}"
        )
    raise NotFound(f"{study.name} has no such series; it has: {_listed(found, {})}")


def _listed(series: list[frontiers.Series], given: Mapping[str, str | int]) -> str:
    """What to write to get each of these: what was given already, and the options that tell them apart."""
    shown = [
        name
        for name in _OPTIONS
        if name in given or name == "metric" or len({getattr(each, name) for each in series}) > 1
    ]
    return "; ".join(" ".join(f"{_OPTIONS[name]} {getattr(each, name)}" for name in shown) for each in series)


@dataclass(frozen=True)
class FrontierRow:
    """A point of a frontier as a row of a file; the fields are explained in `db/tables.py`."""

    study: str
    kind: str
    metric: str
    dataset: str
    split: str
    image_size: int
    family: str
    model: str
    cost: float
    quality: float
    value: float
    sd: float | None
    seeds: int
    data_rows: int
    epochs: float
    parameters: int
    configuration: str
    runs: tuple[str, ...]
    same: tuple[str, ...]


def frontier_rows(found: Frontier) -> list[FrontierRow]:
    """The frontier as rows for files."""
    series = found.series
    return [
        FrontierRow(
            study=found.study.name,
            kind=series.kind,
            metric=series.metric,
            dataset=series.dataset,
            split=series.split,
            image_size=series.image_size,
            **vars(point),
        )
        for point in found.frontier
    ]


def _labelled(point: dict[str, Any]) -> dict[str, Any]:
    return {"label": point.pop("model"), **point}


def frontier_json(found: Frontier) -> dict[str, Any]:
    """The frontier for programs."""
    series = found.series
    return {
        "study": found.study.name,
        "kind": series.kind,
        "metric": series.metric,
        "dataset": series.dataset,
        "split": series.split,
        "image_size": series.image_size,
        "configurations": series.points,
        "points": [_labelled(asdict(point)) for point in found.frontier],
        "excluded": [{"reason": reason, "count": len(keys), "runs": keys} for reason, keys in found.excluded],
    }
