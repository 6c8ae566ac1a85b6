"""Few-shot evaluation: closed-form ridge regression from frozen features to {-1, +1} targets.

As big_vision's evaluator does it: features standardized by the support's own mean and deviation, a constant feature
as bias, supports of one seed nested. N = images, F = features, K = classes, R, S = rows and columns of any matrix,
Z = probes of an error. Weights are (F + 1, K), the constant feature's last.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.definitions import Data, FewShot, FewShotClassification
from studies.metrics import chosen_l2, fewshot_accuracy, fewshot_accuracy_of_seed
from studies.permutation import permuted
from studies.registry import Registry
from workers.data.loader import eval_batches
from workers.data.sources import Source, open_source
from workers.data.views import EvalView
from workers.evaluation import BATCH, batched, load_trained, value_of
from workers.kernels import products, rules
from workers.models.network import FeatureNetwork
from workers.supervision import DataError, Finished, Place, Supervisor

_BIAS = 100.0
"""Value of the constant feature: so large that the penalty hardly touches its weight."""
_LEAST_DEVIATION = 1e-5

_QUERIES = 1024
"""Queried images scored at a time. Fixed, since the shape of a product can change bits."""
_BLOCK = 256
"""Rows of a Gram matrix computed at a time, up to the diagonal and no further: that is little more than half of it."""
_FAST_PART = 256
"""Images over which a Gram matrix is summed in float32; the sums of parts are added in float64."""
_LARGE_GRAM = 2**31
"""Multiply-adds from which on float32 is tried: below, float64 takes a tenth of a second."""
_MANY = 5
"""Values of l2 from which on one eigendecomposition is cheaper than a Cholesky factor of each."""
_MOST_UNEVEN = 2.0
"""Mean square of the eigenvalues over their squared mean: up to here eigenvectors in float32 are likely enough."""
_PROBES = 8
_MOST_MEASURED_ERROR = 2.5e-6
"""Of the weights, relative, as the probes measure it. A quarter of what is allowed: even an error that all weights
share, whose probes vary most, exceeds four times what is measured in one of 7,000 cases."""
_IS_ONEDNN = "linear=onednn" in rules.describe("cpu")

Solve = Callable[[Tensor], Tensor]
"""From b to (gram + l2)^-1 b, for one Gram matrix and l2."""


class Supports(NamedTuple):
    """The labelled images of all draws of an evaluation: a few of a large split, each there once."""

    place_N: NDArray[np.int64]
    """Ascending, in the support split's subset."""
    label_N: NDArray[np.int64]
    drawn: dict[tuple[int, int], NDArray[np.int64]]
    """For each number of shots and seed, which of them are drawn."""


_MOST_SUPPORTS = 8
_SUPPORTS: OrderedDict[tuple[Data, tuple[int, ...], tuple[int, ...], str], Supports] = OrderedDict()
"""What was drawn last: a training that is watched asks again and again, and labels of generated images are dear."""


def evaluate_fewshot(run: FewShot, place: Place, supervisor: Supervisor) -> Finished:
    """The metrics of `fewshot_classified` for a trained network.

    Raises DataError when a class has fewer images than shots or images cannot be read, CheckpointError and ValueError
    as `load_trained` does, Stopped and Yielded as the supervisor wishes.
    """
    place.device.use()
    check_fewshot(run, place.registry)
    trained = load_trained(run, place)
    found = fewshot_classified(trained.network, run, place, supervisor)
    values = tuple(value_of(run, metric, value) for metric, value in found.items())
    certificate = open_source(run.data, place.registry).certificate()
    return Finished(values, mixed_numerics=trained.mixed_numerics, certificate=certificate)


