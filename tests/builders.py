"""Small studies for tests: planned runs that differ in what a test needs, and shortcuts through a run's life."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from db import answers, claiming, ledger, searches, studies
from db.claiming import Claim
from db.searches import HeldSearch
from db.store import Connection
from studies import metrics
from studies.datasets import DIGITS
from studies.definitions import Classification, Evaluate, FewShot, FineTune, Train
from studies.models import ResNet, ViT, fine_tuned
from studies.planned import PlannedRun
from studies.recipes import recipe
from studies.schedules import ReciprocalSqrt
from studies.searches import PlannedSearch, Search, Task


@dataclass(frozen=True)
class Value:
    """A final value, as an attempt hands it in."""

    metric: str
    value: float | None
    dataset: str = "digits"
    split: str = "test"
    image_size: int = 8


def training(
    *,
    seed: int = 0,
    width: int = 8,
    rows: int = 100,
    steps: int = 40,
    lr_peak: float = 3e-3,
    sweep: str | None = None,
    family: str = "ViT",
) -> PlannedRun:
    """A training whose cost grows with `steps`, of a network whose name says its width and family."""
    model: ViT | ResNet = ViT(patch=4, width=width, depth=1, mlp=width, heads=1)
    if family == "ResNet":
        model = ResNet(blocks=(1,), width=width, root="3x3", groups=1)
    train = Train(
        model=model,
        data=DIGITS.take("train", rows),
        image_size=8,
        recipe=recipe("small", {"lr_peak": lr_peak, "batch": 50}),
        examples=50 * steps,
        seed=seed,
    )
    searched = f'{{"lr_peak":{lr_peak}}}' if sweep else None
    return PlannedRun(train, train, f"{family}-{width}", family, 50 * steps / rows, sweep, searched)


def evaluation(of: PlannedRun, split: str = "test") -> PlannedRun:
    """Classify a split with a trained model."""
    run = Evaluate(upstream=of.key, data=DIGITS.take(split), image_size=8)
    return replace(of, run=run, trunk=None)


def fewshot(of: PlannedRun, shots: tuple[int, ...] = (5,), support_seeds: tuple[int, ...] = (0, 1)) -> PlannedRun:
    """Few-shot classification of the test split with a trained model."""
    run = FewShot(
        upstream=of.key,
        support=DIGITS.take("validation"),
        data=DIGITS.take("test"),
        image_size=8,
        shots=shots,
        support_seeds=support_seeds,
        l2=(1.0,),
    )
    return replace(of, run=run, trunk=None)


def fine_tuning(of: PlannedRun, *, seed: int = 0, lr_peak: float = 3e-3, transfer: str = "tuned") -> PlannedRun:
    """Go on from a trained model for 20 steps, as a cell of a study's transfer."""
    run = FineTune(
        upstream=of.key,
        model=fine_tuned(of.root.model),
        data=DIGITS.take("train", 100),
        image_size=8,
        recipe=recipe("small", {"lr_peak": lr_peak, "batch": 50}),
        examples=1000,
        seed=seed,
    )
    return replace(of, run=run, training=run, pretraining=of.root, transfer=transfer, trunk=None)


def branches(*steps: int, trunks: bool = True, seed: int = 0) -> list[PlannedRun]:
    """Trainings of these lengths and nothing else different: each after its trunk, which starts from the one before."""
    planned: list[PlannedRun] = []
    before: PlannedRun | None = None
    for length in steps:
        alone = training(seed=seed, steps=length)
        assert isinstance(alone.training, Train)

        def of(cooldown: int, length: int, train: Train = alone.training) -> Train:
            schedule = ReciprocalSqrt(timescale=10, cooldown_steps=cooldown)
            recipe = train.recipe.model_copy(update={"schedule": schedule})
            return train.model_copy(update={"recipe": recipe, "examples": 50 * length})

        trunk, branch = of(0, length - 10), of(10, length)
        if trunks:
            before = replace(alone, run=trunk, training=trunk, role="trunk", trunk=before)
            planned.append(before)
        planned.append(replace(alone, run=branch, training=branch, trunk=before if trunks else None))
    return planned


