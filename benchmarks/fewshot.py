"""Closed-form few-shot classifiers of 1,000 classes from ready features, beside scikit-learn's Cholesky ridge.

python -m benchmarks.fewshot
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.databases import print_table
from workers.fewshot import ridge, ridge_fast, ridge_primal

CLASSES, SHOTS, FEATURES = 1000, 10, 1024
L2 = 1024.0
L2S = tuple(2.0**power for power in range(8, 16))
BIAS = 100.0
REPEATS = 9
MOST_OF_SKLEARN, MOST_OF_ONE, MOST_ERROR = 0.8, 2.2, 1e-5


def standardized(decay: float) -> tuple[Tensor, Tensor]:
    """Features of mean 0 and deviation 1, (N, F), and labels: a class is a point, with noise around it.

    decay: the power with which the spectrum of both falls; 0 leaves the features independent.
    """
    random = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, dtype=torch.float64, generator=random)
    label_N = torch.arange(CLASSES).repeat_interleave(SHOTS)
    scale_F = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -decay
    mixing_FF = scale_F[:, None] * torch.linalg.qr(draw(FEATURES, FEATURES)).Q
    feature_NF = (draw(CLASSES, FEATURES)[label_N] + draw(len(label_N), FEATURES)) @ mixing_FF
    feature_NF -= feature_NF.mean(dim=0)
    return feature_NF / (feature_NF.std(dim=0, correction=0) + 1e-5), label_N


def scikit_learn(x_NX: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Weights, (F + 1, K), from features with the constant one and labels, in the precision of the features."""
    target_NK = 2 * np.eye(CLASSES, dtype=x_NX.dtype)[label_N] - 1
    solved: np.ndarray = Ridge(alpha=L2, fit_intercept=False, solver="cholesky").fit(x_NX, target_NK).coef_.T
    return solved


def interleaved(ways: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Seconds of processor time of each way in each round, after one call that does not count."""
    for way in ways:
        way()
    rounds = []
    for _ in range(REPEATS):
        seconds = []
        for way in ways:
            start = time.process_time()
            way()
            seconds.append(time.process_time() - start)
        rounds.append(seconds)
    return rounds


def main() -> None:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print(f"{CLASSES:,} classes, {SHOTS} shots, {FEATURES:,} features, l2 {L2:g}; one thread, {REPEATS} rounds")
        measure(0.0, "independent features")
        measure(0.5, "features whose spectrum falls")
        print(f"load average {os.getloadavg()[0]:.1f}")


def measure(decay: float, title: str) -> None:
    x_NF, label_N = standardized(decay)
    x64_NX = np.pad(x_NF.numpy(), [(0, 0), (0, 1)], constant_values=BIAS)
    x32_NX, label = x64_NX.astype(np.float32), label_N.numpy()
    ways: dict[str, Callable[[], object]] = {
        "scikit-learn, float32": partial(scikit_learn, x32_NX, label),
        "scikit-learn, float64": partial(scikit_learn, x64_NX, label),
        "ours, all in float64": partial(ridge_primal, x_NF, label_N, (L2,), classes=CLASSES),
        "ours, one l2": partial(ridge, x_NF, label_N, (L2,), classes=CLASSES),
        f"ours, {len(L2S)} l2": partial(ridge, x_NF, label_N, L2S, classes=CLASSES),
    }
    exact = ridge_primal(x_NF, label_N, L2S, classes=CLASSES)
    one = exact[L2S.index(L2)].numpy()
    errors = [relative(scikit_learn(x, label), one) for x in (x32_NX, x64_NX)]
    errors += [0.0, relative(ridge(x_NF, label_N, (L2,), classes=CLASSES)[0].numpy(), one)]
    several = ridge(x_NF, label_N, L2S, classes=CLASSES)
    errors.append(max(relative(a.numpy(), b.numpy()) for a, b in zip(several, exact, strict=True)))
    rounds = interleaved(list(ways.values()))
    table = []
    for place, (name, error) in enumerate(zip(ways, errors, strict=True)):
        column = [1000 * seconds[place] for seconds in rounds]
        of_sklearn = statistics.median(seconds[place] / seconds[0] for seconds in rounds)
        of_one = statistics.median(seconds[place] / seconds[3] for seconds in rounds)
        goal = ""
        if place == 3:
            goal = said(f"<= {MOST_OF_SKLEARN} of scikit-learn's float32", of_sklearn <= MOST_OF_SKLEARN)
        if place == 4:
            goal = said(f"<= {MOST_OF_ONE} of one", of_one <= MOST_OF_ONE)
        if place >= 3:
            goal += said(f", error <= {MOST_ERROR:.0e}", error <= MOST_ERROR)
        spread = (min(column), statistics.median(column), max(column))
        table.append((name, *spread, of_sklearn, of_one, f"{error:.1e}", goal))
    is_fast = [ridge_fast(x_NF, label_N, l2s, classes=CLASSES) is not None for l2s in ((L2,), L2S)]
    print(f"\n{title}; float32 is enough for one l2: {is_fast[0]}, for {len(L2S)}: {is_fast[1]}")
    print_table(("[ms]", "least", "median", "most", "of sklearn f32", "of one l2", "error", "goal"), table)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference of weights over that of the weights; without the bias, which is exact in ours."""
    return float(np.linalg.norm((found - expected)[:-1]) / np.linalg.norm(expected[:-1]))


def said(goal: str, is_met: bool) -> str:
    return f"{goal}: {'met' if is_met else 'MISSED'}"


if __name__ == "__main__":
    main()