def fewshot_classified(
    network: FeatureNetwork, measured: FewShotClassification, place: Place, supervisor: Supervisor
) -> dict[str, float]:
    """Accuracy of the few-shot classifier, by name of the metric: for each number of shots each seed's and their mean.

    Of several penalties a number of shots takes that of the best mean, the first of equal ones, and says which. Where
    nothing is drawn by chance there is no seed to name. Features of an image are computed once.
    network: on the place's device, in evaluation mode.
    Raises ValueError and DataError as `check_fewshot` does, DataError when images cannot be read, Stopped and Yielded
    as the supervisor wishes.
    """
    supports = check_fewshot(measured, place.registry)
    support, queried = (open_source(data, place.registry) for data in (measured.support, measured.data))
    support_NF, _ = _features(network, support, measured, supports.place_N, place, supervisor)
    whole_N = np.arange(measured.data.rows)
    query_NF, query_label_N = _features(network, queried, measured, whole_N, place, supervisor)
    found = {}
    for shots in measured.shots:
        correct_SL = []  # a list for each seed, with a count for each penalty
        for seed in measured.support_seeds:
            drawn_N = supports.drawn[shots, seed]
            label_N = torch.from_numpy(supports.label_N[drawn_N])
            scores = classify(support_NF[drawn_N], label_N, query_NF, classes=measured.data.classes, l2s=measured.l2)
            correct_SL.append([int((scores_NK.argmax(dim=-1) == query_label_N).sum()) for scores_NK in scores])
        totals = [sum(correct_S) for correct_S in zip(*correct_SL, strict=True)]
        best = totals.index(max(totals))
        accuracies = [correct_L[best] / measured.data.rows for correct_L in correct_SL]
        if measured.draw == "seeded":
            for seed, accuracy in zip(measured.support_seeds, accuracies, strict=True):
                found[fewshot_accuracy_of_seed(shots, seed)] = accuracy
        found[fewshot_accuracy(shots)] = sum(accuracies) / len(accuracies)
        if len(measured.l2) > 1:
            found[chosen_l2(shots)] = measured.l2[best]
    return found


def check_fewshot(measured: FewShotClassification, registry: Registry) -> Supports:
    """The images that the evaluation learns from, before any feature is computed.

    Raises ValueError when support and classified images differ in kind or have lists of labels, DataError when a class
    has fewer images than shots or labels cannot be read.
    """
    support, data = measured.support, measured.data
    if (support.classes, support.channels) != (data.classes, data.channels):
        raise ValueError(f"{support.name} and {data.name} differ in classes or channels: one cannot teach the other")
    for each in (support, data):
        if each.multi_label:
            raise ValueError(f"few-shot evaluation needs one label an image, and {each.name} has lists of them")
    key = (support, measured.shots, measured.support_seeds, measured.draw)
    if key not in _SUPPORTS:
        while len(_SUPPORTS) >= _MOST_SUPPORTS:
            _SUPPORTS.popitem(last=False)
        _SUPPORTS[key] = _supports(open_source(support, registry).labels(), measured)
    return _SUPPORTS[key]


def support_rows(
    label_N: NDArray[np.int64], *, shots: int, classes: int, seed: int, draw: Literal["seeded", "first"] = "seeded"
) -> NDArray[np.int64]:
    """The rows of `shots` images of each class: the first places of a permutation that the seed and the class name, or
    the first in order.

    So fewer shots are a prefix, class by class, of more. A class must have that many images.
    """
    chosen = []
    for label in range(classes):
        row = np.flatnonzero(label_N == label)
        places = np.arange(shots, dtype=np.int64)
        chosen.append(row[permuted(places, len(row), "support", seed, label) if draw == "seeded" else places])
    return np.concatenate(chosen)


