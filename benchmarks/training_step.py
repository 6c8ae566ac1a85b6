"""Whole training steps (forward, loss, backward, AdamW): our networks beside timm's, vit-pytorch's and compiled ones.

python -m benchmarks.training_step
python -m benchmarks.training_step --only ViT-Ti/4 --rounds 5 --no-compile
python -m benchmarks.training_step --device cuda

All ways take one step in turn, so that whatever else the machine does meets them all; ratios are those of the steps of
one round. On a CPU a step's time is that of the processor, on one thread. Ours run in a process with the environment in
which our workers run, others in one as they come; timm is measured in ours too.
B = images, C = color channels, H, W = pixels, K = classes.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.databases import print_table
from benchmarks.peers import of_timm, of_vit_pytorch
from studies.architectures import named
from studies.cost import train_flops
from studies.models import Gelu, ResNet, ViT
from workers.devices import Device
from workers.kernels import allocator
from workers.models import blocks
from workers.models.build import build

CLASSES = 1000
OURS, OURS_FP32, TIMM, TIMM_FP32 = "vitscale", "vitscale fp32", "timm", "timm fp32"
OTHER_WAYS = ("vitscale SDPA", "vitscale compiled", "vitscale SDPA compiled")
PEAK = "bf16 peak"

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


@dataclass(frozen=True)
class Way:
    """One way to train: whose network, and how it is computed."""

    library: Literal["vitscale", "timm", "vit-pytorch"] = "vitscale"
    precision: Precision = "bf16"
    compiled: bool = False
    fused_attention: bool = False
    gelu: Gelu = "exact"
    as_our_workers: bool = True
    """Whether in the environment that our workers have; else in that of the benchmark."""


@dataclass
class Measured:
    """What was measured of a way."""

    parameters: int
    losses: list[float]
    seconds: list[float] = field(default_factory=list)


def ways_of(case: Case, device: str, compiles: bool) -> dict[str, Way]:
    """All that is measured for a case, by name; timm first."""
    if device != "cpu":
        return {TIMM: Way("timm", compiled=True), OURS: Way(compiled=True)}
    ways = {
        TIMM_FP32: Way("timm", "fp32", as_our_workers=False),
        TIMM: Way("timm", as_our_workers=False),
        "timm, our allocator": Way("timm"),
        OURS_FP32: Way(precision="fp32"),
        OURS: Way(),
    }
    if isinstance(case.definition(), ViT):
        ways["vit-pytorch"] = Way("vit-pytorch", as_our_workers=False)
        ways["vit-pytorch, our allocator"] = Way("vit-pytorch")
        ways["vitscale, tanh GELU"] = Way(gelu="tanh")
        ways["vitscale SDPA"] = Way(fused_attention=True)
        if compiles:
            ways["timm compiled"] = Way("timm", compiled=True, as_our_workers=False)
            ways["vitscale compiled"] = Way(compiled=True)
            ways["vitscale SDPA compiled"] = Way(compiled=True, fused_attention=True)
    return ways


# ---------------------------------------------------------------------------------------- in the processes that compute


class Training:
    """One way at work on one batch."""

    def __init__(self, way: Way, case: Case, device: Device) -> None:
        """Take as many steps as compilers and caches need before they are at their pace."""
        self.way, self.device = way, device
        self.network = network_of(way, case).to(device.torch).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.call: Callable[[Tensor], Tensor] = torch.compile(self.network) if way.compiled else self.network
        generator = torch.Generator().manual_seed(0)
        image_BCHW = torch.rand(case.batch, 3, case.image_size, case.image_size, generator=generator) * 2 - 1
        self.image_BCHW = device.place(image_BCHW)
        self.label_B = device.place(torch.randint(0, CLASSES, (case.batch,), generator=generator))
        self.losses = [float(self.step()) for _ in range(3)]

    def step(self) -> Tensor:
        """Do one step; the loss before it."""
        with _sdpa() if self.way.fused_attention else nullcontext(), self.device.autocast(self.way.precision):
            logits_BK = self.call(self.image_BCHW)
        loss = functional.cross_entropy(logits_BK.float(), self.label_B)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def timed_step(self) -> tuple[float, float]:
        """Seconds of one step, and its loss."""
        clock = clock_of(self.device)
        self.device.wait()
        start = clock()
        loss = self.step()
        self.device.wait()
        return clock() - start, float(loss)


def network_of(way: Way, case: Case) -> nn.Module:
    model, size = case.definition(), case.image_size
    if way.library == "timm":
        return of_timm(model, image_size=size, classes=CLASSES)
    if isinstance(model, ResNet):
        return build(model, image_size=size, channels=3, classes=CLASSES, seed=0)
    if way.library == "vit-pytorch":
        return of_vit_pytorch(model, image_size=size, classes=CLASSES)
    model = model.model_copy(update={"gelu": way.gelu})
    return build(model, image_size=size, channels=3, classes=CLASSES, seed=0)


@contextmanager
def _sdpa() -> Iterator[None]:
    """Give our blocks torch's fused attention, whatever rules.py chose."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    with patch.object(blocks, "attend", attend):
        yield


