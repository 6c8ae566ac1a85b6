"""Procedural images: their bytes are a promise, their rows stand alone, and difficulty is what makes them hard."""

import hashlib
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from studies.procedural import ENDLESS, SPLIT_ROWS, Shapes
from workers.data.procedural import render

PINNED = {
    # A change here is another data set: raise REVISION in studies/procedural.py with it.
    (32, 32, 0.5, 0, "train"): "759c41c33a477059b3a86c9c2d8ea58eb80faa3df7f0405ef75adf0d669d721d",
    (8, 10, 0.0, 1, "test"): "370b90d212d101dfeac25fad7bafc964b650e24b0f6d44bc0189c865a0612285",
    (96, 1000, 1.0, 2, "validation"): "155b23b63226d5cbef5c0274555e27d902fa7cd9474d7ce27f44c39ff7f08a6d",
}


def rows(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def digest(shapes: Shapes, split: str, row_B: NDArray[np.int64]) -> str:
    image_BHWC, label_B = render(shapes, split, row_B)
    return hashlib.sha256(image_BHWC.tobytes() + label_B.astype("<i8").tobytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("case", PINNED)
def test_the_bytes_of_a_fingerprint_are_pinned(case: tuple[int, int, float, int, str]) -> None:
    image_size, classes, difficulty, seed, split = case
    shapes = Shapes(image_size=image_size, classes=classes, difficulty=difficulty, seed=seed)
    assert digest(shapes, split, rows(0, 1, 77, 9_999)) == PINNED[case]


def test_the_fingerprint_is_pinned() -> None:
    assert Shapes().fingerprint("train") == FINGERPRINT


FINGERPRINT = "7b96fc43ce453d218c3ead042c9746448e6e64deadb7d8462ca40d6b66bf69b1"


def test_no_tabled_sine_or_direction_is_so_near_to_a_tie_that_another_math_library_could_round_it_otherwise() -> None:
    sines = [16384 * math.sin(2 * math.pi * angle / 4096) for angle in range(4096)]
    offsets = np.arange(512) - 255.5
    directions = [math.atan2(y, x) * 512 / (2 * math.pi) for y in offsets[:256] for x in offsets]
    for values in (sines, directions):
        assert min(abs(value % 1 - 0.5) for value in values) > 1e-7  # errors of such functions are below 1e-11


# ------------------------------------------------------------------------------------------------------------ rows


@given(
    numbers=st.lists(st.integers(0, ENDLESS - 1) | st.integers(0, 50), min_size=1, max_size=90),
    cuts=st.lists(st.integers(0, 90), max_size=3),
    difficulty=st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=25, deadline=None)
def test_a_row_is_the_same_in_any_order_and_any_batch(numbers: list[int], cuts: list[int], difficulty: float) -> None:
    shapes = Shapes(image_size=12, difficulty=difficulty)
    row_B = rows(*numbers)
    image_BHWC, label_B = render(shapes, "train", row_B)
    backwards_BHWC, backwards_B = render(shapes, "train", row_B[::-1])
    assert np.array_equal(backwards_BHWC[::-1], image_BHWC)
    assert np.array_equal(backwards_B[::-1], label_B)
    parts = [render(shapes, "train", part) for part in np.split(row_B, sorted(cuts)) if len(part)]
    assert np.array_equal(np.concatenate([image for image, _ in parts]), image_BHWC)
    assert np.array_equal(np.concatenate([label for _, label in parts]), label_B)


def test_no_rows_are_no_images() -> None:
    image_BHWC, label_B = render(Shapes(), "train", rows())
    assert image_BHWC.shape == (0, 32, 32, 3)
    assert label_B.shape == (0,)


def test_labels_are_uniform() -> None:
    _, label_B = render(Shapes(image_size=8, classes=10), "train", np.arange(20_000))
    assert label_B.dtype == np.int64
    counts = np.bincount(label_B, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square of 9 degrees, 1 in 1000


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_no_image_is_there_twice_in_one_split_or_in_two(difficulty: float) -> None:
    row_B = np.arange(2000, dtype=np.int64)
    shapes = Shapes(image_size=16, difficulty=difficulty)
    images = {image.tobytes() for split in SPLIT_ROWS for image in render(shapes, split, row_B)[0]}
    assert len(images) == 3 * 2000


def test_another_seed_has_other_images_and_other_classes() -> None:
    row_B = np.arange(64, dtype=np.int64)
    first, second = (render(Shapes(seed=seed), "train", row_B) for seed in (0, 1))
    assert not np.array_equal(first[1], second[1])
    means = [class_means(Shapes(seed=seed, classes=4, difficulty=0.0), 400) for seed in (0, 1)]
    apart = [np.abs(one - other).mean() for one in means[0] for other in means[1]]
    assert min(apart) > 3


def test_splits_and_fields_have_fingerprints_of_their_own() -> None:
    others = [Shapes(classes=33), Shapes(image_size=33), Shapes(difficulty=0.25), Shapes(seed=1)]
    names = {shapes.fingerprint(split) for shapes in [Shapes(), *others] for split in SPLIT_ROWS}
    assert len(names) == 5 * 3


def test_a_row_or_split_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="row 10000 is outside the test split: it has 10,000 rows"):
        render(Shapes(), "test", rows(3, 10_000))
    with pytest.raises(ValueError, match="row -1 is outside the train split"):
        render(Shapes(), "train", rows(-1))
    with pytest.raises(ValueError, match="'dev' is no split of procedural images; valid: train, validation, test"):
        render(Shapes(), "dev", rows(0))


# --------------------------------------------------------------------------------------------------------- content


def class_means(shapes: Shapes, count: int) -> NDArray[np.float64]:
    image_BHWC, label_B = render(shapes, "train", np.arange(count))
    flat = image_BHWC.reshape(count, -1).astype(np.float64)
    return np.stack([flat[label_B == label].mean(axis=0) for label in range(shapes.classes)])


def nearest_mean_accuracy(difficulty: float) -> float:
    shapes = Shapes(classes=8, difficulty=difficulty, image_size=16)
    image_BHWC, label_B = render(shapes, "test", np.arange(500))
    away_BK = ((image_BHWC.reshape(500, 1, -1) - class_means(shapes, 1500)) ** 2).sum(axis=-1)
    return float((away_BK.argmin(axis=1) == label_B).mean())


def test_the_class_that_looks_most_alike_is_right_without_difficulty_and_ever_less_with_it() -> None:
    accuracies = [nearest_mean_accuracy(difficulty) for difficulty in (0.0, 0.2, 0.4, 1.0)]
    assert accuracies[0] > 0.97
    assert accuracies[-1] < 0.25  # of 8 classes
    assert accuracies == sorted(accuracies, reverse=True)


def test_colors_alone_tell_nothing_of_the_class() -> None:
    shapes = Shapes(classes=8, image_size=16)
    image_BHWC, label_B = render(shapes, "train", np.arange(4000))
    color_BC = image_BHWC.reshape(4000, -1, 3).mean(axis=1)
    mean_KC = np.stack([color_BC[label_B == label].mean(axis=0) for label in range(8)])
    assert np.abs(mean_KC - color_BC.mean(axis=0)).max() < 4 * color_BC.std() / math.sqrt(4000 / 8)


def test_a_row_shows_the_same_scene_at_any_size() -> None:
    (large, large_label), (small, small_label) = (
        render(Shapes(image_size=image_size, difficulty=0.2), "train", np.arange(20)) for image_size in (128, 32)
    )
    assert np.array_equal(large_label, small_label)
    shrunk = large.reshape(20, 32, 4, 32, 4, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 6
    assert np.abs(shrunk - small[::-1]).mean() > 20


def test_a_row_keeps_its_class_and_place_when_it_gets_harder() -> None:
    (_, easy), (_, hard) = (render(Shapes(difficulty=each), "train", np.arange(200)) for each in (0.0, 1.0))
    assert np.array_equal(easy, hard)


@pytest.mark.parametrize("image_size", [8, 32, 33, 64, 224])
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_any_size_and_number_of_classes_can_be_had(image_size: int, classes: int, difficulty: float) -> None:
    shapes = Shapes(image_size=image_size, classes=classes, difficulty=difficulty)
    image_BHWC, label_B = render(shapes, "validation", np.arange(4))
    assert image_BHWC.shape == (4, image_size, image_size, 3)
    assert image_BHWC.dtype == np.uint8
    assert image_BHWC.std(axis=(1, 2, 3)).min() > 5
    assert 0 <= label_B.min() <= label_B.max() < classes


def test_memory_does_not_grow_with_the_batch() -> None:
    shapes = Shapes(image_size=16)
    render(shapes, "train", np.arange(4))  # tables

    def beside_the_result(count: int) -> int:
        tracemalloc.start()
        render(shapes, "train", np.arange(count))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - count * (16 * 16 * 3 + 8 + 8)

    assert beside_the_result(4096) < beside_the_result(256) + 2**18
