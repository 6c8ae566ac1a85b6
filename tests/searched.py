"""Small searches for tests, and a stand-in for the workers: it hands in an accuracy for each run that is ready."""

import math
from collections.abc import Callable
from typing import Any

from db import ledger, studies
from db.claiming import Claim
from db.store import Connection, Store
from studies import metrics
from studies.datasets import DIGITS
from studies.definitions import RUN, Classification, Data, FineTune
from studies.models import MaskedPatch
from studies.planned import PlannedRun
from studies.recipes import recipe
from studies.searches import PlannedSearch, Search, Task
from tests import builders

DEVELOPMENT = DIGITS.take("validation")
LRS = (0.001, 0.003, 0.01, 0.03)
PRETRAINING = builders.training(steps=20)
Quality = Callable[[FineTune], float]


def task(rows: int = 100, steps: int = 20) -> Task:
    """Fine-tuning on a part of the digits; what it is measured on is their test split."""
    return Task(
        search=DIGITS.take("train", rows),
        development=DEVELOPMENT,
        whole=DIGITS.take("train"),
        image_size=8,
        recipe=recipe("small", {"batch": 50, "warmup_steps": 2}),
        steps=steps,
        evaluations=(Classification(data=DIGITS.take("test"), image_size=8),),
    )


def search(pretraining: PlannedRun = PRETRAINING, *, tasks: tuple[Task, ...] = (task(),), **fields: Any) -> Search:
    """A grid of four learning rates, or what the fields say."""
    model = pretraining.training.model
    assert not isinstance(model, MaskedPatch)
    return Search(upstream=pretraining.key, model=model, tasks=tasks, **{"space": {"lr_peak": LRS}, **fields})


def submit(connection: Connection, *searches: Search, pretraining: PlannedRun = PRETRAINING, name: str = "tiny") -> int:
    """A study of one pre-training and searches on it; its id."""
    return studies.submit(
        connection,
        name=name,
        title="A tiny study",
        source="tests",
        shows="nothing",
        text=f"name: {name}",
        file=f"studies/{name}.yaml",
        planned=[pretraining],
        searches=[PlannedSearch(each, pretraining, "fine-tuning") for each in searches],
        cpus=1,
        gpus=0,
        priority=0,
    ).study_id


def best_at(lr: float) -> Quality:
    """Accuracies that are highest at a learning rate, and differ a little by data."""
    return lambda run: 0.9 - 0.1 * abs(math.log10(run.recipe.lr_peak / lr)) - 1e-4 * run.data.rows / 1000


def work(store: Store, quality: Quality, *, most: int | None = None) -> int:
    """Do what is ready, at the most so many runs; how many that were."""
    done = 0
    while most is None or done < most:
        with store.begin() as connection:
            claimed = builders.try_claim(connection)
        if claimed is None:
            break
        with store.begin() as connection:
            hand_in(connection, claimed, quality)
        done += 1
    return done


def measure(connection: Connection, claimed: Claim, step: int, accuracy: float | None = None) -> str:
    """Renew a lease with what was measured on the development split, if anything was; what the run hears."""
    name = metrics.watched(metrics.ACCURACY, DEVELOPMENT.name, DEVELOPMENT.split)
    return ledger.renew(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        lease_seconds=60,
        step=step,
        measurements=[] if accuracy is None else [(step, name, accuracy)],
    )


def hand_in(connection: Connection, claimed: Claim, quality: Quality) -> bool:
    """Commit a run with what it would have measured."""
    run = RUN.validate_json(claimed.definition)
    values = []
    if isinstance(run, FineTune):
        measured: list[Data] = [watch.data for watch in run.watches]
        values = [builders.Value(metrics.ACCURACY, quality(run), each.name, each.split) for each in measured]
    elif run.kind == "evaluate":
        values = [builders.Value(metrics.ACCURACY, 0.5)]
    return ledger.commit(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        values=values,
        checkpoint=f"{claimed.key[:12]}/final" if claimed.steps else None,
        step=claimed.steps,
    )
