"""Few-shot evaluation: closed-form ridge regression from frozen features to {-1, +1} targets, in float64.

As big_vision's evaluator does it: features standardized by the support's own mean and deviation, a constant feature
as bias, supports of one seed nested. N = images, F = features (the constant included in X), K = classes.
"""

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
from workers.models.network import Network
from workers.supervision import DataError, Finished, Place, Supervisor

_BIAS = 100.0
"""Value of the constant feature: so large that the penalty hardly touches its weight."""
_LEAST_DEVIATION = 1e-5


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
    """Scores, (N, K), of the queried images; the largest names the class. All in float64."""
    mean_F = support_NF.mean(dim=0)
    deviation_F = support_NF.std(dim=0, correction=0) + _LEAST_DEVIATION
    target_NK = 2 * torch.nn.functional.one_hot(label_N, classes).double() - 1
    weight_FK = ridge(_with_bias((support_NF - mean_F) / deviation_F), target_NK, l2)
    return _with_bias((query_NF - mean_F) / deviation_F) @ weight_FK


def ridge(x_NF: Tensor, y_NK: Tensor, l2: float) -> Tensor:
    """The weights, (F, K), that minimize |x w - y|^2 + l2 |w|^2: by the smaller of the two Gram matrices.

    Raises torch.linalg.LinAlgError when that is not positive definite: an l2 lost in the features' rounding.
    """
    return ridge_primal(x_NF, y_NK, l2) if x_NF.shape[0] >= x_NF.shape[1] else ridge_dual(x_NF, y_NK, l2)


def ridge_primal(x_NF: Tensor, y_NK: Tensor, l2: float) -> Tensor:
    """(x' x + l2)^-1 x' y."""
    return _solved(x_NF.mT @ x_NF, x_NF.mT @ y_NK, l2)


def ridge_dual(x_NF: Tensor, y_NK: Tensor, l2: float) -> Tensor:
    """x' (x x' + l2)^-1 y, the same weights."""
    return x_NF.mT @ _solved(x_NF @ x_NF.mT, y_NK, l2)


def _solved(gram: Tensor, right: Tensor, l2: float) -> Tensor:
    gram.diagonal().add_(l2)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram))


def _with_bias(x_NF: Tensor) -> Tensor:
    return torch.cat([x_NF, torch.full((len(x_NF), 1), _BIAS, dtype=x_NF.dtype)], dim=1)


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