def search(
    of: PlannedRun, lrs: Sequence[float] = (1e-3, 3e-3), *, transfer: str = "searched", tasks: int = 1, **fields: Any
) -> PlannedSearch:
    """Search the learning rate of a fine-tuning: tasks differ in their number of steps, 20 and more."""
    each = [
        Task(
            search=DIGITS.take("train", 100),
            development=DIGITS.take("validation"),
            whole=DIGITS.take("train", 200),
            image_size=8,
            recipe=recipe("small", {"batch": 50}),
            steps=20 + number,
            evaluations=(Classification(data=DIGITS.take("test"), image_size=8),),
        )
        for number in range(tasks)
    ]
    definition = {"upstream": of.key, "model": fine_tuned(of.root.model), "tasks": each, "space": {"lr_peak": lrs}}
    return PlannedSearch(Search.model_validate({**definition, **fields}), of, transfer)


def submit(
    connection: Connection,
    planned: Sequence[PlannedRun],
    name: str = "tiny",
    priority: int = 0,
    searches: Sequence[PlannedSearch] = (),
) -> int:
    """Submit a study of one-core runs; its id."""
    return studies.submit(
        connection,
        name=name,
        title="A tiny study",
        source="tests",
        shows="nothing",
        text=f"name: {name}",
        file=f"studies/{name}.yaml",
        planned=planned,
        searches=searches,
        cpus=1,
        gpus=0,
        priority=priority,
    ).study_id


def searched(connection: Connection, *, name: str = "tiny", is_done: bool = True, **fields: object) -> HeldSearch:
    """A study with one search, whose pre-training is done."""
    first = training()
    submit(connection, [first], searches=[search(first, **fields)], name=name)  # type: ignore[arg-type]
    if is_done and answers.known(connection, [first.key])[first.key] == "ready":
        commit(connection, claim(connection))
    return next(held for held in searches.undecided(connection, None) if held.study == name)


def trials(held: HeldSearch) -> list[PlannedRun]:
    """The runs of its grid of two learning rates."""
    return [run for lr in (1e-3, 3e-3) for run in held.planned.trial_runs({"lr_peak": lr})]


def decide(connection: Connection, held: HeldSearch, lr: float = 3e-3, development: float = 0.75) -> None:
    """Choose a learning rate."""
    chosen = {"lr_peak": lr}
    searches.decide(
        connection,
        held.id,
        chosen=chosen,
        development=development,
        edge={"lr_peak": "high"},
        extended=False,
        trials=2,
        finals=held.planned.final_runs(chosen),
    )


def claim(connection: Connection, *, owner: str = "a", lease_seconds: float = 60, study: int | None = None) -> Claim:
    """Claim a run that must be there."""
    claimed = try_claim(connection, owner=owner, lease_seconds=lease_seconds, study=study)
    assert claimed is not None, "there is nothing to claim"
    return claimed


def claim_of(connection: Connection, planned: PlannedRun) -> Claim:
    """Claim the run that comes next, which must be this one."""
    claimed = claim(connection)
    assert claimed.key == planned.key
    return claimed


def try_claim(
    connection: Connection,
    *,
    owner: str = "a",
    lease_seconds: float = 60,
    study: int | None = None,
    numerics: str = "cpu-avx2-1",
) -> Claim | None:
    """Claim a run for a place of two cores."""
    return claiming.claim(
        connection,
        owner=owner,
        host="here",
        pid=1,
        process_started=0.0,
        lease_seconds=lease_seconds,
        cpus=2,
        gpus=0,
        study_id=study,
        device="cpu",
        numerics=numerics,
    )


def commit(connection: Connection, claimed: Claim, accuracy: float | None = None, split: str = "test") -> bool:
    """Commit a claimed run: a training with its checkpoint, whatever was measured with its accuracy."""
    values = [] if accuracy is None else [Value(metrics.ACCURACY, accuracy, split=split)]
    return ledger.commit(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        values=values,
        checkpoint=f"{claimed.key[:12]}/final" if claimed.steps else None,
        step=claimed.steps,
    )


def fail(
    connection: Connection, claimed: Claim, *, outcome: str = "unknown", error: str = "boom", step: int = 0
) -> str:
    """End a claimed run with an error."""
    return ledger.fail(
        connection,
        run_id=claimed.run_id,
        fence=claimed.fence,
        outcome=outcome,
        error=error,
        traceback=None,
        step=step,
    )
