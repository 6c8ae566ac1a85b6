"""Metrics of classifications: closed cases and plain references, for networks whose logits are written down."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studies.datasets import DataSet, Files, StoredSplit
from studies.definitions import Classification
from studies.manifests import Columns
from studies.metrics import ACCURACY, ACCURACY_TOP5, CALIBRATION_ERROR, LOSS
from studies.registry import Registry
from tests.image_shards import write_shard
from tests.trained_digits import CPU, Silent
from workers.data.index import index_shards, manifest_of, write_index
from workers.evaluation import classified, most_likely
from workers.models.network import Network
from workers.supervision import DataError, Place

SIDE = 4


class Answering(Network):
    """Answers an image of the color n with row n of a table of logits."""

    def __init__(self, logits_NK: Tensor) -> None:
        super().__init__()
        self.logits_NK = logits_NK

    def features(self, image_BCHW: Tensor) -> Tensor:
        return ((image_BCHW[:, 0, 0, :1] + 1) * 127.5).round()

    def classify(self, feature_BF: Tensor) -> Tensor:
        return self.logits_NK[feature_BF[:, 0].long()]


def metrics_of(
    logits_NK: Tensor, labels: Sequence[Any], folder: Path, *, classes: int | None = None, mapping: Any = None
) -> dict[str, float]:
    """Of images with these labels, which a network answers with these logits."""
    images = []
    for number in range(len(labels)):
        file = io.BytesIO()
        Image.fromarray(np.full((SIDE, SIDE, 3), number, dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    write_shard(folder / "test-0.parquet", images, labels)
    split = index_shards(str(folder), ["test-0.parquet"], Columns())
    classes = classes or logits_NK.shape[1]
    manifest = manifest_of({"test": split}, Columns(), channels=3, image_size=None, classes=classes)
    files = Files(location=str(folder))
    write_index(files.index_location, manifest, {"test": split})
    data_set = DataSet(
        name="written",
        origin=files,
        splits={"test": StoredSplit(rows=len(labels), fingerprint=manifest.fingerprint("test"))},
        classes=classes,
        channels=3,
        image_size=None,
        multi_label=isinstance(labels[0], list),
        source="this test",
    )
    measured = Classification(data=data_set.take("test"), image_size=SIDE, mapping=mapping)
    place = Place(CPU, folder, registry=Registry({"written": data_set}, None))
    return classified(Answering(logits_NK), measured, place, Silent())


def drawn(images: int, classes: int, seed: int = 0) -> tuple[Tensor, list[int]]:
    """Logits of which some are right and some are sure, and labels."""
    random = torch.Generator().manual_seed(seed)
    logits_NK = 2 * torch.randn(images, classes, generator=random)
    return logits_NK, torch.randint(classes, (images,), generator=random).tolist()


def calibration_error_by_definition(logits_NK: Tensor, labels: list[int]) -> float:
    """Guo et al., arXiv:1706.04599, equations 2 and 3 and the sum over bins."""
    probability_NK = logits_NK.double().softmax(dim=1).numpy()
    confidence_N, is_right_N = probability_NK.max(axis=1), probability_NK.argmax(axis=1) == np.array(labels)
    error = 0.0
    for m in range(1, 16):
        within_N = (confidence_N > (m - 1) / 15) & (confidence_N <= m / 15)
        if within_N.any():
            gap = abs(is_right_N[within_N].mean() - confidence_N[within_N].mean())
            error += within_N.mean() * gap
    return float(error)


def test_the_metrics_of_one_label_an_image_are_those_of_their_definitions(tmp_path: Path) -> None:
    logits_NK, labels = drawn(200, 9)
    found = metrics_of(logits_NK, labels, tmp_path)
    order_NK = (-logits_NK).argsort(dim=1).numpy()
    assert found.keys() == {ACCURACY, ACCURACY_TOP5, LOSS, CALIBRATION_ERROR}
    assert found[ACCURACY] == np.mean(order_NK[:, 0] == labels)
    assert found[ACCURACY_TOP5] == np.mean([label in order[:5] for label, order in zip(labels, order_NK, strict=True)])
    likelihood = torch.nn.functional.cross_entropy(logits_NK.double(), torch.tensor(labels))
    assert found[LOSS] == pytest.approx(float(likelihood), rel=1e-12)
    assert found[CALIBRATION_ERROR] == pytest.approx(calibration_error_by_definition(logits_NK, labels), abs=1e-9)


def test_of_five_classes_no_top_five_are_measured(tmp_path: Path) -> None:
    assert ACCURACY_TOP5 not in metrics_of(*drawn(20, 5), tmp_path)


def test_a_perfectly_calibrated_network_has_no_calibration_error(tmp_path: Path) -> None:
    sure_with_three_quarters = torch.tensor([[np.log(3.0), 0.0]]).repeat(8, 1)
    found = metrics_of(sure_with_three_quarters, [0, 0, 0, 1] * 2, tmp_path)
    assert found[ACCURACY] == 0.75
    assert found[CALIBRATION_ERROR] == pytest.approx(0, abs=1e-7)


def test_a_network_that_is_always_wrong_and_sure_has_the_largest_calibration_error(tmp_path: Path) -> None:
    found = metrics_of(torch.tensor([[200.0, 0.0]]).repeat(6, 1), [1] * 6, tmp_path)
    assert found[ACCURACY] == 0
    assert found[CALIBRATION_ERROR] == 1


def test_equal_chances_are_one_guess_of_average_confidence(tmp_path: Path) -> None:
    found = metrics_of(torch.zeros(8, 8), list(range(8)), tmp_path)
    assert found[ACCURACY] == 1 / 8
    assert found[ACCURACY_TOP5] == 5 / 8
    assert found[CALIBRATION_ERROR] == 0


def test_the_calibration_error_is_the_same_in_any_order_of_the_images(tmp_path: Path) -> None:
    logits_NK, labels = drawn(200, 4)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1)).tolist()
    one = metrics_of(logits_NK, labels, tmp_path / "one")
    other = metrics_of(logits_NK[order], [labels[each] for each in order], tmp_path / "other")
    assert one[CALIBRATION_ERROR] == other[CALIBRATION_ERROR]


def test_a_network_that_answers_nan_has_no_calibration_error(tmp_path: Path) -> None:
    logits_NK, labels = drawn(20, 9)
    logits_NK[3] = torch.nan
    found = metrics_of(logits_NK, labels, tmp_path)
    assert np.isnan(found[CALIBRATION_ERROR])
    assert np.isnan(found[LOSS])


def test_of_equal_logits_the_first_classes_are_the_most_likely() -> None:
    logits_BK = torch.tensor([[0.0, 1.0, 1.0, 0.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    assert most_likely(logits_BK, 5).tolist() == [[4, 1, 2, 5, 0], [0, 1, 2, 3, 4]]


# ------------------------------------------------------------------------------------------------------ lists of labels


def test_of_lists_of_labels_one_must_be_guessed_and_images_without_any_do_not_count(tmp_path: Path) -> None:
    logits_NK = torch.arange(7.0).repeat(4, 1)  # guesses 6, then 5, 4, 3, 2
    found = metrics_of(logits_NK, [[6, 0], [2, 1], [], [0, 1]], tmp_path)
    assert found.keys() == {ACCURACY, ACCURACY_TOP5, LOSS}
    assert found[ACCURACY] == pytest.approx(1 / 3)
    assert found[ACCURACY_TOP5] == pytest.approx(2 / 3)
    target_NK = torch.zeros(4, 7)
    for row, labels in enumerate([[6, 0], [2, 1], [], [0, 1]]):
        target_NK[row, labels] = 1
    counted = [0, 1, 3]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_NK[counted], target_NK[counted])
    assert found[LOSS] == pytest.approx(7 * float(loss), rel=1e-6)


def test_images_of_which_none_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no image of written, test split, has a label of a class that the mapping names"
    ):
        metrics_of(torch.zeros(2, 3), [1, 1], tmp_path, classes=2, mapping=(0, -1, -1))


# ------------------------------------------------------------------------------------------------------------- mappings


def test_a_guess_is_mapped_and_a_class_without_counterpart_is_wrong(tmp_path: Path) -> None:
    guesses = [0, 1, 2, 3, 3, 0]
    labels = [0, 0, 1, 1, 2, 2]
    # Nobody can guess class 2 of the data. What the network calls 3 is nothing there.
    found = metrics_of(torch.eye(4)[guesses], labels, tmp_path, classes=3, mapping=(0, 0, 1, -1))
    assert found == {ACCURACY: 3 / 4}


def test_five_guesses_are_the_networks_before_they_are_mapped(tmp_path: Path) -> None:
    logits_NK = torch.arange(8.0).repeat(3, 1)  # guesses 7, 6, 5, 4, 3
    found = metrics_of(logits_NK, [0, 1, 2], tmp_path, classes=3, mapping=(2, -1, -1, 1, -1, -1, -1, 0))
    assert found == {ACCURACY: 1 / 3, ACCURACY_TOP5: 2 / 3}


def test_lists_of_labels_are_mapped_too(tmp_path: Path) -> None:
    guesses = [0, 1, 2, 2]
    found = metrics_of(torch.eye(3)[guesses], [[0, 2], [0], [1], [2]], tmp_path, classes=3, mapping=(0, 1, -1))
    assert found == {ACCURACY: 1 / 3}
