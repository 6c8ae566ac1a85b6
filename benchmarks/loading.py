"""The loader: beside a PyTorch DataLoader, how long a training waits for it, and its memory on 50 GB of shards.

python -m benchmarks.loading
python -m benchmarks.loading --only memory

Loaders take turns, and ratios are those of one round. Both decode and crop with the same code, ours, so that the ratio
is of what is around it; the DataLoader has all bytes in memory, ours reads them from shards that are in the page cache.
The 50 GB are one shard of real images under many names: each name is a file of its own for the index and the reader,
and only the page cache knows better.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.databases import print_table
from benchmarks.photographs import photograph
from studies.architectures import named
from studies.augmentations import AUGMENTATIONS
from studies.datasets import DataSet, Files, StoredSplit
from studies.definitions import Data, Train
from studies.manifests import Columns
from studies.recipes import recipe
from studies.registry import Registry
from workers.data.decoding import decode
from workers.data.index import index_shard, joined_split, manifest_of, write_index
from workers.data.writing import ShardWriter
from workers.kernels import allocator

SIZE, CLASSES, READERS = 224, 1000, 2
GOAL_RATIO, GOAL_WAITING, GOAL_BYTES = 1.25, 0.03, 300e6
BATCH = 64
RATIO_IMAGES, RATIO_BATCHES, RATIO_WARM = 6_600, 25, 8
"""More bytes than are kept in memory, so that they are streamed; batches of a round, and those before it."""
TRAIN_BATCH, TRAIN_STEPS, TRAIN_TURNS = 32, 4, 4
"""Steps of a turn; turns with the loader, and as many with a batch at hand."""
MEMORY_FILES, MEMORY_IMAGES, MEMORY_BATCHES = 187, 2_430, 150

Message = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------ the files


def shards(folder: Path, height: int, width: int, images: int, names: int) -> Registry:
    """A registry with the set `images`: one shard under several names, its images sorted by class."""
    pictures = [photograph(height, width, seed) for seed in range(64)]
    with ShardWriter(folder / "0.parquet") as writer:
        for row in range(images):
            writer.add(pictures[row % len(pictures)], row * CLASSES // images)
    first = index_shard(str(folder), "0.parquet", Columns())
    parts = [first]
    for number in range(1, names):
        (folder / f"{number}.parquet").hardlink_to(folder / "0.parquet")
        parts.append(replace(first, shards=(first.shards[0].model_copy(update={"file": f"{number}.parquet"}),)))
    split = joined_split(parts)
    manifest = manifest_of({"train": split}, Columns(), channels=3, image_size=None, classes=CLASSES)
    files = Files(location=str(folder))
    write_index(files.index_location, manifest, {"train": split})
    data_set = DataSet(
        name="images",
        origin=files,
        splits={"train": StoredSplit(rows=images * names, fingerprint=manifest.fingerprint("train"))},
        classes=CLASSES,
        channels=3,
        image_size=None,
        source="benchmarks/loading.py",
    )
    size_bytes = manifest.splits["train"].size_bytes
    print(f"\n{size_bytes / 1e9:,.2f} GB in {names} shards of {size_bytes / names / 1e6:,.0f} MB,", end=" ")
    print(f"{images * names:,} JPEGs of {width} x {height} pixels and {size_bytes / images / names / 1e3:,.0f} KB")
    return Registry({"images": data_set}, None)


# ----------------------------------------------------------------------------------------- in processes of their own


def serve_ratio(connection: Connection, registry: Registry, batches: int) -> None:
    """Send seconds of our rounds and of the DataLoader's, by turns, until asked to stop."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    from workers.data.loader import TrainLoader
    from workers.data.sources import Stored, open_source
    from workers.data.views import TrainView

    opened = open_source(registry.get("images").take("train"), registry)
    assert isinstance(opened, Stored)
    source = opened
    view = TrainView(AUGMENTATIONS["inception"], SIZE, 3, seed=0)

    class Encoded(Dataset[tuple[torch.Tensor, int]]):
        def __init__(self) -> None:
            groups = range(len(source.shards.row_groups.rows_G))
            self.images = [image for group in groups for image in source.fetch(group, source.members(group))]
            self.words = view.words(np.arange(len(self.images)))

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            out = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
            view.render(self.images[row].encoded, self.words[row], out)
            return torch.from_numpy(out), self.images[row].label  # type: ignore[return-value]

    torch.set_num_threads(1)
    peer = DataLoader(
        Encoded(),
        BATCH,
        shuffle=True,
        num_workers=READERS,
        persistent_workers=True,
        drop_last=True,
        multiprocessing_context="fork",
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from peer

    theirs = endless()
    next(theirs)  # its processes start here, before our threads do
    with TrainLoader(source, view, batch=BATCH, seed=0, first_step=0, steps=10**6, readers=READERS) as ours:
        ways: dict[str, Iterator[Any]] = {"vitscale": ours, "DataLoader": theirs}
        while connection.recv() is not None:
            connection.send({name: seconds_of(way, batches) for name, way in ways.items()})


def seconds_of(batches: Iterator[Any], number: int) -> float:
    """Of so many batches, once those are gone that were made while others had their turn."""
    for _ in islice(batches, RATIO_WARM):
        pass
    start = time.perf_counter()
    for _ in islice(batches, number):
        pass
    return time.perf_counter() - start


def serve_training(connection: Connection, registry: Registry, steps: int) -> None:
    """Train ViT-Ti/16 as a worker does, and send how long steps took and how much of it was waiting."""
    from workers.devices import Device
    from workers.training import Training

    data: Data = registry.get("images").take("train")
    fields = {"batch": TRAIN_BATCH, "augmentation": AUGMENTATIONS["inception"].model_dump(), "precision": "bf16"}
    run = Train(
        model=named("ViT-Ti/16", "token"),
        data=data,
        image_size=SIZE,
        recipe=recipe("small", fields | {"warmup_steps": 1}),
        examples=TRAIN_BATCH * 1000,
        seed=0,
    )
    device = Device.named("cpu", threads=READERS)
    device.use()
    training = Training(run, device, registry)
    loader = training.batches
    training.update()
    first, at_hand = loader.waited_seconds, repeat(loader.at(1))
    in_order = map(loader.at, count(2))
    seconds: dict[str, list[float]] = {"loader": [], "at hand": []}
    waits = []
    for _ in range(TRAIN_TURNS):
        for name, batches in (("loader", in_order), ("at hand", at_hand)):
            training.batches = Turn(batches)  # type: ignore[assignment]
            for _ in range(steps):
                before, start = loader.waited_seconds, time.perf_counter()
                float(training.update())
                seconds[name].append(time.perf_counter() - start)
                waits.append(loader.waited_seconds - before)
    loader.close()
    connection.send({"seconds": seconds, "waits": waits, "first": first})


class Turn:
    """Batches for a training, one after the other."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def at(self, step: int) -> Any:
        """The next, whatever the step."""
        return next(self.batches)


def serve_memory(connection: Connection, registry: Registry, batches: int) -> None:
    """Read, and send resident bytes: after the imports, most while reading, and how fast it was."""
    import pyarrow as pa

    from workers.data.loader import TrainLoader
    from workers.data.sources import open_source
    from workers.data.views import TrainView

    pa.array([0])  # imports pandas, if it is installed
    decode(photograph(64, 64, 0), 3)
    baseline = resident_bytes()
    source = open_source(registry.get("images").take("train"), registry)
    opened = resident_bytes()
    view = TrainView(AUGMENTATIONS["inception"], SIZE, 3, seed=0)
    most, start = 0, time.perf_counter()
    with TrainLoader(source, view, batch=BATCH, seed=0, first_step=5_000, steps=batches, readers=READERS) as loader:
        for _ in loader:
            most = max(most, resident_bytes())
    seconds = time.perf_counter() - start
    connection.send({"baseline": baseline, "opened": opened, "most": most, "images": batches * BATCH / seconds})


def resident_bytes() -> int:
    """Of this process, as Linux counts them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Child:
    """A process of its own, in the environment that our workers have."""

    def __init__(self, serve: Callable[[Connection, Registry, int], None], registry: Registry, size: int) -> None:
        self.connection, there = multiprocessing.Pipe()
        # Not a daemon: the DataLoader's processes are its children.
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(there, registry, size))
        with patch.dict(os.environ, allocator.ENVIRONMENT):
            self.process.start()
        there.close()

    def answer(self, question: object = "go") -> Message:
        """Ask for one measurement."""
        self.connection.send(question)
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise SystemExit("the process that measures ended") from None
        return message

    def end(self) -> None:
        """Let it go."""
        self.connection.send(None)
        self.process.join()


