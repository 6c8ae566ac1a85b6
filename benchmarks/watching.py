"""What evaluations on the way cost: their share of a training's processor time under `every: auto`, on one thread.

python -m benchmarks.watching

Trains for the fewest steps that have an evaluation on the way, where the share is largest: there it is one beside the
last. Fails where a share is above a tenth.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.databases import print_table
from studies.datasets import DIGITS, SHAPES, DataSet
from studies.definitions import SplitWatch, Train
from studies.evaluations import WATCHED_SHARE
from studies.models import ResNet, ViT
from studies.recipes import recipe
from workers.devices import Device
from workers.supervision import Place, Wish
from workers.training import train

GOAL = 0.1
ROUNDS = 3
ROWS, BATCH = 512, 32
VIT = ViT(patch=8, width=48, depth=2, mlp=192, heads=4, head="gap")
CONV = ResNet(blocks=(1, 1), width=8, groups=4)
CASES: dict[str, tuple[ViT | ResNet, DataSet, str]] = {
    "ViT-w48/8, shapes": (VIT, SHAPES, "fp32"),
    "ViT-w48/8, shapes, bf16": (VIT, SHAPES, "bf16"),
    "convx1, shapes": (CONV, SHAPES, "fp32"),
    "convx1, shapes, bf16": (CONV, SHAPES, "bf16"),
    "ViT-w48/4, digits": (VIT.model_copy(update={"patch": 4}), DIGITS, "fp32"),
}


class Silent:
    """A supervisor that wants nothing and keeps nothing."""

    def reached(self, step: int) -> Wish:
        """Go on."""
        return Wish.CONTINUE

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Forget it."""

    def checkpointed(self, folder: Path, step: int) -> None:
        """Forget it."""


def seconds(run: Train, device: Device) -> float:
    """Processor time of a training with all that it does."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        train(run, Place(device, Path(folder), checkpoint_seconds=3600), Silent())
        return time.process_time() - begun


def training(model: ViT | ResNet, data_set: DataSet, precision: str, *, watched: bool) -> Train:
    data, rows = data_set.take("train", 1000), min(ROWS, data_set.take("test").rows)
    side = data.image_size
    assert side is not None
    # A step longer than twice the interval, so that one evaluation is on the way and one at the end.
    every = int(rows / WATCHED_SHARE) // BATCH
    watch = SplitWatch(data=data_set.take("test", rows), image_size=side, every=every)
    return Train(
        model=model,
        data=data,
        image_size=side,
        recipe=recipe("small", {"batch": BATCH, "precision": precision}),
        examples=(every + 1) * BATCH,
        seed=0,
        watches=(watch,) if watched else (),
    )


def main() -> int:
    device = Device.named("cpu", threads=1)
    rows, missed = [], False
    for name, (model, data_set, precision) in CASES.items():
        watched, bare = (training(model, data_set, precision, watched=each) for each in (True, False))
        shares = []
        for _ in range(ROUNDS):
            alone, both = seconds(bare, device), seconds(watched, device)
            shares.append((both - alone) / both)
        share = statistics.median(shares)
        missed |= share > GOAL
        rows.append(
            (name, f"{bare.steps:,}", f"{alone:.1f} s", f"{100 * share:.1f} %", "MISSED" if share > GOAL else "met")
        )
    print_table(("network", "steps", "training alone", "share of evaluations", f"goal <= {GOAL:.0%}"), rows)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
