"""Whole training steps (forward, loss, backward, AdamW): our networks beside timm's, vit-pytorch's and compiled ones.

python -m benchmarks.training_step
python -m benchmarks.training_step --only ViT-Ti/4 --rounds 5 --no-compile
python -m benchmarks.training_step --device cuda

All ways take one step in turn, so that whatever else the machine does meets them all; ratios are those of the steps of
one round. On a CPU a step's time is that of the processor, on one thread.
B = images, C = color channels, H, W = pixels, K = classes.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.databases import print_table
from benchmarks.peers import of_timm, of_vit_pytorch
from studies.architectures import named
from studies.cost import train_flops
from studies.definitions import Gelu, ResNet, ViT
from workers.devices import Device
from workers.models import blocks
from workers.models.build import build

CLASSES = 1000
OURS, OURS_FP32, TIMM, TIMM_FP32 = "vitscale", "vitscale fp32", "timm", "timm fp32"
OTHER_WAYS = ("vitscale SDPA", "vitscale compiled", "vitscale SDPA compiled")

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Case:
    """A network, its images, and what we want to reach: ratios of ours to others, and a share of the bf16 peak."""

    model: str
    image_size: int
    batch: int
    over_timm: float
    share: float | None = None
    over_timm_fp32: float | None = None
    fp32_over_timm_fp32: float | None = None
    over_other_ways: float | None = None

    def definition(self) -> ViT | ResNet:
        """The network's definition, with the head and the form of GELU that timm has."""
        model = named(self.model, None if self.model.startswith("R") else "token")
        assert isinstance(model, ViT | ResNet)
        return model.model_copy(update={"gelu": "exact"}) if isinstance(model, ViT) else model


CASES = {
    "cpu": (
        Case("ViT-Ti/4", 32, 64, 1.5, 0.58, 3.0, 1.4, 0.97),
        Case("ViT-Ti/16", 224, 16, 1.5, 0.60, 3.0, 1.4, 0.97),
        Case("ViT-S/16", 224, 8, 1.35, 0.65, 3.0, 1.4, 0.97),
        Case("R50x1", 128, 8, 1.15),
    ),
    "cuda": (
        Case("ViT-B/16", 224, 256, 1.1, 0.50),
        Case("ViT-L/16", 224, 128, 1.1, 0.55),
    ),
}


@dataclass
class Way:
    """One way to train: a network, its optimizer, and what was measured of it."""

    network: nn.Module
    precision: Precision = "bf16"
    compiled: bool = False
    fused_attention: bool = False
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def prepare(self, device: Device) -> None:
        """Move to the device, and take as many steps as compilers and caches need before they are at their pace."""
        self.network.to(device.torch).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.call: Callable[[Tensor], Tensor] = torch.compile(self.network) if self.compiled else self.network

    def step(self, device: Device, image_BCHW: Tensor, label_B: Tensor) -> Tensor:
        """Do one step; the loss before it."""
        with _sdpa() if self.fused_attention else _as_chosen(), device.autocast(self.precision):
            logits_BK = self.call(image_BCHW)
        loss = functional.cross_entropy(logits_BK.float(), label_B)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


@contextmanager
def _as_chosen() -> Iterator[None]:
    yield


