"""Frontiers of rows in memory: which rows nothing beats, in bootstrap replicates too, their hull, and near misses.

Imports, bootstrap replicates and tests ask here; what is in the store is asked with SQL (`db/frontiers.py`).
R = rows, B = replicates. Cost: less is better, in any unit; quality: more is better. Arrays are float64.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Axes = Literal["log-cost", "log-log", "linear"]
"""Of a hull: log cost and error, log cost and log error, or cost and error."""

Floats = NDArray[np.float64]
RowNumbers = NDArray[np.intp]

SORTED_AT_ONCE = 8_192
"""Up to so many rows, sorting all of them is quicker than asking first which could be on the frontier."""
SAMPLED = 4_096
BUCKETS = 4_096
CHUNK = 32_768
"""Rows whose buckets and thresholds fit in a processor's second cache together."""


def frontier(cost: ArrayLike, quality: ArrayLike) -> RowNumbers:
    """The numbers of the rows on the frontier, the cheapest first: both cost and quality rise strictly along it.

    A row is on it when no other is at most as dear and at least as good, and strictly better in one. Of rows equal in
    both only the one of the lowest number is named. Rows whose cost is not finite or not above 0, or whose quality is
    not finite, are never on it, and nothing is worse for them. The answer is exact; no tolerance, no binning.

    Raises ValueError where the two are not rows of one length.
    """
    cost_R, quality_R = _rows(cost, quality)
    rows = np.arange(len(cost_R))
    # Each round asks a sample of what is left, so a second one sees finer where costs lie close together.
    while len(rows) > SORTED_AT_ONCE:
        kept = _hopeful(cost_R, quality_R)
        rows, cost_R, quality_R, before = rows[kept], cost_R[kept], quality_R[kept], len(rows)
        if len(rows) > before / 2:
            break
    usable = _usable(cost_R, quality_R)
    rows, cost_R, quality_R = rows[usable], cost_R[usable], quality_R[usable]
    # Stable: of equal cost the lowest row number comes first, so of equal rows it is the one that rises.
    order = np.argsort(cost_R, kind="stable")
    cost_R, quality_R = cost_R[order], quality_R[order]
    rises = np.flatnonzero(quality_R > _best_before(quality_R))
    # Rows of one cost may rise over one another: the last of them is the best.
    last_of_cost = np.append(np.diff(cost_R[rises]) > 0, True)[: len(rises)]
    on_frontier: RowNumbers = rows[order[rises[last_of_cost]]]
    return on_frontier


def hull(cost: ArrayLike, error: ArrayLike, axes: Axes) -> RowNumbers:
    """The rows at the corners of the lower convex hull of the frontier on these axes, the cheapest first.

    It reaches from the cheapest row of the frontier to the best one; a row on the line between two others is no corner.
    A hull depends on its axes, as a frontier does not: name them wherever it is shown. Slopes are compared in float64,
    so a row within rounding of a line may be on either side of it.

    Raises ValueError for an unknown name of axes, and for "log-log" where the frontier holds an error of 0 or less.
    """
    if axes not in get_args(Axes):
        raise ValueError(f"a hull has no axes {axes!r}: write {', '.join(get_args(Axes))}")
    cost_R, error_R = _rows(cost, error)
    rows = frontier(cost_R, -error_R)
    if axes == "log-log" and (error_R[rows] <= 0).any():
        raise ValueError("the frontier holds an error of 0 or less, which has no logarithm: ask for the axes log-cost")
    across = _within_one(cost_R[rows] if axes == "linear" else np.log(cost_R[rows]))
    up = _within_one(np.log(error_R[rows]) if axes == "log-log" else error_R[rows])
    corners: list[int] = []
    places = list(zip(across.tolist(), up.tolist(), strict=True))
    for i, place in enumerate(places):
        while len(corners) > 1 and not _is_below(places[corners[-1]], places[corners[-2]], place):
            corners.pop()
        corners.append(i)
    return rows[np.array(corners, dtype=np.intp)]


