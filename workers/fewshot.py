"""Few-shot evaluation: closed-form ridge regression from frozen features to {-1, +1} targets.

As big_vision's evaluator does it: features standardized by the support's own mean and deviation, a constant feature
as bias, supports of one seed nested. N = images, F = features, K = classes, R, S = rows and columns of any matrix,
Z = probes of an error. Weights are (F + 1, K), the constant feature's last.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.definitions import FewShot
from studies.metrics import fewshot_accuracy, fewshot_accuracy_of_seed
from studies.permutation import permuted
from workers.data.loader import eval_batches
from workers.data.sources import Source, open_source
from workers.data.views import EvalView
from workers.evaluation import BATCH, batched, load_trained, value_of
from workers.kernels import products, rules
from workers.models.network import Network
from workers.supervision import DataError, Finished, Place, Supervisor

_BIAS = 100.0
"""Value of the constant feature: so large that the penalty hardly touches its weight."""
_LEAST_DEVIATION = 1e-5

_QUERIES = 1024
"""Queried images scored at a time. Fixed, since the shape of a product can change bits."""
_BLOCK = 256
"""Rows of a Gram matrix computed at a time, up to the diagonal and no further: that is little more than half of it."""
_FAST_PART = 1024
"""Images over which a Gram matrix is summed in float32; the sums of parts are added in float64."""
_LARGE_GRAM = 2**31
"""Multiply-adds from which on float32 is tried: below, float64 takes a tenth of a second."""
_SEVERAL = 3
"""Values of l2 from which on one eigendecomposition is cheaper than a Cholesky factor of each."""
_PROBES = 8
_MOST_MEASURED_ERROR = 2.5e-6
"""Of the weights, relative, as the probes measure it. A quarter of what is allowed: even an error that all weights
share, whose probes vary most, exceeds four times what is measured in one of 7,000 cases."""
_IS_ONEDNN = "linear=onednn" in rules.describe("cpu")

Solve = Callable[[Tensor], Tensor]
"""From b to (gram + l2)^-1 b, for one Gram matrix and l2."""


def evaluate_fewshot(run: FewShot, place: Place, supervisor: Supervisor) -> Finished:
    """Accuracy of the few-shot classifier: for each number of shots each support seed's, and their mean.

    Raises DataError when a class has fewer images than shots or images cannot be read, CheckpointError and ValueError
    as `load_trained` does, Stopped and Yielded as the supervisor wishes.
    """
    place.device.use()
    if (run.support.classes, run.support.channels) != (run.data.classes, run.data.channels):
        raise ValueError(
            f"{run.support.name} and {run.data.name} differ in classes or channels: one cannot teach the other"
        )
    if run.support.multi_label or run.data.multi_label:
        raise ValueError(f"few-shot evaluation needs one label an image, and {run.data.name} has lists of them")
    trained = load_trained(run, place)
    support, queried = open_source(run.support, place.registry), open_source(run.data, place.registry)
    label_N = support.labels()
    for shots in run.shots:
        _check_shots(label_N, run, shots)
    chosen = {
        (shots, seed): support_rows(label_N, shots=shots, classes=run.support.classes, seed=seed)
        for shots in run.shots
        for seed in run.support_seeds
    }
    # Of a large support a few images are drawn: only those are read, each once.
    drawn_N = np.unique(np.concatenate(list(chosen.values())))
    support_NF = _features(trained.network, support, run, drawn_N, place, supervisor)
    query_NF = _features(trained.network, queried, run, np.arange(run.data.rows), place, supervisor)
    query_label_N = torch.from_numpy(queried.labels())
    values = []
    for shots in run.shots:
        accuracies = []
        for seed in run.support_seeds:
            row_N = torch.from_numpy(np.searchsorted(drawn_N, chosen[shots, seed]))
            label = torch.from_numpy(label_N[chosen[shots, seed]])
            scores_NK = classify(support_NF[row_N], label, query_NF, classes=run.data.classes, l2=run.l2)
            correct = int((scores_NK.argmax(dim=-1) == query_label_N).sum())
            accuracies.append(correct / run.data.rows)
            values.append(value_of(run, fewshot_accuracy_of_seed(shots, seed), accuracies[-1]))
        values.append(value_of(run, fewshot_accuracy(shots), sum(accuracies) / len(accuracies)))
    return Finished(tuple(values), mixed_numerics=trained.mixed_numerics, certificate=queried.certificate())


def support_rows(label_N: NDArray[np.int64], *, shots: int, classes: int, seed: int) -> NDArray[np.int64]:
    """The rows of `shots` images of each class: the first places of a permutation that the seed and the class name.

    So fewer shots are a prefix, class by class, of more. A class must have that many images.
    """
    chosen = []
    for label in range(classes):
        row = np.flatnonzero(label_N == label)
        places = np.arange(shots, dtype=np.int64)
        chosen.append(row[permuted(places, len(row), "support", seed, label)])
    return np.concatenate(chosen)


def classify(support_NF: Tensor, label_N: Tensor, query_NF: Tensor, *, classes: int, l2: float) -> Tensor:
    """Scores, (N, K), of the queried images, in float64; the largest names the class.

    An image's scores are the same whichever images are asked with it. Raises as `ridge` does.
    """
    mean_F = support_NF.mean(dim=0)
    x_NF = support_NF - mean_F
    deviation_F = x_NF.square().mean(dim=0).sqrt() + _LEAST_DEVIATION
    (weight_FK,) = ridge(x_NF.div_(deviation_F), label_N, (l2,), classes=classes)
    scores_NK = torch.empty(len(query_NF), classes, dtype=torch.float64)
    block_NF = torch.zeros(_QUERIES, query_NF.shape[1], dtype=torch.float64)
    for start in range(0, len(query_NF), _QUERIES):
        part_NF = query_NF[start : start + _QUERIES]
        block_NF[: len(part_NF)] = (part_NF - mean_F) / deviation_F
        scores_NK[start : start + _QUERIES] = (block_NF @ weight_FK[:-1])[: len(part_NF)]
    return scores_NK.add_(_BIAS * weight_FK[-1])


def ridge(x_NF: Tensor, label_N: Tensor, l2s: Sequence[float], *, classes: int) -> list[Tensor]:
    """For each l2 the weights, (F + 1, K), that minimize |[x, 100] w - y|^2 + l2 |w|^2, where y is 1 at an image's
    label and -1 elsewhere: by the smaller of the two Gram matrices, which all l2 share. In float64.

    x_NF: features in float64, each of mean 0: so the constant feature is orthogonal to them, its weight alone.
    A large Gram matrix is computed in float32 where the relative error of the weights is then below 1e-5.
    Raises torch.linalg.LinAlgError when the matrix is not positive definite: an l2 lost in the features' rounding.
    """
    rows, features = x_NF.shape
    if rows <= features:
        return ridge_dual(x_NF, label_N, l2s, classes=classes)
    if rows * features**2 >= _LARGE_GRAM:
        weights = ridge_fast(x_NF, label_N, l2s, classes=classes)
        if weights is not None:
            return weights
    return ridge_primal(x_NF, label_N, l2s, classes=classes)


def ridge_primal(x_NF: Tensor, label_N: Tensor, l2s: Sequence[float], *, classes: int) -> list[Tensor]:
    """(x' x + l2)^-1 x' y and the constant's weight, all in float64."""
    right_FK = _products_with_targets(x_NF, label_N, classes)
    gram_FF = _gram(x_NF.mT)
    return [_with_bias(_cholesky(gram_FF, l2)(right_FK), label_N, l2) for l2 in l2s]


def ridge_dual(x_NF: Tensor, label_N: Tensor, l2s: Sequence[float], *, classes: int) -> list[Tensor]:
    """x' (x x' + l2)^-1 y and the constant's weight: the same weights, all in float64."""
    target_NK = 2 * torch.nn.functional.one_hot(label_N, classes).double() - 1
    gram_NN = _gram(x_NF)
    # x' 1 = 0, so a multiple of 1 1' changes no weight. It lifts the one eigenvalue that centering made zero.
    gram_NN += gram_NN.diagonal().mean()
    return [_with_bias(x_NF.mT @ _cholesky(gram_NN, l2)(target_NK), label_N, l2) for l2 in l2s]


def ridge_fast(x_NF: Tensor, label_N: Tensor, l2s: Sequence[float], *, classes: int) -> list[Tensor] | None:
    """What `ridge_primal` returns, from a Gram matrix in float32; None when that is not accurate to 1e-5.

    Accuracy is measured, not assumed: bounds that hold for all features forbid float32 for nearly all. The smallest l2
    decides, since it is the worst conditioned.
    """
    right_FK = _products_with_targets(x_NF, label_N, classes)
    gram_FF = _gram_of_float32(x_NF)
    least = min(l2s)
    try:
        if len(l2s) >= _SEVERAL:
            weights, solve = _by_eigenvectors(gram_FF, right_FK, l2s)
        else:
            solves = {l2: _cholesky(gram_FF, l2) for l2 in l2s}
            weights, solve = [solves[l2](right_FK) for l2 in l2s], solves[least]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    error = measured_error(x_NF, right_FK, weights[l2s.index(least)], least, solve)
    if not error <= _MOST_MEASURED_ERROR:  # nor when it is no number
        return None
    return [_with_bias(weight_FK, label_N, l2) for weight_FK, l2 in zip(weights, l2s, strict=True)]


def measured_error(x_NF: Tensor, right_FK: Tensor, weight_FK: Tensor, l2: float, solve: Solve) -> float:
    """Relative error |d| / |w| of the weights w, estimated from random combinations of their columns.

    With z normal, the mean of |d z|^2 is |d|^2, and d z is the solution for the residual of w z, which float64 gives
    at the cost of a few columns instead of K.
    """
    probe_KZ = torch.randn(weight_FK.shape[1], _PROBES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probed_FZ = weight_FK @ probe_KZ
    seen_ZN = (x_NF @ probed_FZ).mT.contiguous()  # the other order takes seven times as long
    residual_FZ = right_FK @ probe_KZ - (seen_ZN @ x_NF).mT - l2 * probed_FZ
    return float(solve(residual_FZ).norm() / probed_FZ.norm())


def _products_with_targets(x_NF: Tensor, label_N: Tensor, classes: int) -> Tensor:
    """x' y, (F, K): twice the sum of a class's images, since the sum of all is 0."""
    sum_KF = torch.zeros(classes, x_NF.shape[1], dtype=torch.float64).index_add_(0, label_N, x_NF)
    return 2 * sum_KF.mT


def _gram(a_RS: Tensor) -> Tensor:
    """a a', (R, R), of which only the lower triangle is meant."""
    gram_RR = torch.zeros(len(a_RS), len(a_RS), dtype=torch.float64)
    for start in range(0, len(a_RS), _BLOCK):
        end = start + _BLOCK
        gram_RR[start:end, :end] = a_RS[start:end] @ a_RS[:end].mT
    return gram_RR


def _gram_of_float32(x_NF: Tensor) -> Tensor:
    """x' x, (F, F), in float64 from sums in float32; of which only the lower triangle is meant."""
    gram_FF = torch.zeros(x_NF.shape[1], x_NF.shape[1], dtype=torch.float64)
    for first in range(0, len(x_NF), _FAST_PART):
        part_FN = x_NF[first : first + _FAST_PART].float().mT.contiguous()  # oneDNN takes minutes for slices of columns
        for start in range(0, len(part_FN), _BLOCK):
            end = start + _BLOCK
            gram_FF[start:end, :end] += _product(part_FN[start:end], part_FN[:end])
    return gram_FF


def _cholesky(gram_RR: Tensor, l2: float) -> Solve:
    shifted_RR = gram_RR.clone()
    shifted_RR.diagonal().add_(l2)
    factor_RR = torch.linalg.cholesky(shifted_RR)
    return lambda right_RS: torch.cholesky_solve(right_RS, factor_RR)


def _by_eigenvectors(gram_FF: Tensor, right_FK: Tensor, l2s: Sequence[float]) -> tuple[list[Tensor], Solve]:
    """In float32, the solutions for each l2, which share the eigenvectors, and what solves with the smallest."""
    value_F, vector_FF = torch.linalg.eigh(gram_FF.float())
    rotated_FF = vector_FF.mT.contiguous()

    def back(turned_FS: Tensor, l2: float) -> Tensor:
        return _product((vector_FF / (value_F + l2)).contiguous(), turned_FS.mT).double()

    def turned(right_FS: Tensor) -> Tensor:
        return _product(rotated_FF, right_FS.float().mT)

    turned_FK = turned(right_FK)
    return [back(turned_FK, l2) for l2 in l2s], lambda right_FS: back(turned(right_FS), min(l2s))


def _product(a_RS: Tensor, b_CS: Tensor) -> Tensor:
    """a b', in float32."""
    return products.linear(a_RS, b_CS, None) if _IS_ONEDNN else a_RS @ b_CS.mT


def _with_bias(weight_FK: Tensor, label_N: Tensor, l2: float) -> Tensor:
    """The weights and below them the constant feature's, which no other one is correlated with."""
    count_K = torch.bincount(label_N, minlength=weight_FK.shape[1]).double()
    bias_K = _BIAS * (2 * count_K - len(label_N)) / (_BIAS**2 * len(label_N) + l2)
    return torch.cat([weight_FK, bias_K[None]])


def _features(
    network: Network, source: Source, run: FewShot, place_N: NDArray[np.int64], place: Place, supervisor: Supervisor
) -> Tensor:
    """Features of the images at these places, which ascend, on the CPU in float64, (N, F); computed in float32."""
    view = EvalView(run.view, run.image_size, run.data.channels)
    batches = eval_batches(source, view, BATCH, place_N=place_N, readers=place.device.threads)
    feature_NF: Tensor | None = None
    for batch, feature_BF in batched(network.features, batches, len(place_N), place.device, supervisor):
        if feature_NF is None:
            feature_NF = torch.empty(len(place_N), feature_BF.shape[1], dtype=torch.float64)
        feature_NF[torch.from_numpy(np.searchsorted(place_N, batch.places))] = feature_BF.cpu().double()
    assert feature_NF is not None
    return feature_NF


def _check_shots(label_N: NDArray[np.int64], run: FewShot, shots: int) -> None:
    counts = np.bincount(label_N, minlength=run.support.classes)
    label = int(counts.argmin())
    if counts[label] < shots:
        raise DataError(
            f"class {label} has {counts[label]} of the {run.support.rows:,} images of {run.support.name},"
            f" {run.support.split} split, fewer than {shots} shots: give a larger support"
        )
