"""Few-shot evaluation: against scikit-learn and the published evaluator, in float64 and where float32 is enough."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from studies.datasets import DIGITS
from studies.definitions import FewShot, key_of
from studies.metrics import chosen_l2, fewshot_accuracy, fewshot_accuracy_of_seed
from studies.registry import BUILT_IN_ONLY
from tests.trained_digits import CPU, SMALL, Silent, values
from workers.checkpoints import load, save
from workers.data.sources import open_source
from workers.fewshot import classify, ridge, ridge_dual, ridge_fast, ridge_primal, support_rows
from workers.perform import perform
from workers.supervision import DataError, Place, Stopped, Wish, Yielded


def fewshot(shots: tuple[int, ...] = (1, 5), support_rows: int | None = None) -> FewShot:
    support, data = DIGITS.take("train", support_rows), DIGITS.take("test")
    return FewShot(
        upstream=key_of(SMALL),
        support=support,
        data=data,
        image_size=8,
        shots=shots,
        support_seeds=(0, 1, 2),
        l2=(1024.0,),
    )


def support(rows: int, features: int, classes: int, *, decay: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardized features whose spectrum falls with this power, and labels in no order: some often, some never."""
    random = torch.Generator().manual_seed(seed)
    scale_F = torch.arange(1, features + 1, dtype=torch.float64) ** -decay
    x_NF = torch.randn(rows, features, dtype=torch.float64, generator=random) * scale_F
    x_NF = x_NF @ torch.linalg.qr(torch.randn(features, features, dtype=torch.float64, generator=random)).Q
    x_NF -= x_NF.mean(dim=0)
    label_N = (torch.arange(rows) ** 2 % classes)[torch.randperm(rows, generator=random)]
    return x_NF / (x_NF.std(dim=0, correction=0) + 1e-5), label_N


def by_scikit_learn(x_NF: Tensor, label_N: Tensor, l2: float, classes: int) -> np.ndarray:
    x = np.pad(x_NF.numpy(), [(0, 0), (0, 1)], constant_values=100.0)
    solved: np.ndarray = (
        Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(x, 2 * np.eye(classes)[label_N.numpy()] - 1).coef_.T
    )
    return solved


def relative(found: Tensor, expected: Tensor | np.ndarray) -> float:
    return float((found - torch.as_tensor(expected)).norm() / torch.as_tensor(expected).norm())


@pytest.mark.parametrize(("rows", "features"), [(60, 20), (20, 60), (30, 30), (31, 30), (700, 300), (300, 700)])
def test_ridge_regression_agrees_with_scikit_learn(rows: int, features: int) -> None:
    x_NF, label_N = support(rows, features, 7)
    for l2 in (0.1, 1024.0):
        (found,) = ridge(x_NF, label_N, (l2,), classes=7)
        np.testing.assert_allclose(found.numpy(), by_scikit_learn(x_NF, label_N, l2, 7), rtol=1e-6, atol=1e-9)


def test_a_gram_matrix_in_float32_gives_scikit_learns_weights_to_a_hundred_thousandth() -> None:
    x_NF, label_N = support(2000, 300, 40)
    for l2s in ((1024.0,), (16.0, 1024.0, 64.0, 256.0), (16.0, 1024.0, 64.0, 256.0, 32.0)):
        found = ridge_fast(x_NF, label_N, l2s, classes=40)
        assert found is not None
        for weight, l2 in zip(found, l2s, strict=True):
            assert relative(weight, by_scikit_learn(x_NF, label_N, l2, 40)) <= 1e-5


def test_float32_is_refused_wherever_it_would_not_give_five_digits() -> None:
    accepted = {True: 0, False: 0}
    for decay in (0.0, 0.5, 1.0, 2.0):
        x_NF, label_N = support(1500, 200, 30, decay=decay)
        for l2 in (1e-6, 1e-2, 1.0, 32.0, 1024.0, 32768.0):
            for l2s in ((l2,), tuple(l2 * 2**power for power in range(5))):
                found = ridge_fast(x_NF, label_N, l2s, classes=30)
                accepted[found is not None] += 1
                exact = ridge_primal(x_NF, label_N, l2s, classes=30)
                # The bias is exact and would hide what the other weights lack.
                for weight, expected in zip(found or [], exact, strict=bool(found)):
                    assert relative(weight[:-1], expected[:-1]) <= 1e-5
    assert min(accepted.values()) >= 8


def test_many_l2_share_eigenvectors_whose_precision_is_that_which_the_features_need() -> None:
    l2s = (1.0, 4.0, 16.0, 64.0, 256.0)
    for decay in (0.0, 0.5, 1.0):
        x_NF, label_N = support(9000, 500, 10, decay=decay)
        found = ridge(x_NF, label_N, l2s, classes=10)
        for weight, exact in zip(found, ridge_primal(x_NF, label_N, l2s, classes=10), strict=True):
            assert relative(weight[:-1], exact[:-1]) <= 1e-5


