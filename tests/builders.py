"""Small studies for tests: planned runs that differ in what a test needs, and shortcuts through a run's life."""

from collections.abc import Sequence
from dataclasses import dataclass

from db import ledger, studies
from db.ledger import Claim
from db.store import Connection
from studies import metrics
from studies.datasets import DIGITS
from studies.definitions import Evaluate, FewShot, Train
from studies.models import ResNet, ViT
from studies.planned import PlannedRun
from studies.recipes import recipe


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
    return PlannedRun(run, of.training, of.model, of.family, of.epochs, of.sweep, of.searched)


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
    return PlannedRun(run, of.training, of.model, of.family, of.epochs, of.sweep, of.searched)


def submit(connection: Connection, planned: Sequence[PlannedRun], name: str = "tiny", priority: int = 0) -> int:
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
        cpus=1,
        gpus=0,
        priority=priority,
    ).study_id


def claim(connection: Connection, *, owner: str = "a", lease_seconds: float = 60, study: int | None = None) -> Claim:
    """Claim a run that must be there."""
    claimed = try_claim(connection, owner=owner, lease_seconds=lease_seconds, study=study)
    assert claimed is not None, "there is nothing to claim"
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
    return ledger.claim(
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
    """Commit a claimed run: a training with its checkpoint, an evaluation with its accuracy."""
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
