"""A folder with two studies that were worked on as a worker of the command does it, and what their store holds."""

import threading
import time
from pathlib import Path

from db import answers
from db.store import Store, default_url
from orchestrator import processes
from orchestrator.settings import settings
from orchestrator.worker import Worker
from tests.command_in_process import vitscale
from tests.command_line import TINY, write_study

EVALUATE = "evaluations: [{kind: split, split: test}]\n"
ONE_RUN = TINY.replace("epochs: [5, 10]", "epochs: 5").replace("seed: [0, 1]", "seed: 0").split("  - {model:")[0]
DIVERGING = (
    ONE_RUN.replace("name: tiny", "name: diverging").replace("recipe: small", "recipe: {base: small, lr_peak: 1.0e+30}")
    + EVALUATE
)


ENDED = {"done", "failed", "blocked"}


def finish_both(folder: Path) -> None:
    """Finish a study there, and one whose only training diverges, without the seconds that a Ray takes to start."""
    for text, file in ((TINY, "tiny.yaml"), (DIVERGING, "diverging.yaml")):
        queued = vitscale("submit", write_study(folder, text, file), "--queue", cwd=folder)
        assert queued.code == 0, queued.err
    place = settings(f"sqlite:///{folder / '.vitscale' / 'store.db'}", folder / ".vitscale")
    worker = Worker(place, cpus=1, gpus=0, perform=None, driver=(processes.HOST, *processes.own()))
    thread = threading.Thread(target=worker.work, args=(None,))
    thread.start()
    end = time.monotonic() + 120
    while {run.state for study in ("tiny", "diverging") for run in runs_of(folder, study)} - ENDED:
        assert time.monotonic() < end, "the studies were not done in time"
        time.sleep(0.1)
    worker.ask("yield")
    thread.join()


def runs_of(folder: Path, study: str = "tiny") -> list[answers.Run]:
    """The runs of a study in a folder's store."""
    store = Store.open(default_url(folder), create=False)
    try:
        with store.read() as connection:
            found = answers.study_named(connection, study)
            assert found is not None
            return answers.runs_of(connection, found.id)
    finally:
        store.dispose()


def trained(folder: Path, family: str = "ViT") -> answers.Run:
    """A finished training of the tiny study."""
    return next(run for run in runs_of(folder) if (run.kind, run.state, run.family) == ("train", "done", family))
