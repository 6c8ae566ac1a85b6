"""What orchestration costs: runs that do nothing, through our driver and two warm workers, beside Ray Tune.

python -m benchmarks.orchestration

Ours is timed by the store's clock, from the first claim to the last commit of a round: by then both workers have been
through a round that does not count. Tune is timed from its second finished trial to the last one, so that the start of
its first actors does not count either. Both use the same local Ray.
"""

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.databases import fresh_urls, print_table
from db import answers
from db.store import Store
from orchestrator.cluster import local_cluster
from orchestrator.driver import drive
from orchestrator.settings import Settings
from studies.definitions import Evaluate, FewShot, Train
from studies.metrics import ACCURACY
from studies.planned import PlannedRun
from tests import builders
from workers.supervision import Finished, Place, Supervisor, Value

WORKERS = 2
RUNS = 200
PASSES = 3
"""In each pass everything is measured once more: a machine that is slow for a while is so for all."""
REPEATS = 2
SLOW_TRIALS = 20
"""Tune with function trainables: a trial takes a second, so one repeat is enough."""
GOAL_MILLISECONDS, STRETCH_MILLISECONDS = 10.0, 2.0

GATE_ROWS = 1
"""Runs on so few images are no part of a round: each holds its worker until the other workers are there too."""
FINISHED = Finished((Value(ACCURACY, "digits", "test", 8, 0.5),))

Rounds = dict[str, list[float]]
"""Milliseconds a run in each round, by what the runs are."""


# ---------------------------------------------------------------------------------------------------------------- ours


def perform(gates: Path, run: Train | Evaluate | FewShot, place: Place, supervisor: Supervisor) -> Finished:
    if isinstance(run, Train) and run.data.rows == GATE_ROWS:
        (gates / str(run.seed)).touch()
        first = run.seed - run.seed % WORKERS
        while not all((gates / str(seed)).exists() for seed in range(first, first + WORKERS)):
            time.sleep(0.001)
    return FINISHED


def rounds(repeats: int) -> Iterator[tuple[str, list[PlannedRun]]]:
    """Gate, trainings, gate, the evaluations of these trainings; and so on. Runs are claimed in this order."""
    gate = 0
    for repeat in range(repeats):
        # No two share a configuration: a point of the frontier is of one run, as where seeds are few.
        seeds = range(repeat * RUNS, (repeat + 1) * RUNS)
        trainings = [builders.training(seed=seed, lr_peak=1e-3 + 1e-7 * seed) for seed in seeds]
        for name, runs in (
            ("trainings", trainings),
            ("evaluations", [builders.evaluation(training) for training in trainings]),
        ):
            yield "gate", [builders.training(seed=gate + n, rows=GATE_ROWS) for n in range(WORKERS)]
            yield name, runs
            gate += WORKERS


def ours(url: str) -> Rounds:
    plan = list(rounds(1 + REPEATS))
    store = Store.open(url)
    try:
        with store.begin() as c:
            study = builders.submit(c, [run for _, runs in plan for run in runs])
        with tempfile.TemporaryDirectory() as folder:
            drive(
                store,
                Settings(store_url=url, folder=Path(folder), datasets=Path(folder) / "datasets.yaml"),
                study,
                stopping=Event(),
                progress=lambda totals: None,
                perform=partial(perform, Path(folder)),
            )
        with store.read() as c:
            stored = {run.key: run for run in answers.runs_of(c, study)}
    finally:
        store.dispose()
    times: Rounds = {}
    for name, planned in plan:
        runs = [stored[run.key] for run in planned]
        assert all((run.state, run.fence) == ("done", 1) for run in runs), "a run was lost, or tried twice"
        if name != "gate":
            times.setdefault(name, []).append(milliseconds_a_run(runs))
    return {name: measured[1:] for name, measured in times.items()}


