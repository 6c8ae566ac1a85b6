"""A study in a real store whose results follow a known surface, with seeds about it: what laws are fitted to."""

import math
import random
from itertools import product
from pathlib import Path

from db.store import Store, default_url
from studies.planned import PlannedRun
from tests.builders import commit, evaluation, submit, training, try_claim

E, A, ALPHA, B, BETA = 0.05, 3.0, 0.4, 4.0, 0.4
RESNETS_WORSE_BY = 1.1
WIDTHS, STEPS, SEEDS = (8, 16, 32, 64), (20, 40, 80, 160), (0, 1)
ROWS = 1000
CONFIGURATIONS = 2 * len(WIDTHS) * len(STEPS)


def error_of(run: PlannedRun) -> float:
    """Of the evaluation of a training, without noise."""
    surface: float = E + A * run.parameters**-ALPHA + B * run.training.examples**-BETA
    return surface * (RESNETS_WORSE_BY if run.family == "ResNet" else 1.0)


def scaling_study(folder: Path, *, name: str = "scaling") -> None:
    """Put the study into the store of a folder: ViTs and ResNets of four widths and four lengths, two seeds each."""
    store = Store.open(default_url(folder))
    noise = random.Random(0)
    planned = []
    for family, width, steps, seed in product(("ViT", "ResNet"), WIDTHS, STEPS, SEEDS):
        of = training(family=family, width=width, steps=steps, rows=ROWS, seed=seed)
        planned += [of, evaluation(of)]
    runs = {run.key: run for run in planned}
    with store.begin() as connection:
        submit(connection, planned, name=name)
        while claimed := try_claim(connection):
            run = runs[claimed.key]
            error = error_of(run) * math.exp(noise.gauss(0.0, 0.02))
            commit(connection, claimed, None if claimed.steps else 1 - error)
    store.dispose()
