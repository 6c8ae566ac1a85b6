"""Studies go into the store, and are worked on here in the foreground with a Ray of our own."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from db import studies as stored
from db.store import Connection, Store, retrying
from orchestrator import cluster, processes
from orchestrator.driver import Ended, drive
from orchestrator.progress import Progress
from orchestrator.screen import say
from orchestrator.settings import Settings
from studies.definitions import AnyRun, Data, FewShotClassification, FineTune, Train
from studies.grid import Study
from studies.known_sizes import no_images
from studies.yaml_source import StudyError

log = logging.getLogger("vitscale.driver")

SUBMIT_SECONDS = 60.0


def check_data(study: Study) -> None:
    """Raise StudyError when a run needs images that nobody here can have."""
    for data in _data_of(study):
        if data.fingerprint is None:
            raise StudyError(
                f"{study.path}: `vitscale plan` prices the study, but it cannot run: {no_images(data.name)}"
            )


def _data_of(study: Study) -> Iterator[Data]:
    for planned in study.runs:
        yield from _data_of_run(planned.run)
    for searched in study.searches:
        for task in searched.search.tasks:
            yield from (task.search, task.development, task.whole, *(each.data for each in task.evaluations))


def _data_of_run(run: AnyRun) -> Iterator[Data]:
    yield run.data
    for measured in run.watches if isinstance(run, Train | FineTune) else (run,):
        yield measured.data
        if isinstance(measured, FewShotClassification):
            yield measured.support


def store_study(store: Store, study: Study) -> stored.Submitted:
    """Put a study into the store: runs once by key, the study linked to them, and its searches."""

    def submit(connection: Connection) -> stored.Submitted:
        return stored.submit(
            connection,
            name=study.file.name,
            title=study.file.title,
            source=study.file.source,
            shows=study.file.shows,
            text=study.text,
            file=study.path,
            planned=study.runs,
            searches=study.searches,
            cpus=study.file.resources.cpus,
            gpus=study.file.resources.gpus,
            priority=study.file.resources.priority,
            micro_batch=study.file.resources.micro_batch,
            together=study.file.resources.together,
        )

    return retrying(store, submit, seconds=SUBMIT_SECONDS)


def work_here(store: Store, settings: Settings, study_id: int | None, workers: int | None) -> Ended:
    """Work in the foreground until nothing is left, or until the user interrupts.

    workers: CPUs to use; all that this process may use when None.
    Raises what `drive` raises.
    """
    cpus = workers or processes.usable_cpus()
    stopping = Event()
    say(f"starting {cpus} workers ...")
    # Ray prints a paragraph to stdout about each worker that dies, whatever it is told. We say it in a line.
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        cluster.local_cluster(cpus),
        _interruptible(stopping),
        Progress() as progress,
        _warnings_said(),
    ):
        return drive(store, settings, study_id, stopping=stopping, progress=progress)


class _Said(logging.Handler):
    """Says what the driver warns of, above the progress."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def _warnings_said() -> Iterator[None]:
    handler = _Said(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def _interruptible(stopping: Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks the workers to save and leave; the second ends at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        say("stopping: runs save a checkpoint; Ctrl-C again ends at once")

    before: dict[Any, Any] = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