# --------------------------------------------------------------------------------------------------------- measurements


def measure_ratio(folder: Path, rounds: int) -> bool:
    registry = shards(folder, 256, 256, RATIO_IMAGES, 1)
    child = Child(serve_ratio, registry, RATIO_BATCHES)
    found = [child.answer() for _ in range(rounds)]
    child.end()
    images = RATIO_BATCHES * BATCH
    rows: list[tuple[str | float, ...]] = []
    for name in found[0]:
        speed = sorted(images / each[name] for each in found)
        rows.append((name, speed[0], statistics.median(speed), speed[-1]))
    print_table((f"images/s, {READERS} readers, batches of {BATCH}", "least", "median", "most"), rows)
    ratio = statistics.median(each["DataLoader"] / each["vitscale"] for each in found)
    return judged("vitscale over a DataLoader of two processes", ratio, ratio >= GOAL_RATIO, f">= {GOAL_RATIO}")


def measure_training(folder: Path, rounds: int) -> bool:
    registry = shards(folder, 256, 256, RATIO_IMAGES, 1)
    child = Child(serve_training, registry, TRAIN_STEPS)
    found = child.answer()
    child.process.join()
    share = sum(found["waits"]) / sum(found["seconds"]["loader"])
    speeds = {name: TRAIN_BATCH / statistics.median(each) for name, each in found["seconds"].items()}
    print(
        f"ViT-Ti/16 at {SIZE} px, batches of {TRAIN_BATCH}, {READERS} threads: {speeds['loader']:,.1f} images/s,",
        end=" ",
    )
    print(f"with a batch at hand {speeds['at hand']:,.1f};", end=" ")
    print(f"longest wait of a step {max(found['waits']) * 1e3:,.1f} ms, the first {found['first'] * 1e3:,.0f} ms")
    return judged("share of the time that steps wait", share, share < GOAL_WAITING, f"< {GOAL_WAITING}")


