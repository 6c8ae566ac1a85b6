"""How fast a tree of photographs becomes Parquet shards, beside copying the files and beside Hugging Face `datasets`.

python -m benchmarks.importing

All have one core, and files that the system has in memory; ours alone waits until what it wrote is on disk. Ours is the
work of an import's tasks with the plan before them and without Ray, whose start is a matter of seconds once; the whole
command on two cores is the last line.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.databases import print_table
from benchmarks.photographs import photograph
from orchestrator.data_import import import_
from workers.data.importing import folders
from workers.data.importing.planning import plan_bytes, shard_borders
from workers.data.importing.plans import Naming
from workers.data.importing.shard_tasks import Job, Task, plan_file, write_shard
from workers.data.storage import write_bytes
from workers.data.writing import SHARD_BYTES

IMAGES, CLASSES, DISTINCT = 2_000, 20, 50
HEIGHT, WIDTH, FALL = 375, 500, 1.05
"""Of the images: 111 KB each, about those of ImageNet."""
PASSES = 5
"""In each pass everything is measured once more: a machine that is slow for a while is so for all."""
GOAL_A_SECOND = 500.0


def write_tree(folder: Path) -> int:
    """Bytes of a tree of class folders."""
    photographs = [photograph(HEIGHT, WIDTH, seed, fall=FALL) for seed in range(DISTINCT)]
    for number in range(IMAGES):
        file = folder / f"n{number % CLASSES:08d}" / f"{number:08d}.JPEG"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(photographs[number % DISTINCT])
    return sum(len(photographs[number % DISTINCT]) for number in range(IMAGES))


def ours(tree: Path, to: Path, resize: int | None) -> None:
    found = folders.find(tree, Naming())
    [table] = found.splits.values()
    borders = shard_borders(table["size_bytes"].to_numpy(), SHARD_BYTES)
    work = str(to / "work")
    write_bytes(plan_file(work, "train"), plan_bytes(table, borders))
    job = Job("folders", str(tree), Naming(), str(to), work, found.class_names, False, resize, False)
    assert sum(
        write_shard(job, Task("train", number, len(borders))).index is not None for number in range(len(borders))
    )


def copied(tree: Path, to: Path) -> None:
    for file in tree.rglob("*.JPEG"):
        target = to / file.relative_to(tree)
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(file, target)


def by_datasets(tree: Path, to: Path) -> None:
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    found = datasets.load_dataset("imagefolder", data_dir=str(tree), split="train", cache_dir=str(to / "cache"))
    assert found.to_parquet(str(to / "all.parquet"))


def measured(work: Callable[[Path, Path], None], tree: Path) -> tuple[float, float]:
    """Images a second of wall time, and of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder)
        os.sync()
        wall, processor = time.perf_counter(), time.process_time()
        work(tree, to)
        return IMAGES / (time.perf_counter() - wall), IMAGES / (time.process_time() - processor)


def main() -> None:
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    whole, cores = 0.0, sorted(os.sched_getaffinity(0))
    kinds: dict[str, Callable[[Path, Path], None]] = {
        "import": lambda tree, to: ours(tree, to, None),
        "import --resize 256": lambda tree, to: ours(tree, to, 256),
        "copy the files": copied,
        "datasets, imagefolder to Parquet": by_datasets,
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = Path(folder) / "tree"
        size_bytes = write_tree(tree)
        os.sched_setaffinity(0, cores[:1])
        for _ in range(PASSES):
            for name, work in kinds.items():
                rates[name].append(measured(work, tree))
                print(f"{name}: {rates[name][-1][0]:,.0f} images/s", file=sys.stderr, flush=True)
        os.sched_setaffinity(0, cores)
        start = time.perf_counter()
        import_(Path(folder) / "datasets.yaml", tree, "photographs", shard_bytes=SHARD_BYTES // 8, cpus=2)
        whole = time.perf_counter() - start
    copy = statistics.median(wall for wall, _ in rates["copy the files"])
    peer = statistics.median(wall for wall, _ in rates["datasets, imagefolder to Parquet"])
    rows = []
    for name, each in rates.items():
        walls = [wall for wall, _ in each]
        median = statistics.median(walls)
        said = "-"
        if name == "import":
            said = f">= {GOAL_A_SECOND:.0f}: {'met' if median >= GOAL_A_SECOND else 'MISSED'}"
        of_processor = statistics.median(processor for _, processor in each)
        rows.append((name, min(walls), median, max(walls), of_processor, median / copy, median / peer, said))
    load = os.getloadavg()[0]
    print(f"{IMAGES:,} JPEGs of {size_bytes / IMAGES / 1000:.0f} kB, one core, {PASSES} times; load average {load:.1f}")
    head = ("images a second", "least", "median", "most", "of processor time", "of copying", "of datasets", "goal")
    print_table(head, rows)
    print(f"the whole command on two cores, with the start of Ray: {whole:.1f} s")


if __name__ == "__main__":
    main()
