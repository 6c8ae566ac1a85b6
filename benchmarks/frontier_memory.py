"""The frontier of rows in memory, beside NumPy's sort with a running maximum, on clouds of several shapes.

python -m benchmarks.frontier_memory
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.databases import print_table
from studies.frontiers import Floats, RowNumbers, frontier

ROWS = (1_000_000, 10_000_000)
ROUNDS = 7
GOAL_RATIO = 0.35
REPLICATES, CONFIGURATIONS = 1_000, 40


def by_argsort(cost: Floats, quality: Floats) -> RowNumbers:
    """What one writes in a notebook; of equal costs it may name a row that another beats."""
    return rising(np.argsort(cost), quality)


def by_lexsort(cost: Floats, quality: Floats) -> RowNumbers:
    """The same with equal costs in the right order."""
    return rising(np.lexsort((-quality, cost)), quality)


def rising(order: NDArray[np.intp], quality: Floats) -> RowNumbers:
    sorted_quality = quality[order]
    best = np.maximum.accumulate(sorted_quality)
    kept: RowNumbers = order[np.append(True, sorted_quality[1:] > best[:-1])]
    return kept


def clouds(rows: int) -> dict[str, tuple[Floats, Floats]]:
    """Costs over six orders of magnitude; below a power law by a random factor, or without any law."""
    rng = np.random.default_rng(0)
    cost = 10 ** rng.uniform(17, 23, rows)
    ladder = (10 ** np.linspace(17, 23, 30))[rng.integers(0, 30, rows)]

    def below_a_law(cost: Floats) -> Floats:
        quality: Floats = 1 - np.clip(0.05 + 0.3 * (cost / 1e17) ** -0.15 * np.exp(rng.exponential(0.3, rows)), 0, 1)
        return quality

    return {
        "below a law": (cost, below_a_law(cost)),
        "below a law, 30 costs": (ladder, below_a_law(ladder)),
        "no law": (cost, rng.random(rows)),
    }


def interleaved(functions: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Milliseconds of each function in each round, the functions in turn, after a round that does not count."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS + 1):
        for function, of in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            of.append(1000 * (time.perf_counter() - start))
    return [of[1:] for of in times]


def main() -> None:
    table = []
    worst = 0.0
    for rows in ROWS:
        for name, (cost, quality) in clouds(rows).items():
            exact, found = by_lexsort(cost, quality), frontier(cost, quality)
            assert sorted(zip(cost[exact], quality[exact], strict=True)) == list(
                zip(cost[found], quality[found], strict=True)
            ), "all ways agree"
            calls = [partial(way, cost, quality) for way in (frontier, by_argsort, by_lexsort)]
            ours, argsort, lexsort = interleaved(calls)
            ratio = statistics.median(ours) / statistics.median(argsort)
            worst = max(worst, ratio)
            said = f"{ratio:.3f}, <= {GOAL_RATIO}: {'met' if ratio <= GOAL_RATIO else 'MISSED'}"
            times = [f"{min(of):.1f}/{statistics.median(of):.1f}/{max(of):.1f}" for of in (ours, argsort, lexsort)]
            table.append((f"{rows:,} rows, {name}", len(found), *times, said))
    print(f"frontier in memory, {ROUNDS} interleaved rounds, least/median/most [ms]")
    print_table(("cloud", "on it", "ours", "argsort", "lexsort", "ours / argsort"), table)
    small()
    assert worst <= GOAL_RATIO


def small() -> None:
    """What the frontiers of bootstrap replicates cost."""
    rng = np.random.default_rng(1)
    cost, quality_BR = 10 ** rng.uniform(17, 23, CONFIGURATIONS), rng.random((REPLICATES, CONFIGURATIONS))
    (ours,) = interleaved([lambda: [frontier(cost, quality_R) for quality_R in quality_BR]])
    print(f"{REPLICATES:,} replicates of {CONFIGURATIONS} configurations: {statistics.median(ours):.2f} ms")


if __name__ == "__main__":
    main()
