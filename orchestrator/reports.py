"""What the reading commands ask of the store, gathered for printing. Nothing here writes."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from db import answers
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