@contextmanager
def _sdpa() -> Iterator[None]:
    """Give our blocks torch's fused attention, whatever rules.py chose."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    with patch.object(blocks, "attend", attend):
        yield


def ways_of(case: Case, device: Device, compiles: bool) -> dict[str, Way]:
    """All that is measured for a case, by name; timm first."""
    model, size = case.definition(), case.image_size

    def ours(gelu: Gelu = "exact") -> nn.Module:
        shape = model.model_copy(update={"gelu": gelu}) if isinstance(model, ViT) else model
        return build(shape, image_size=size, channels=3, classes=CLASSES, seed=0)

    def timms() -> nn.Module:
        return of_timm(model, image_size=size, classes=CLASSES)

    if device.torch.type != "cpu":
        return {TIMM: Way(timms(), compiled=True), OURS: Way(ours(), compiled=True)}
    ways = {TIMM_FP32: Way(timms(), "fp32"), TIMM: Way(timms()), OURS_FP32: Way(ours(), "fp32"), OURS: Way(ours())}
    if isinstance(model, ViT):
        ways["vit-pytorch"] = Way(of_vit_pytorch(model, image_size=size, classes=CLASSES))
        ways["vitscale, tanh GELU"] = Way(ours("tanh"))
        ways["vitscale SDPA"] = Way(ours(), fused_attention=True)
    if compiles and isinstance(model, ViT):
        ways["timm compiled"] = Way(timms(), compiled=True)
        ways["vitscale compiled"] = Way(ours(), compiled=True)
        ways["vitscale SDPA compiled"] = Way(ours(), compiled=True, fused_attention=True)
    return ways


def measure(case: Case, ways: dict[str, Way], device: Device, rounds: int) -> list[float]:
    """Let all ways take a step in each round; the peak of each round, in FLOP/s."""
    clock = time.process_time if device.torch.type == "cpu" else time.perf_counter
    generator = torch.Generator().manual_seed(0)
    image_BCHW = device.place(torch.rand(case.batch, 3, case.image_size, case.image_size, generator=generator) * 2 - 1)
    label_B = device.place(torch.randint(0, CLASSES, (case.batch,), generator=generator))
    for way in ways.values():
        way.prepare(device)
        for _ in range(3):
            way.losses.append(float(way.step(device, image_BCHW, label_B)))
    peaks = []
    for _ in range(rounds):
        for way in ways.values():
            device.wait()
            start = clock()
            loss = way.step(device, image_BCHW, label_B)
            device.wait()
            way.seconds.append(clock() - start)
            way.losses.append(float(loss))
        peaks.append(peak_flops(device, clock))
    for name, way in ways.items():
        assert all(math.isfinite(loss) for loss in way.losses), f"{name}: a loss is not finite"
        assert way.losses[-1] < way.losses[0], f"{name} does not learn its batch: {way.losses}"
    return peaks


def peak_flops(device: Device, clock: Callable[[], float]) -> float:
    """Floating-point operations per second of a large product of bf16 matrices."""
    side, repeats = (2048, 5) if device.torch.type == "cpu" else (8192, 20)
    a = torch.ones(side, side, dtype=torch.bfloat16, device=device.torch)
    a @ a
    device.wait()
    start = clock()
    for _ in range(repeats):
        a @ a
    device.wait()
    return repeats * 2 * side**3 / (clock() - start)


def ratio(fast: Way, slow: Way) -> float:
    """How many times the speed of another way this one has: the median over rounds."""
    return statistics.median(b / a for a, b in zip(fast.seconds, slow.seconds, strict=True))


def share_of_peak(case: Case, way: Way, peaks: list[float]) -> float:
    """Useful operations per second, recomputation and padding not counted, over the peak of the same round."""
    flops = train_flops(case.definition(), case.image_size, 3, CLASSES, case.batch)
    return statistics.median(flops / seconds / peak for seconds, peak in zip(way.seconds, peaks, strict=True))


def goals_of(case: Case, ways: dict[str, Way], peaks: list[float]) -> list[tuple[str, float, str]]:
    """What is asked of a case, what was measured, and whether it is enough."""
    ours = ways[OURS]
    asked: list[tuple[str, float | None, Callable[[], float]]] = [
        ("vitscale over timm", case.over_timm, partial(ratio, ours, ways[TIMM])),
        ("vitscale, share of the bf16 peak", case.share, partial(share_of_peak, case, ours, peaks)),
        ("vitscale over timm fp32", case.over_timm_fp32, partial(ratio, ours, ways[TIMM_FP32])),
        ("vitscale fp32 over timm fp32", case.fp32_over_timm_fp32, lambda: ratio(ways[OURS_FP32], ways[TIMM_FP32])),
        *(
            (f"vitscale over {other}", case.over_other_ways, partial(ratio, ours, ways[other]))
            for other in OTHER_WAYS
            if other in ways
        ),
    ]
    rows = []
    for what, goal, measured in asked:
        if goal is not None:
            value = measured()
            rows.append((what, value, f">= {goal}: {'met' if value >= goal else 'MISSED'}"))
    return rows


def report(case: Case, ways: dict[str, Way], peaks: list[float], device: Device) -> None:
    unit = "CPU-second, one thread" if device.torch.type == "cpu" else "second"
    peak = statistics.median(peaks) / 1e9
    print(f"\n{case.model}, {case.image_size} px, {case.batch} images a step [images per {unit}]")
    least, most = min(peaks) / 1e9, max(peaks) / 1e9
    print(f"bf16 peak {least:,.0f}/{peak:,.0f}/{most:,.0f} GFLOP/s; load average {os.getloadavg()[0]:.1f}")
    rows = []
    for name, way in ways.items():
        speeds = sorted(case.batch / seconds for seconds in way.seconds)
        size = sum(parameter.numel() for parameter in way.network.parameters())
        beside = (ratio(way, ways[TIMM]), share_of_peak(case, way, peaks))
        rows.append((name, f"{size:,}", speeds[0], statistics.median(speeds), speeds[-1], *beside, way.losses[-1]))
    print_table(("way", "parameters", "least", "median", "most", "of timm", "of peak", "last loss"), rows)
    print_table(("goal", "measured", "asked"), goals_of(case, ways, peaks))
    assert rows[0][1] == next(row[1] for row in rows if row[0] == OURS), "timm's network is another one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=sorted(CASES), default="cpu")
    parser.add_argument("--only", action="append", metavar="MODEL", help="measure this model; may be given repeatedly")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled ways out on a CPU")
    arguments = parser.parse_args()
    device = Device.named(arguments.device)
    device.use()
    print(device.numerics)
    for case in CASES[arguments.device]:
        if not arguments.only or case.model in arguments.only:
            ways = ways_of(case, device, compiles=not arguments.no_compile)
            peaks = measure(case, ways, device, arguments.rounds)
            report(case, ways, peaks, device)


if __name__ == "__main__":
    main()