def milliseconds_a_run(runs: Sequence[answers.Run]) -> float:
    claimed = [run.started_at for run in runs if run.started_at is not None]
    committed = [run.finished_at for run in runs if run.finished_at is not None]
    assert len(claimed) == len(committed) == RUNS
    return 1000 * (max(committed) - min(claimed)) / RUNS


# ------------------------------------------------------------------------------------------------------------ Ray Tune


def tuned(make: Callable[[Any], Any], trials: int, *, reuse_actors: bool, folder: str) -> float:
    """Milliseconds a trial. make: gives the trainable, from `ray.tune`."""
    from ray import tune

    class Clock(tune.Callback):
        """Notes when trials finish."""

        def __init__(self) -> None:
            self.finished_at: list[float] = []

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.finished_at.append(time.perf_counter())

    clock = Clock()
    results = tune.Tuner(
        tune.with_resources(make(tune), {"cpu": 1}),
        param_space={"seed": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(reuse_actors=reuse_actors, max_concurrent_trials=WORKERS),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            callbacks=[clock],
            # Our runs that do nothing save no checkpoint either.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    assert len(results) == len(clock.finished_at) == trials
    assert (results.get_dataframe()["accuracy"] == 0.5).all(), "a trial has no result"
    counted = clock.finished_at[WORKERS - 1 :]
    return 1000 * (counted[-1] - counted[0]) / (len(counted) - 1)


def function_trainable(tune: Any) -> Any:
    def nothing(config: dict[str, Any]) -> None:
        tune.report({"accuracy": 0.5})

    return nothing


def class_trainable(tune: Any) -> Any:
    class Nothing(tune.Trainable):  # type: ignore[misc]
        """Done after one step; it can be used again."""

        def setup(self, config: dict[str, Any]) -> None: ...

        def step(self) -> dict[str, Any]:
            return {"accuracy": 0.5, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    return Nothing


# --------------------------------------------------------------------------------------------------------------- table

REUSED = "Ray Tune, class trainable, actors reused"
FRESH = "Ray Tune, function trainable"


def main() -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 is honoured by the old output only
    times: dict[str, tuple[int, list[float]]] = {}

    def note(name: str, runs: int, milliseconds: Sequence[float]) -> None:
        times.setdefault(name, (runs, []))[1].extend(milliseconds)
        print(f"{name}: {', '.join(f'{each:,.2f}' for each in milliseconds)} ms", file=sys.stderr, flush=True)

    with local_cluster(WORKERS), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        for number in range(PASSES):
            with fresh_urls() as urls:
                for dialect, url in urls.items():
                    for name, measured in ours(url).items():
                        note(f"vitscale, {dialect}, {name}", RUNS, measured)
            for repeat in range(REPEATS):
                place = f"{folder}/reused-{number}-{repeat}"
                note(REUSED, RUNS, [tuned(class_trainable, RUNS, reuse_actors=True, folder=place)])
            place = f"{folder}/fresh-{number}"
            note(FRESH, SLOW_TRIALS, [tuned(function_trainable, SLOW_TRIALS, reuse_actors=False, folder=place)])
    reused = statistics.median(times[REUSED][1])
    rows = []
    for name, (runs, measured) in times.items():
        median = statistics.median(measured)
        said = "-"
        if name not in (REUSED, FRESH):
            said = "MISSED" if median > GOAL_MILLISECONDS else "met" if median > STRETCH_MILLISECONDS else "stretch met"
            said = f"<= {GOAL_MILLISECONDS:.0f} ms ({STRETCH_MILLISECONDS:.0f} ms): {said}"
        rows.append((name, runs, len(measured), min(measured), median, max(measured), median / reused, said))
    print(f"runs that do nothing, on {WORKERS} warm workers [ms a run]; load average {os.getloadavg()[0]:.1f}")
    print_table(("what", "runs", "repeats", "least", "median", "most", "of reused Tune", "goal (stretch)"), rows)


if __name__ == "__main__":
    main()