def measure_memory(folder: Path, rounds: int) -> bool:
    registry = shards(folder, 480, 640, MEMORY_IMAGES, MEMORY_FILES)
    child = Child(serve_memory, registry, MEMORY_BATCHES)
    found = child.answer()
    child.process.join()
    baseline, opened, most = (found[name] / 1e6 for name in ("baseline", "opened", "most"))
    print(
        f"{found['images']:,.0f} images/s; after imports {baseline:,.0f} MB, with the index {opened:,.0f} MB,", end=" "
    )
    print(f"at most {most:,.0f} MB")
    added = found["most"] - found["baseline"]
    return judged("MB of the reader beside its imports", added / 1e6, added < GOAL_BYTES, f"< {GOAL_BYTES / 1e6:.0f}")


def judged(what: str, value: float, good: bool, goal: str) -> bool:
    print(f"{what}: {value:,.3f} ({goal}: {'met' if good else 'MISSED'})")
    return good


PARTS: dict[str, Callable[[Path, int], bool]] = {
    "ratio": measure_ratio,
    "training": measure_training,
    "memory": measure_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this alone; may be given repeatedly")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each loader")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    good = True
    for name, measure in PARTS.items():
        if not arguments.only or name in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                good &= measure(Path(folder), arguments.rounds)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