def test_a_large_support_takes_float32_only_where_it_is_enough() -> None:
    for decay, is_enough in ((0.0, True), (3.0, False)):
        x_NF, label_N = support(9000, 500, 10, decay=decay)
        fast = ridge_fast(x_NF, label_N, (1.0,), classes=10)
        assert (fast is not None) == is_enough
        (found,) = ridge(x_NF, label_N, (1.0,), classes=10)
        assert torch.equal(found, (fast or ridge_primal(x_NF, label_N, (1.0,), classes=10))[0])


def test_an_error_that_is_no_number_is_not_taken_for_a_small_one() -> None:
    x_NF, label_N = support(300, 20, 5)
    for l2s in ((1.0,), (1.0, 2.0, 4.0, 8.0, 16.0)):
        assert ridge_fast(torch.zeros_like(x_NF), label_N, l2s, classes=5) is None
        assert ridge_fast(x_NF.index_fill(1, torch.tensor([3]), torch.nan), label_N, l2s, classes=5) is None


def test_with_hardly_any_l2_the_dual_weights_are_the_least_that_fit_every_label() -> None:
    x_NF, label_N = support(20, 60, 5)
    target_NK = 2 * torch.nn.functional.one_hot(label_N, 5).double() - 1
    (found,) = ridge(x_NF, label_N, (1e-15,), classes=5)
    expected = torch.linalg.pinv(x_NF) @ target_NK
    torch.testing.assert_close(found[:-1], expected, rtol=1e-9, atol=1e-10)


@given(rows=st.integers(2, 12), features=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_the_primal_and_the_dual_weights_are_the_same(rows: int, features: int, seed: int) -> None:
    x_NF, label_N = support(rows, features, 3, seed=seed)
    primal, dual = (each(x_NF, label_N, (0.5, 2.0), classes=3) for each in (ridge_primal, ridge_dual))
    torch.testing.assert_close(primal, dual, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("rows", "features"), [(60, 20), (20, 60)])
def test_several_l2_give_the_weights_that_each_gives_alone(rows: int, features: int) -> None:
    x_NF, label_N = support(rows, features, 3)
    l2s = (1024.0, 0.5, 8.0, 2.0)
    together = ridge(x_NF, label_N, l2s, classes=3)
    assert all(
        torch.equal(weight, ridge(x_NF, label_N, (l2,), classes=3)[0]) for weight, l2 in zip(together, l2s, strict=True)
    )


def test_the_weights_have_the_same_bits_each_time() -> None:
    x_NF, label_N = support(900, 200, 20)
    for way in (ridge_fast, ridge_primal, ridge_dual):
        once, again = (way(x_NF, label_N, (16.0, 64.0, 256.0, 512.0, 1024.0), classes=20) for _ in range(2))
        assert once is not None
        assert again is not None
        assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))


def test_the_classifier_is_the_published_evaluator_step_by_step() -> None:
    random = np.random.default_rng(1)
    for images, features in ((12, 5), (12, 30)):
        support, query = random.standard_normal((images, features)), random.standard_normal((7, features))
        support[:, 2] = 3.0
        label = np.repeat(np.arange(3), 4)
        mean, deviation = support.mean(axis=0), support.std(axis=0) + 1e-5
        x = np.pad((support - mean) / deviation, [(0, 0), (0, 1)], constant_values=100.0)
        y = 2 * np.eye(3)[label] - 1
        weight = np.linalg.inv(x.T @ x + 8.0 * np.eye(features + 1)) @ x.T @ y
        expected = np.pad((query - mean) / deviation, [(0, 0), (0, 1)], constant_values=100.0) @ weight
        (found,) = classify(*map(torch.from_numpy, (support, label, query)), classes=3, l2s=(8.0,))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-10)