def classify(
    support_NF: Tensor, label_N: Tensor, query_NF: Tensor, *, classes: int, l2s: Sequence[float]
) -> Iterator[Tensor]:
    """For each l2 the scores, (N, K), of the queried images, in float64; the largest names the class.

    An image's scores are the same whichever images are asked with it. Raises as `ridge` does.
    """
    mean_F = support_NF.mean(dim=0)
    x_NF = support_NF - mean_F
    deviation_F = x_NF.square().mean(dim=0).sqrt() + _LEAST_DEVIATION
    for weight_FK in ridge(x_NF.div_(deviation_F), label_N, l2s, classes=classes):
        scores_NK = torch.empty(len(query_NF), classes, dtype=torch.float64)
        block_NF = torch.zeros(_QUERIES, query_NF.shape[1], dtype=torch.float64)
        for start in range(0, len(query_NF), _QUERIES):
            part_NF = query_NF[start : start + _QUERIES]
            block_NF[: len(part_NF)] = (part_NF - mean_F) / deviation_F
            scores_NK[start : start + _QUERIES] = (block_NF @ weight_FK[:-1])[: len(part_NF)]
        yield scores_NK.add_(_BIAS * weight_FK[-1])


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
        for precision in (torch.float32, torch.float64):
            weights = ridge_fast(x_NF, label_N, l2s, classes=classes, precision=precision)
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


def ridge_fast(
    x_NF: Tensor, label_N: Tensor, l2s: Sequence[float], *, classes: int, precision: torch.dtype = torch.float32
) -> list[Tensor] | None:
    """What `ridge_primal` returns, from a Gram matrix in this precision, and of many l2 from its eigenvectors; None
    when that is not accurate to 1e-5, or not faster.

    Accuracy is measured, not assumed: bounds that hold for all features forbid float32 for nearly all. The smallest l2
    decides, since it is the worst conditioned.
    """
    is_many = len(l2s) >= _MANY
    if precision == torch.float64 and not is_many:
        return None
    right_FK = _products_with_targets(x_NF, label_N, classes)
    gram_FF = _gram_of_float32(x_NF) if precision == torch.float32 else _gram(x_NF.mT)
    least = min(l2s)
    try:
        solve, weights_at = (_by_eigenvectors if is_many else _by_factors)(gram_FF, right_FK, least)
        first_FK = weights_at(least)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    error = measured_error(x_NF, right_FK, first_FK, least, solve)
    if not error <= _MOST_MEASURED_ERROR:  # nor when it is no number
        return None
    return [_with_bias(first_FK if l2 == least else weights_at(l2), label_N, l2) for l2 in l2s]


