"""Sweeps of learning rates as one batched program, beside the same trainings one after the other, on one CPU thread.

python -m benchmarks.stacked

Both ways take the same steps in turn in one process with the environment that our workers get, so that whatever else
the machine does meets both; a ratio is that of one round. Fails when a stack that `pays` chooses misses its goal.
K = classes, B = images.
"""

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.databases import print_table
from studies.datasets import DIGITS, SHAPES
from studies.definitions import Train
from studies.models import Hybrid, ResNet, ViT
from studies.recipes import recipe
from studies.registry import BUILT_IN_ONLY
from workers.data.batches import normalized
from workers.data.sources import open_source
from workers.devices import Device
from workers.kernels import allocator
from workers.stack import Stack
from workers.stacked import pays
from workers.training import Training

GOAL = 1.5
COUNTS = (4, 8)
ROUNDS, STEPS = 9, 4
SWEEP_STEPS = 400

XS_4 = ViT(patch=4, width=32, depth=2, mlp=64, heads=2, head="gap")
XS_2 = XS_4.model_copy(update={"patch": 2})
M_4 = ViT(patch=4, width=64, depth=4, mlp=128, heads=4, head="gap")
CONV = ResNet(blocks=(1, 1), width=8, root="3x3", groups=4)
SWEPT = ("ViT-xs/4", "convx1")


@dataclass(frozen=True)
class Case:
    """A network and its images; the recipe is `small`."""

    model: ViT | ResNet | Hybrid
    image_size: int = 8
    precision: str = "fp32"

    def runs(self, count: int, *, seed: int = 0) -> list[Train]:
        """Trainings with rates around the recipe's, a factor of the root of 2 apart."""
        data = (DIGITS if self.image_size == 8 else SHAPES).take("train", 1000)
        rates = [5e-3 * 2 ** ((place - count // 2) / 2) for place in range(count)]
        changed: list[dict[str, Any]] = [{"lr_peak": rate, "precision": self.precision} for rate in rates]
        recipes = [recipe("small", each) for each in changed]
        examples = SWEEP_STEPS * recipes[0].batch
        return [
            Train(model=self.model, data=data, image_size=self.image_size, recipe=each, examples=examples, seed=seed)
            for each in recipes
        ]


CASES = {
    "ViT-w16/4": Case(ViT(patch=4, width=16, depth=1, mlp=32, heads=2, head="gap")),
    "ViT-xs/4": Case(XS_4),
    "ViT-xs/4 bf16": Case(XS_4, precision="bf16"),
    "ViT-xs/2": Case(XS_2),
    "ViT-m/4": Case(M_4),
    "ViT-m/4 bf16": Case(M_4, precision="bf16"),
    "ViT-m/2": Case(M_4.model_copy(update={"patch": 2})),
    "ViT-xs/8, 32 px": Case(XS_4.model_copy(update={"patch": 8}), 32),
    "convx1": Case(CONV),
    "convx1 bf16": Case(CONV, precision="bf16"),
    "convx2": Case(CONV.model_copy(update={"width": 16})),
    "convx2 bf16": Case(CONV.model_copy(update={"width": 16}), precision="bf16"),
    "convx4": Case(CONV.model_copy(update={"width": 32})),
    "conv+ViT-xs/2": Case(Hybrid(body=CONV, vit=XS_2)),
    "conv+ViT-xs/2 bf16": Case(Hybrid(body=CONV, vit=XS_2), precision="bf16"),
}


def seconds_of(way: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        way()
    return time.process_time() - start


def measure_steps(device: Device) -> bool:
    """Steps of all runs of a stack, both ways. Whether all goals are met."""
    rows, is_met = [], True
    for name, case in CASES.items():
        for count in COUNTS:
            runs = case.runs(count)
            alone = [Training(run, device) for run in runs]
            stack = Stack(runs, Training(runs[0], device))
            rounds = []
            for _ in range(ROUNDS + 1):
                one_by_one = sum(seconds_of(training.update, STEPS) for training in alone)
                rounds.append((one_by_one, seconds_of(stack.update, STEPS)))
            ratios = sorted(a / b for a, b in rounds[1:])  # the first round prepares caches
            median = statistics.median(ratios)
            goal = ""
            if pays(runs[0], count, device):
                goal = f">= {GOAL}: {'met' if median >= GOAL else 'MISSED'}"
                is_met = is_met and median >= GOAL
            own, together = (1000 * statistics.median(each[way] for each in rounds[1:]) / STEPS for way in (0, 1))
            rows.append((name, count, own / count, together, ratios[0], median, ratios[-1], goal))
    print("\nOne step of each run, milliseconds of processor time; how many times as fast together")
    print_table(("network", "runs", "a run alone", "all together", "least", "median", "most", "goal"), rows)
    return is_met


def measure_sweeps(device: Device) -> None:
    """Whole trainings of eight rates, both ways, and how far what they learn is apart."""
    image_NHWC, label_N = open_source(DIGITS.take("test"), BUILT_IN_ONLY).decoded()
    image, label = normalized(torch.tensor(image_NHWC)), torch.tensor(label_N)

    def accuracy(training: Training) -> float:
        with torch.no_grad():
            logits: Tensor = training.network.eval()(image)
        training.network.train()
        return float((logits.argmax(dim=1) == label).double().mean())

    rows = []
    first = CASES["ViT-w16/4"].runs(2)
    Stack(first, Training(first[0], device)).update()  # what is imported late, once a process
    for name in SWEPT:
        runs = CASES[name].runs(8)
        start = time.process_time()
        stack = Stack(runs, Training(runs[0], device))
        for _ in range(SWEEP_STEPS):
            stack.update()
        together_seconds = time.process_time() - start
        together = [(stack.losses()[seat], accuracy(stack.restore(seat))) for seat in range(len(runs))]
        start = time.process_time()
        alone = [trained(run, device) for run in runs]
        alone_seconds = time.process_time() - start
        again = [trained(run, device) for run in CASES[name].runs(8, seed=1)]
        for run, (loss, right), one, other in zip(runs, together, alone, again, strict=True):
            losses = (one[0], loss, other[0])
            accuracies = [f"{100 * each:.2f} %" for each in (accuracy(one[1]), right, accuracy(other[1]))]
            rows.append((name, f"{run.recipe.lr_peak:.2e}", *(f"{each:.4f}" for each in losses), *accuracies))
        print(
            f"\n{name}: eight trainings of {SWEEP_STEPS} steps, from nothing to the end, take {alone_seconds:.1f} s"
            f" one after the other and {together_seconds:.1f} s together: {alone_seconds / together_seconds:.2f}"
        )
    print("\nThe last loss in nats and the test accuracy")
    head = ("network", "lr_peak", "alone", "together", "another seed", "alone", "together", "another seed")
    print_table(head, rows)


def trained(run: Train, device: Device) -> tuple[float, Training]:
    """The last loss, and the training at its end."""
    training = Training(run, device)
    losses = [training.update() for _ in range(run.steps)]
    return float(losses[-1]), training


def measure() -> None:
    """Exit with 1 when a goal is missed."""
    device = Device.named("cpu")
    device.use()
    print(device.numerics)
    measure_sweeps(device)
    is_met = measure_steps(device)
    print(f"load average {os.getloadavg()[0]:.1f}")
    sys.exit(0 if is_met else 1)


def main() -> None:
    process = multiprocessing.get_context("spawn").Process(target=measure)
    with patch.dict(os.environ, allocator.ENVIRONMENT):
        process.start()
    process.join()
    sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