def tied(cost: ArrayLike, quality: ArrayLike, standard_error: ArrayLike, on_frontier: ArrayLike) -> RowNumbers:
    """The rows that are not on the frontier but within one standard error of it, the lowest number first.

    A row is compared with the row of the frontier that is the best at its cost or less. The standard error is that of
    the difference of the two: the root of the sum of their squares. Only one known: that one alone, since the
    difference's is at least as large. Neither known: a row cannot be called tied. Rows that equal one of the frontier
    in both cost and quality are the same point and not named.

    standard_error: of each row's quality, of seeds their standard deviation / sqrt(seeds); NaN: not known.
    on_frontier: the numbers that `frontier` gave, of these rows or of some of them.

    Raises ValueError where the arrays do not belong together, or a standard error is negative or infinite.
    """
    cost_R, quality_R = _rows(cost, quality)
    error_R, _ = _rows(standard_error, quality)
    wrong = error_R[(error_R < 0) | np.isinf(error_R)]
    if len(wrong):
        raise ValueError(f"a standard error is {wrong[0]:g}: 0 or more is due, or NaN where it is not known")
    members = np.asarray(on_frontier, dtype=np.intp)
    members = members[np.argsort(cost_R[members])]
    others = np.setdiff1d(np.flatnonzero(_usable(cost_R, quality_R)), members)
    place = np.searchsorted(cost_R[members], cost_R[others], side="right") - 1
    others, beside = others[place >= 0], members[place[place >= 0]]
    same = (cost_R[others] == cost_R[beside]) & (quality_R[others] == quality_R[beside])
    known = ~(np.isnan(error_R[others]) & np.isnan(error_R[beside]))
    of_difference = np.hypot(np.nan_to_num(error_R[others]), np.nan_to_num(error_R[beside]))
    near = quality_R[beside] - quality_R[others] <= of_difference
    runners_up: RowNumbers = others[known & near & ~same]
    return runners_up


def _rows(cost: ArrayLike, quality: ArrayLike) -> tuple[Floats, Floats]:
    cost_R = np.ascontiguousarray(cost, dtype=np.float64)
    quality_R = np.ascontiguousarray(quality, dtype=np.float64)
    if cost_R.ndim != 1 or cost_R.shape != quality_R.shape:
        raise ValueError(
            f"rows of the shapes {cost_R.shape} and {quality_R.shape}: one list each of equal length is due"
        )
    return cost_R, quality_R


def _usable(cost_R: Floats, quality_R: Floats) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = (cost_R > 0) & (cost_R < np.inf) & np.isfinite(quality_R)
    return usable


def _best_before(quality: Floats) -> Floats:
    """Along the last dimension, the largest of all values before each; minus infinity before the first."""
    before = np.full_like(quality, -np.inf)
    np.maximum.accumulate(quality[..., :-1], axis=-1, out=before[..., 1:])
    return before


def _hopeful(cost_R: Floats, quality_R: Floats) -> RowNumbers:
    """Row numbers, rising, among them all of the frontier: rows that no row of a sample is seen to beat.

    The bits of a positive float64 are a whole number that rises with it. Buckets are its leading bits: exact, and even
    in log cost or nearly. A row below the best quality that the sample has in cheaper buckets is beaten; so is one
    that is at least as dear as its own bucket's best and worse. Whatever cannot be judged so is kept.
    """
    stride = len(cost_R) // SAMPLED
    cost_S, quality_S = cost_R[::stride], quality_R[::stride]
    usable = _usable(cost_S, quality_S)
    cost_S, quality_S = cost_S[usable], quality_S[usable]
    if len(cost_S) == 0:
        return np.flatnonzero(_usable(cost_R, quality_R))
    bits_S = cost_S.view(np.int64)
    least, most = int(bits_S.min()), int(bits_S.max())
    shift = max(0, (most - least).bit_length() - (BUCKETS.bit_length() - 1))
    least = (least >> shift) - 1  # a bucket more at the cheap end, for what is cheaper than the sample
    bucket_S = (bits_S >> shift) - least
    best_cost, best_quality = np.full((2, (most >> shift) - least + 1), np.inf)
    best_quality[:] = -np.inf
    order = np.argsort(quality_S)  # of an index that comes more than once NumPy keeps the last assignment
    best_cost[bucket_S[order]], best_quality[bucket_S[order]] = cost_S[order], quality_S[order]
    threshold = _best_before(best_quality)

    found = []
    bucket, needed = np.empty(CHUNK, dtype=np.int64), np.empty(CHUNK)
    for start in range(0, len(cost_R), CHUNK):
        cost, quality = cost_R[start : start + CHUNK], quality_R[start : start + CHUNK]
        size = len(cost)
        np.right_shift(cost.view(np.int64), shift, out=bucket[:size])
        np.subtract(bucket[:size], least, out=bucket[:size])
        np.take(threshold, bucket[:size], out=needed[:size], mode="clip")
        kept = np.flatnonzero(quality >= needed[:size])
        own = bucket[kept]
        beaten = (cost[kept] >= best_cost.take(own, mode="clip")) & (
            quality[kept] < best_quality.take(own, mode="clip")
        )
        found.append(kept[~beaten] + start)
    return np.concatenate(found)


def _within_one(values: Floats) -> Floats:
    """Scaled into [-1, 1] by a power of two, so that no product of differences overflows and no digit is lost."""
    _, exponent = np.frexp(np.abs(values).max(initial=0.0))
    scaled: Floats = np.ldexp(values, -exponent)
    return scaled


def _is_below(corner: tuple[float, float], left: tuple[float, float], right: tuple[float, float]) -> bool:
    """Whether a corner lies below the line between two others."""
    (x0, y0), (x, y), (x1, y1) = left, corner, right
    return (x - x0) * (y1 - y0) > (y - y0) * (x1 - x0)
