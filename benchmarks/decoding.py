"""Images a second on one core: JPEGs to augmented squares, and small images in memory, beside Pillow and torchvision.

python -m benchmarks.decoding
python -m benchmarks.decoding --rounds 5

All ways take the same images in turn, and ratios are those of one round, so that whatever else the machine does meets
them all; times are the processor's, on one core. The images are synthetic: noise that falls with frequency as
photographs do, its colours mostly alike, as JPEGs of quality 90, 500 x 375 pixels in about 69 KB.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import benchmarks.peers  # noqa: F401  (lets torchvision load where its operators do not)
from benchmarks.databases import print_table
from benchmarks.photographs import photograph
from studies.augmentations import AUGMENTATIONS
from workers.data.resident import Resident
from workers.data.views import TrainView

from torchvision.transforms import v2  # isort: skip

SIZE, SMALL = 224, 32
IMAGES, ROUNDS = 64, 15
SMALL_IMAGES, BATCH, SMALL_PEER_IMAGES = 50_000, 256, 4_096

Way = Callable[[], int]
"""Does some work, and says how many images it was."""


@dataclass(frozen=True)
class Goal:
    """What we want of ours: at least this many times a peer's images a second."""

    peer: str
    ratio: float


OURS, TORCHVISION, BARE = "vitscale", "Pillow + transforms.v2", "bare simplejpeg, as fast as it is"
DATALOADER = "DataLoader + transforms.v2"
GOALS = {
    (375, 500): (Goal(TORCHVISION, 1.8), Goal(BARE, 0.85)),
    (256, 256): (Goal(TORCHVISION, 1.8), Goal(BARE, 0.75)),
}
SMALL_GOAL, LEAST_SMALL = Goal(DATALOADER, 15.0), 300_000


# ------------------------------------------------------------------------------------------------------------- the ways


def decoding_ways(encoded: Sequence[bytes]) -> dict[str, Way]:
    """Each makes squares of all images, but the bare decoding, which only decodes."""
    view = TrainView(AUGMENTATIONS["inception"], SIZE, 3, seed=0)
    batch = np.empty((len(encoded), SIZE, SIZE, 3), dtype=np.uint8)
    positions = iter(range(0, 1 << 40, len(encoded)))

    def ours() -> int:
        first = next(positions)
        words = view.words(np.arange(first, first + len(encoded)))
        for one, word, slot in zip(encoded, words, batch, strict=True):
            view.render(one, word, slot)
        return len(encoded)

    transform = v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.05, 1)), v2.RandomHorizontalFlip()])
    plain = v2.RandomResizedCrop(SIZE, scale=(0.05, 1), antialias=False)
    of_tensors = v2.Compose([v2.PILToTensor(), plain, v2.RandomHorizontalFlip()])

    def torchvision_on_pillow() -> int:
        for one, slot in zip(encoded, batch, strict=True):
            slot[...] = np.asarray(transform(Image.open(io.BytesIO(one)).convert("RGB")))
        return len(encoded)

    def torchvision_on_tensors() -> int:
        for one in encoded:
            of_tensors(Image.open(io.BytesIO(one)).convert("RGB"))
        return len(encoded)

    def pillow_draft() -> int:
        for one, slot in zip(encoded, batch, strict=True):
            image = Image.open(io.BytesIO(one))
            image.draft("RGB", (SIZE, SIZE))
            slot[...] = np.asarray(transform(image.convert("RGB")))
        return len(encoded)

    def bare(**flags: bool) -> int:
        for one in encoded:
            simplejpeg.decode_jpeg(one, **flags)
        return len(encoded)

    return {
        OURS: ours,
        TORCHVISION: torchvision_on_pillow,
        "Pillow + transforms.v2 of tensors": torchvision_on_tensors,
        "Pillow with draft + transforms.v2": pillow_draft,
        BARE: lambda: bare(fastdct=True, fastupsample=True),
    }


