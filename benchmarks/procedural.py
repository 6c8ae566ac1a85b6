"""Images a second that one core draws of the procedural set: made where they are needed, they must not be waited for.

python -m benchmarks.procedural

There is no peer: nothing else draws these images.
"""

import os
import statistics
import time

import numpy as np

from benchmarks.databases import print_table
from studies.procedural import Shapes
from workers.data.procedural import render

REPEATS = 9
LEAST_PER_SECOND = 2_000
"""At 32 pixels."""
CASES = ((8, 4096), (32, 2048), (64, 512), (224, 64))
"""Sides in pixels, and images at a time."""


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = []
    for size, count in CASES:
        rates = [images_per_second(size, count) for _ in range(REPEATS + 1)][1:]
        middle = statistics.median(rates)
        said = "-" if size != 32 else f">= {LEAST_PER_SECOND:,}: {'met' if middle >= LEAST_PER_SECOND else 'MISSED'}"
        table.append((f"{size} px", *(f"{each:,.0f}" for each in (min(rates), middle, max(rates))), said))
    load = os.getloadavg()[0]
    print(f"images a second of one core, {REPEATS} times; load average {load:.1f}")
    print_table(("images", "least", "median", "most", "goal"), table)


def images_per_second(size: int, count: int) -> float:
    """Of processor time."""
    row_B = np.arange(count, dtype=np.int64)
    start = time.process_time()
    render(Shapes(image_size=size), "train", row_B)
    return count / (time.process_time() - start)


if __name__ == "__main__":
    main()