def clock_of(device: Device) -> Callable[[], float]:
    return time.process_time if device.torch.type == "cpu" else time.perf_counter


def peak_flops(device: Device) -> float:
    """Floating-point operations per second of a large product of bf16 matrices."""
    side, repeats = (2048, 5) if device.torch.type == "cpu" else (8192, 20)
    clock = clock_of(device)
    a = torch.ones(side, side, dtype=torch.bfloat16, device=device.torch)
    a @ a
    device.wait()
    start = clock()
    for _ in range(repeats):
        a @ a
    device.wait()
    return repeats * 2 * side**3 / (clock() - start)


def serve(connection: Connection, case: Case, ways: dict[str, Way], device_name: str) -> None:
    """Prepare these ways, and take a step of each that is asked for."""
    device = Device.named(device_name)
    device.use()
    trainings = {name: Training(way, case, device) for name, way in ways.items()}
    sizes = {name: sum(each.numel() for each in way.network.parameters()) for name, way in trainings.items()}
    connection.send({name: Measured(sizes[name], way.losses) for name, way in trainings.items()})
    while (name := connection.recv()) is not None:
        connection.send(peak_flops(device) if name == PEAK else trainings[name].timed_step())


# ------------------------------------------------------------------------------------------------ in the one that asks


@contextmanager
def serving(case: Case, ways: dict[str, Way], device: str, variables: dict[str, str]) -> Iterator[Connection]:
    """A process with these variables in its environment that takes steps."""
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=serve, args=(there, case, ways, device), daemon=True)
    with patch.dict(os.environ, variables):
        process.start()
    try:
        yield here
        here.send(None)
        process.join()
    finally:
        process.kill()


def measure(case: Case, ways: dict[str, Way], device: str, rounds: int) -> tuple[dict[str, Measured], list[float]]:
    """Let all ways take a step in each round. What was measured of each, and the peak of each round, in FLOP/s."""
    ours = {name: way for name, way in ways.items() if way.as_our_workers}
    others = {name: way for name, way in ways.items() if not way.as_our_workers}
    peaks = []
    with (
        serving(case, ours, device, allocator.ENVIRONMENT) as our_process,
        serving(case, others, device, {}) as other_process,
    ):
        process_of = dict.fromkeys(ours, our_process) | dict.fromkeys(others, other_process)
        found: dict[str, Measured] = our_process.recv() | other_process.recv()
        for _ in range(rounds):
            for name in ways:
                process_of[name].send(name)
                seconds, loss = process_of[name].recv()
                found[name].seconds.append(seconds)
                found[name].losses.append(loss)
            our_process.send(PEAK)
            peaks.append(our_process.recv())
    for name, way in found.items():
        assert all(math.isfinite(loss) for loss in way.losses), f"{name}: a loss is not finite"
        assert way.losses[-1] < way.losses[0], f"{name} does not learn its batch: {way.losses}"
    return {name: found[name] for name in ways}, peaks


def ratio(fast: Measured, slow: Measured) -> float:
    """How many times the speed of another way this one has: the median over rounds."""
    return statistics.median(b / a for a, b in zip(fast.seconds, slow.seconds, strict=True))


def share_of_peak(case: Case, way: Measured, peaks: list[float]) -> float:
    """Useful operations per second, recomputation and padding not counted, over the peak of the same round."""
    flops = train_flops(case.definition(), case.image_size, 3, CLASSES, case.batch)
    return statistics.median(flops / seconds / peak for seconds, peak in zip(way.seconds, peaks, strict=True))


def goals_of(case: Case, ways: dict[str, Measured], peaks: list[float]) -> list[tuple[str, float, str]]:
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


def report(case: Case, ways: dict[str, Measured], peaks: list[float], device: str) -> None:
    unit = "CPU-second, one thread" if device == "cpu" else "second"
    peak = statistics.median(peaks) / 1e9
    print(f"\n{case.model}, {case.image_size} px, {case.batch} images a step [images per {unit}]")
    least, most = min(peaks) / 1e9, max(peaks) / 1e9
    print(f"bf16 peak {least:,.0f}/{peak:,.0f}/{most:,.0f} GFLOP/s; load average {os.getloadavg()[0]:.1f}")
    rows = []
    for name, way in ways.items():
        speeds = sorted(case.batch / seconds for seconds in way.seconds)
        beside = (ratio(way, ways[TIMM]), share_of_peak(case, way, peaks))
        rows.append(
            (name, f"{way.parameters:,}", speeds[0], statistics.median(speeds), speeds[-1], *beside, way.losses[-1])
        )
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
    print(Device.named(arguments.device).numerics)
    for case in CASES[arguments.device]:
        if not arguments.only or case.model in arguments.only:
            ways = ways_of(case, arguments.device, compiles=not arguments.no_compile)
            measured, peaks = measure(case, ways, arguments.device, arguments.rounds)
            report(case, measured, peaks, arguments.device)


if __name__ == "__main__":
    main()
