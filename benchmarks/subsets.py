"""What a subset of 303 million images costs before the first step, beside a permutation that is written down.

python -m benchmarks.subsets
"""

import resource
import statistics
import subprocess
import sys

from benchmarks.databases import print_table

ROWS, SUBSET, PLACES = 303_000_000, 9_000_000, 100_000
REPEATS = 5
MOST_SECONDS, MOST_MB = 1.0, 50.0

OURS = f"""
data_set = DataSet(name="jft", origin=Files(location="/"), classes=2, channels=3, image_size=None, source="",
                   splits={{"train": StoredSplit(rows={ROWS}, fingerprint="ab" * 32)}})
subset = subset_of(data_set.selection("train"), data_set.take("train", {SUBSET}), np.empty(0, np.int64), None)
rows = subset.rows_at(place)
assert (subset.places_at(rows) == place).all()
"""
WRITTEN_DOWN = f"""
rows = np.random.default_rng(0).permutation(np.arange({ROWS}, dtype=np.int32))[:{SUBSET}][place]
"""
AROUND = """
import resource, time
import numpy as np
from studies.datasets import DataSet, Files, StoredSplit
from studies.subsets import subset_of
place = np.random.default_rng(1).integers(0, {subset}, {places})
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
{way}
print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024 / 1e6)
"""


def main() -> None:
    table = []
    for name, way, repeats in (("ours", OURS, REPEATS), ("written down", WRITTEN_DOWN, 1)):
        measured = [_measured(way) for _ in range(repeats)]
        seconds, megabytes = (statistics.median(column) for column in zip(*measured, strict=True))
        goal = ""
        if name == "ours":
            met = seconds < MOST_SECONDS and megabytes < MOST_MB
            goal = f"< {MOST_SECONDS:.0f} s, < {MOST_MB:.0f} MB: {'met' if met else 'MISSED'}"
        table.append((name, f"{seconds:.3f}", f"{megabytes:.0f}", goal))
    print(f"{PLACES:,} places of {SUBSET:,} images of {ROWS:,}, and back; processor seconds, memory beside imports")
    print_table(("permutation", "seconds", "MB", "goal"), table)


def _measured(way: str) -> tuple[float, float]:
    code = AROUND.format(subset=SUBSET, places=PLACES, way=way)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


if __name__ == "__main__":
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0  # in KiB on Linux
    main()
