"""Starts of a fit by variable projection: the shape from a grid, the linear amounts by weighted least squares.

K = fits at once, G = shapes of the grid, Q = linear amounts, R = points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from studies.laws.points import Floats


def projected(
    log_error_KR: Floats,
    weight_KR: Floats,
    feature_GQR: Floats,
    compose: Callable[[Floats], Floats],
    *,
    floor: bool,
) -> Floats:
    """One start for each shape: amounts (K, G, Q) that bring the law next to the errors, composed to theta (K, G, P).

    The law of shape g is the sum over q of amount * feature; the amounts minimise the weighted squares of its relative
    deviations and are >= 0; with `floor` the first is at most the least error drawn. log_error_KR may have one row for
    all.
    """
    error_KR = np.exp(np.broadcast_to(log_error_KR, weight_KR.shape))
    least_K = np.where(weight_KR > 0, error_KR, np.inf).min(axis=1)
    relative_KR = weight_KR / error_KR
    # Without BLAS: its sums depend on the number of threads, and the same question should have the same digits.
    right_KGQ = np.einsum("kr,gqr->kgq", relative_KR, feature_GQR)
    pairs_GQQR = feature_GQR[:, :, None, :] * feature_GQR[:, None, :, :]
    left_KGQQ = np.einsum("kr,gqsr->kgqs", relative_KR / error_KR, pairs_GQQR)
    amounts = feature_GQR.shape[1]
    low_KGQ = np.zeros_like(right_KGQ)
    high_KGQ = np.full_like(right_KGQ, np.inf)
    if floor:
        high_KGQ[..., 0] = least_K[:, None]
    fixed_KGQ = np.zeros(right_KGQ.shape, dtype=bool)
    amount_KGQ = low_KGQ
    for _ in range(amounts + 1):
        amount_KGQ = _solved(left_KGQQ, right_KGQ, fixed_KGQ, amount_KGQ)
        outside_KGQ = (amount_KGQ < low_KGQ) | (amount_KGQ > high_KGQ)
        fixed_KGQ |= outside_KGQ
        amount_KGQ = np.clip(amount_KGQ, low_KGQ, high_KGQ)
        if not outside_KGQ.any():
            break
    return compose(amount_KGQ)


def _solved(left_KGQQ: Floats, right_KGQ: Floats, fixed_KGQ: NDArray[np.bool_], amount_KGQ: Floats) -> Floats:
    """Least squares for the amounts that are free, those fixed staying what they are."""
    free_KGQ = ~fixed_KGQ
    known_KGQ = np.where(fixed_KGQ, amount_KGQ, 0.0)
    right = np.where(free_KGQ, right_KGQ - np.einsum("kgqs,kgs->kgq", left_KGQQ, known_KGQ), known_KGQ)
    both = free_KGQ[..., :, None] & free_KGQ[..., None, :]
    identity = np.eye(left_KGQQ.shape[-1])
    diagonal_KGQ = np.einsum("kgqq->kgq", left_KGQQ)
    # A ridge of 1e-12 keeps features that coincide (a flat shape beside the floor) from being singular.
    left = (
        np.where(both, left_KGQQ, 0.0) + identity * np.where(free_KGQ, 1e-12 * diagonal_KGQ + 1e-280, 1.0)[..., None, :]
    )
    return np.asarray(np.linalg.solve(left, right[..., None])[..., 0])
