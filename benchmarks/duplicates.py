"""De-duplication on one core: hashing an image, and searching a million hashes for 100,000 beside comparing all pairs.

python -m benchmarks.duplicates

The hashes are those of random pictures: each bit tells whether a random frequency lies above the median of all 64, so
half of the bits are set, the first always. Every thousandth is a copy of another with up to eight bits flipped. All
pairs are compared for a sample of the 100,000, which must find what the search finds; its time is scaled up.
"""

import io
import os
import statistics
import time
from collections.abc import Callable

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.databases import print_table
from benchmarks.photographs import photograph
from workers.data.duplicates import hashed, near, nearest

QUERIES = 1_000_000
BASES = 100_000
SAMPLE = 500
RADIUS = 6
ROUNDS = 3
GOAL_SECONDS = 60.0
IMAGES = 60


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    search()
    print()
    hashing()


# ------------------------------------------------------------------------------------------------------------- search


def search() -> None:
    random = np.random.default_rng(0)
    hash_N = hashes_of_random_pictures(random, BASES)
    hash_Q = hashes_of_random_pictures(random, QUERIES)
    for place in range(0, QUERIES, 1000):
        hash_Q[place] = flipped(random, int(hash_N[random.integers(BASES)]))
    sample_N = random.choice(BASES, SAMPLE, replace=False)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        ours.append(cpu_seconds(lambda: nearest(hash_Q, hash_N, RADIUS)))
        theirs.append(cpu_seconds(lambda: all_pairs(hash_Q, hash_N[sample_N])) * BASES / SAMPLE)
    check(hash_Q, hash_N, sample_N)
    time_of, brute = statistics.median(ours), statistics.median(theirs)
    said = "met" if time_of < GOAL_SECONDS else "MISSED"
    print(f"{QUERIES:,} hashes against {BASES:,} within radius {RADIUS}, one core, {ROUNDS} rounds [s]")
    print_table(
        ("search", "least", "median", "most", "ratio", "goal"),
        (
            ("ours", min(ours), time_of, max(ours), 1.0, f"{GOAL_SECONDS:.0f} s: {said}"),
            (f"all pairs (from {SAMPLE})", min(theirs), brute, max(theirs), brute / time_of, ""),
        ),
    )


def hashes_of_random_pictures(random: np.random.Generator, count: int) -> NDArray[np.uint64]:
    parts = []
    for start in range(0, count, 50_000):
        frequency = random.normal(size=(min(50_000, count - start), 64))
        frequency[:, 0] = 100  # the mean of a picture is its largest coefficient
        above = frequency > np.median(frequency, axis=1, keepdims=True)
        parts.append(np.packbits(above, axis=1).view(">u8").astype(np.uint64).reshape(-1))
    return np.concatenate(parts)


def flipped(random: np.random.Generator, value: int) -> np.uint64:
    for bit in random.choice(64, random.integers(9), replace=False):
        value ^= 1 << int(bit)
    return np.uint64(value)


def all_pairs(hash_Q: NDArray[np.uint64], hash_N: NDArray[np.uint64]) -> set[tuple[int, int]]:
    found = set()
    for place, value in enumerate(hash_N):
        for query in np.flatnonzero(np.bitwise_count(hash_Q ^ value) <= RADIUS):
            found.add((int(query), place))
    return found


def check(hash_Q: NDArray[np.uint64], hash_N: NDArray[np.uint64], sample_N: NDArray[np.int64]) -> None:
    number = {int(place): index for index, place in enumerate(sample_N)}
    pairs = [
        (int(q), int(n)) for query, base, _ in near(hash_Q, hash_N, RADIUS) for q, n in zip(query, base, strict=True)
    ]
    assert len(pairs) == len(set(pairs))
    assert {(q, number[n]) for q, n in pairs if n in number} == all_pairs(hash_Q, hash_N[sample_N])


# ------------------------------------------------------------------------------------------------------------ hashing


def hashing() -> None:
    files = [photograph(375, 500, seed, fall=1.05) for seed in range(IMAGES)]
    ways: dict[str, Callable[[bytes], object]] = {
        "ours, with the digest": hashed,
        "imagehash.phash": lambda file: imagehash.phash(Image.open(io.BytesIO(file))),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(2 * ROUNDS):
        for name, way in ways.items():
            taken = cpu_seconds(lambda way=way: [way(file) for file in files])  # type: ignore[misc]
            times[name].append(1000 * taken / len(files))
    ours = statistics.median(times["ours, with the digest"])
    table = []
    for name, each in times.items():
        median = statistics.median(each)
        table.append((name, min(each), median, max(each), median / ours))
    size = sum(map(len, files)) / len(files) / 1000
    print(f"one JPEG of 500 x 375 pixels, {size:.0f} KB in the mean, one core [ms]")
    print_table(("hash", "least", "median", "most", "ratio"), table)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