class _Small(Dataset[torch.Tensor]):
    """Images in memory, transformed one by one."""

    def __init__(self, image_NHWC: NDArray[np.uint8], transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.image_NCHW = torch.from_numpy(image_NHWC).permute(0, 3, 1, 2).contiguous()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.image_NCHW)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(self.image_NCHW[row])


def small_ways() -> dict[str, Way]:
    """Each makes batches of images with a border of 4, a random crop and a flip."""
    image_NHWC = np.random.default_rng(0).integers(0, 255, (SMALL_IMAGES, SMALL, SMALL, 3), dtype=np.uint8)
    resident = Resident(image_NHWC, AUGMENTATIONS["cifar"], SMALL, seed=0)
    order = np.random.default_rng(1).permutation(SMALL_IMAGES)
    cpu = torch.device("cpu")

    def batches(make: Callable[[NDArray[np.int64], NDArray[np.int64]], object]) -> int:
        for first in range(0, SMALL_IMAGES, BATCH):
            row_B = order[first : first + BATCH]
            make(row_B, np.arange(first, first + len(row_B)))
        return SMALL_IMAGES

    transform = v2.Compose([v2.RandomCrop(SMALL, padding=4), v2.RandomHorizontalFlip()])
    loader = DataLoader(_Small(image_NHWC[:SMALL_PEER_IMAGES], transform), batch_size=BATCH, shuffle=True)
    return {
        OURS: lambda: batches(resident.batch),
        "vitscale, the device's way on the CPU": lambda: batches(
            lambda row, at: resident.batch_on_device(row, at, cpu)
        ),
        DATALOADER: lambda: sum(len(batch) for batch in loader),
    }


# ------------------------------------------------------------------------------------------------------- measuring them


def rates(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Images a second of processor time, of each round of each way; a first round does not count."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for counted in [False] + [True] * rounds:
        for name, way in ways.items():
            start = time.process_time()
            images = way()
            seconds = time.process_time() - start
            if counted:
                measured[name].append(images / seconds)
    return measured


def ratio(measured: dict[str, list[float]], peer: str) -> float:
    """Median over the rounds of ours over a peer's."""
    return statistics.median(a / b for a, b in zip(measured[OURS], measured[peer], strict=True))


def print_rates(title: str, measured: dict[str, list[float]], goals: Sequence[Goal]) -> bool:
    """Print a table; whether every goal is met."""
    wanted = {goal.peer: goal.ratio for goal in goals}
    table, met = [], True
    for name, values in measured.items():
        over, goal = ratio(measured, name), ""
        if name in wanted:
            met &= (is_met := over >= wanted[name])
            goal = f">= {wanted[name]:g}: {'met' if is_met else 'MISSED'}"
        table.append(
            (name, *(f"{value:,.0f}" for value in (min(values), statistics.median(values), max(values))), over, goal)
        )
    print(f"\n{title}")
    print_table(("images a second and core", "least", "median", "most", "ours over it", "goal"), table)
    return met


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    met = True
    print(f"one core, {rounds} rounds; load average {os.getloadavg()[0]:.1f}")
    for (height, width), goals in GOALS.items():
        encoded = [photograph(height, width, seed) for seed in range(IMAGES)]
        kilobytes = sum(map(len, encoded)) / len(encoded) / 1000
        title = f"{width} x {height} JPEG of {kilobytes:.0f} KB: decode, Inception crop to {SIZE}, flip"
        met &= print_rates(title, rates(decoding_ways(encoded), rounds), goals)
    small = rates(small_ways(), rounds)
    met &= print_rates(f"{SMALL} x {SMALL} in memory: border of 4, random crop, flip", small, [SMALL_GOAL])
    fast = statistics.median(small[OURS]) >= LEAST_SMALL
    print(f"at least {LEAST_SMALL:,} images a second: {'met' if fast else 'MISSED'}")
    raise SystemExit(0 if met and fast else 1)


if __name__ == "__main__":
    main()