def measured_error(x_NF: Tensor, right_FK: Tensor, weight_FK: Tensor, l2: float, solve: Solve) -> float:
    """Relative error |d| / |w| of the weights w, estimated from random combinations of their columns.

    With z normal, the mean of |d z|^2 is |d|^2, and d z is the solution for the residual of w z, which float64 gives
    at the cost of a few columns instead of K.
    """
    classes = weight_FK.shape[1]
    # Few rows times a large matrix: the other order takes up to seven times as long.
    probe_ZK = torch.randn(_PROBES, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probed_ZF = probe_ZK @ weight_FK.double().mT
    residual_ZF = probe_ZK @ right_FK.mT - (probed_ZF @ x_NF.mT) @ x_NF - l2 * probed_ZF
    return float(solve(residual_ZF.mT).norm() / probed_ZF.norm())


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


def _by_factors(gram_FF: Tensor, right_FK: Tensor, least: float) -> tuple[Solve, Callable[[float], Tensor]]:
    """What solves with the smallest l2, and what gives the weights for any: by a Cholesky factor of each."""
    solve = _cholesky(gram_FF, least)
    return solve, lambda l2: (solve if l2 == least else _cholesky(gram_FF, l2))(right_FK)


def _by_eigenvectors(gram_FF: Tensor, right_FK: Tensor, least: float) -> tuple[Solve, Callable[[float], Tensor]]:
    """The same, but in float32 and by eigenvectors, which all l2 share.

    These, and what they make of x' y, are in float64 unless no eigenvalue stands out: an error of the large ones is
    divided by the smallest. The way back from them is orthogonal, and float32 loses but its last place.
    """
    value_F, vector_FF = torch.linalg.eigh(gram_FF.float() if _is_even(gram_FF) else gram_FF)
    right_KF = right_FK.mT.to(vector_FF.dtype)
    back_FF = vector_FF.float()
    turned_KF = _product(right_KF, back_FF.mT) if right_KF.dtype == torch.float32 else (right_KF @ vector_FF).float()

    def weights(l2: float) -> Tensor:
        return _product(back_FF, turned_KF / (value_F + l2).float())

    def solve(right_FS: Tensor) -> Tensor:
        turned_SF = right_FS.mT.to(vector_FF.dtype) @ vector_FF
        return torch.matmul(turned_SF / (value_F + least), vector_FF.mT).mT

    return solve, weights


def _is_even(gram_FF: Tensor) -> bool:
    """Whether the eigenvalues are about as large as each other: the mean of their squares, by that of themselves."""
    diagonal_F = gram_FF.diagonal()
    squares = 2 * gram_FF.tril().square_().sum() - diagonal_F.square().sum()
    return bool(squares * len(gram_FF) <= _MOST_UNEVEN * diagonal_F.sum().square())


def _product(a_RS: Tensor, b_CS: Tensor) -> Tensor:
    """a b', in float32."""
    return products.linear(a_RS, b_CS, None) if _IS_ONEDNN else a_RS @ b_CS.mT


def _with_bias(weight_FK: Tensor, label_N: Tensor, l2: float) -> Tensor:
    """The weights, in float64, and below them the constant feature's, which no other one is correlated with."""
    features, classes = weight_FK.shape
    count_K = torch.bincount(label_N, minlength=classes).double()
    all_FK = torch.empty(features + 1, classes, dtype=torch.float64)
    all_FK[:-1] = weight_FK
    all_FK[-1] = _BIAS * (2 * count_K - len(label_N)) / (_BIAS**2 * len(label_N) + l2)
    return all_FK


def _features(
    network: FeatureNetwork,
    source: Source,
    measured: FewShotClassification,
    place_N: NDArray[np.int64],
    place: Place,
    supervisor: Supervisor,
) -> tuple[Tensor, Tensor]:
    """Features and labels of the images at these places, which ascend, on the CPU: in float64, (N, F), but computed in
    float32; and (N,).
    """
    view = EvalView(measured.view, measured.image_size, source.data.channels)
    batches = eval_batches(source, view, BATCH, place_N=place_N, readers=place.device.threads)
    feature_NF: Tensor | None = None
    label_N = torch.empty(len(place_N), dtype=torch.int64)
    for batch, feature_BF in batched(network.features, batches, len(place_N), place.device, supervisor):
        if feature_NF is None:
            feature_NF = torch.empty(len(place_N), feature_BF.shape[1], dtype=torch.float64)
        at_B = torch.from_numpy(np.searchsorted(place_N, batch.places))
        feature_NF[at_B] = feature_BF.cpu().double()
        label_N[at_B] = torch.from_numpy(batch.labels)
    assert feature_NF is not None
    return feature_NF, label_N


def _supports(label_N: NDArray[np.int64], measured: FewShotClassification) -> Supports:
    support = measured.support
    counts = np.bincount(label_N, minlength=support.classes)
    label = int(counts.argmin())
    for shots in measured.shots:
        if counts[label] < shots:
            raise DataError(
                f"class {label} has {counts[label]} of the {support.rows:,} images of {support.name},"
                f" {support.split} split, fewer than {shots} shots: give a larger support"
            )
    chosen = {
        (shots, seed): support_rows(label_N, shots=shots, classes=support.classes, seed=seed, draw=measured.draw)
        for shots in measured.shots
        for seed in measured.support_seeds
    }
    place_N = np.unique(np.concatenate(list(chosen.values())))
    drawn = {which: np.searchsorted(place_N, row_N) for which, row_N in chosen.items()}
    return Supports(place_N, label_N[place_N], drawn)