def test_an_images_scores_do_not_depend_on_how_many_are_asked_at_once() -> None:
    x_NF, label_N = support(60, 70, 13)
    query_NF = torch.randn(2500, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (whole,) = classify(x_NF, label_N, query_NF, classes=13, l2s=(16.0,))
    for size in (1, 700, 1024, 1999):
        starts = range(0, 3 * size, size)
        parts = [
            next(classify(x_NF, label_N, query_NF[start : start + size], classes=13, l2s=(16.0,))) for start in starts
        ]
        assert torch.equal(torch.cat(parts), whole[: 3 * size])


@given(shots=st.integers(1, 9), seed=st.integers(0, 100), draw=st.sampled_from(["seeded", "first"]))
@settings(max_examples=40, deadline=None)
def test_supports_are_nested_and_balanced(shots: int, seed: int, draw: Literal["seeded", "first"]) -> None:
    label = open_source(DIGITS.take("train", 300), BUILT_IN_ONLY).labels()
    fewer = support_rows(label, shots=shots, classes=10, seed=seed, draw=draw)
    more = support_rows(label, shots=shots + 1, classes=10, seed=seed, draw=draw)
    assert np.bincount(label[fewer], minlength=10).tolist() == [shots] * 10
    assert len(set(fewer)) == 10 * shots
    assert np.array_equal(fewer.reshape(10, shots), more.reshape(10, shots + 1)[:, :shots])
    other = support_rows(label, shots=shots + 1, classes=10, seed=seed + 1, draw=draw)
    assert np.array_equal(more, other) == (draw == "first")


def test_the_first_images_of_each_class_are_those_in_the_order_of_the_support() -> None:
    label = np.array([1, 0, 1, 1, 0, 2, 2, 0])
    assert support_rows(label, shots=2, classes=3, seed=5, draw="first").tolist() == [1, 4, 0, 2, 5, 6]


def test_few_shot_results_are_one_for_each_seed_and_their_mean(upstream: Path, tmp_path: Path) -> None:
    found = values(perform(fewshot(), Place(CPU, tmp_path, upstream=upstream), Silent()))
    for shots in (1, 5):
        of_seeds = [found.pop(fewshot_accuracy_of_seed(shots, seed)) for seed in (0, 1, 2)]
        mean = found[fewshot_accuracy(shots)]
        assert mean == pytest.approx(np.mean([value for value in of_seeds if value is not None]))
        assert len(set(of_seeds)) > 1
    one, five = found.pop(fewshot_accuracy(1)), found.pop(fewshot_accuracy(5))
    assert one is not None
    assert five is not None
    assert 0.2 < one < five
    assert not found


def test_of_several_l2_each_number_of_shots_takes_the_one_of_the_best_mean(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    l2s = tuple(4.0**power for power in range(-3, 8))
    together = values(perform(fewshot().model_copy(update={"l2": l2s}), place, Silent()))
    alone = {l2: values(perform(fewshot().model_copy(update={"l2": (l2,)}), place, Silent())) for l2 in (*l2s, 1024.0)}
    for shots in (1, 5):
        mean = fewshot_accuracy(shots)
        best = max(l2s, key=lambda l2: alone[l2][mean] or 0.0)  # the first of equal ones
        assert together[chosen_l2(shots)] == best
        for metric in (mean, *(fewshot_accuracy_of_seed(shots, seed) for seed in (0, 1, 2))):
            assert together[metric] == alone[best][metric]
    assert len({alone[l2][fewshot_accuracy(5)] for l2 in l2s}) > 1
    assert not any(name.startswith("l2_") for name in alone[1024.0])


def test_where_nothing_is_drawn_the_result_names_no_seed(upstream: Path, tmp_path: Path) -> None:
    run = fewshot().model_copy(update={"draw": "first", "support_seeds": (0,)})
    found = values(perform(run, Place(CPU, tmp_path, upstream=upstream), Silent()))
    assert found.keys() == {fewshot_accuracy(1), fewshot_accuracy(5)}


def test_lists_of_labels_are_refused(upstream: Path, tmp_path: Path) -> None:
    run = fewshot()
    other = run.model_copy(update={"data": run.data.model_copy(update={"multi_label": True})})
    with pytest.raises(ValueError, match="needs one label an image, and digits has lists of them"):
        perform(other, Place(CPU, tmp_path, upstream=upstream), Silent())


def test_a_class_with_fewer_images_than_shots_is_an_error_before_any_feature_is_computed(
    upstream: Path, tmp_path: Path
) -> None:
    supervisor = Silent()
    with pytest.raises(
        DataError, match=r"class \d has \d+ of the 300 images of digits, train split, fewer than 25 shots"
    ):
        perform(fewshot((1, 25), support_rows=300), Place(CPU, tmp_path, upstream=upstream), supervisor)
    assert supervisor.heard == 0


def test_a_support_of_other_classes_is_refused(upstream: Path, tmp_path: Path) -> None:
    run = fewshot()
    other = run.model_copy(update={"support": run.support.model_copy(update={"classes": 4})})
    with pytest.raises(ValueError, match="differ in classes or channels"):
        perform(other, Place(CPU, tmp_path, upstream=upstream), Silent())


def test_a_few_shot_evaluation_gives_the_same_numbers_each_time(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    assert perform(fewshot(), place, Silent()) == perform(fewshot(), place, Silent())


def test_a_few_shot_evaluation_of_mixed_numerics_says_so(upstream: Path, tmp_path: Path) -> None:
    tensors, facts = load(upstream)
    save(tmp_path / "mixed", tensors, facts.model_copy(update={"mixed_numerics": True}))
    assert not perform(fewshot(), Place(CPU, tmp_path, upstream=upstream), Silent()).mixed_numerics
    assert perform(fewshot(), Place(CPU, tmp_path, upstream=tmp_path / "mixed"), Silent()).mixed_numerics


def test_a_few_shot_evaluation_gives_up_when_it_is_asked_to(upstream: Path, tmp_path: Path) -> None:
    place = Place(CPU, tmp_path, upstream=upstream)
    with pytest.raises(Stopped):
        perform(fewshot(), place, Silent(Wish.STOP))
    with pytest.raises(Yielded):
        perform(fewshot(), place, Silent(Wish.YIELD))
