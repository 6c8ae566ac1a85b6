import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from studies.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    CenterCrop,
    InceptionCrop,
    RandAugment,
    RandomCrop,
    Resize,
    Shift,
)
from tests.bad_images import picture, saved
from workers.data.crops import TRIES, WORDS_PER_TRY, inception_rectangle, picked
from workers.data.decoding import decode
from workers.data.draws import below, draws, unit
from workers.data.mixup import mixed, shares
from workers.data.randaugment import OPERATIONS, augment
from workers.data.resident import Resident
from workers.data.views import EvalView, TrainView

Pixels = NDArray[np.uint8]
POSITIONS = np.arange(64)


def rendered(view: TrainView | EvalView, image: bytes | Pixels, position: int = 0) -> Pixels:
    out_HWC = np.full((view.image_size, view.image_size, view.channels), 77, dtype=np.uint8)
    view.render(image, view.words(np.array([position]))[0], out_HWC)
    return out_HWC


def noise(height: int, width: int, channels: int = 3, images: int | None = None) -> Pixels:
    shape = (height, width, channels) if images is None else (images, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bilinear(image_HWC: Pixels, height: int, width: int) -> NDArray[np.float32]:
    """As TensorFlow resizes: pixels' centres at halves, no antialiasing."""
    image_BCHW = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(image_BCHW, (height, width), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


# ---------------------------------------------------------------------------------------------------------------- draws


def test_words_depend_on_seed_purpose_and_position_alone() -> None:
    together = draws(np.arange(100), 5, 3, "view")
    np.testing.assert_array_equal(draws(np.array([41, 7]), 5, 3, "view"), together[[41, 7]])
    np.testing.assert_array_equal(draws(np.arange(100), 2, 3, "view"), together[:, :2])
    for other in (draws(np.arange(100), 5, 4, "view"), draws(np.arange(100), 5, 3, "mixup")):
        assert not (other == together).any()


def test_words_are_those_that_stored_runs_drew() -> None:
    digest = hashlib.sha256(draws(np.array([0, 1, 10**12]), 3, 0, "view").astype("<u8").tobytes()).hexdigest()
    assert digest[:16] == "15b3c2dc7b03435c"


def test_words_are_even_and_know_nothing_of_their_neighbours() -> None:
    word_BW = draws(np.arange(30_000), 3, 0, "view")
    assert len(np.unique(word_BW)) == word_BW.size
    number_BW = unit(word_BW)
    assert number_BW.min() >= 0
    assert number_BW.max() < 1
    assert abs(number_BW.mean() - 0.5) < 0.003
    for one, other in ((number_BW[:-1, 0], number_BW[1:, 0]), (number_BW[:, 0], number_BW[:, 1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    for bit in (0, 31, 63):
        assert abs((word_BW >> np.uint64(bit) & np.uint64(1)).mean() - 0.5) < 0.006
    cells = np.bincount(3 * below(word_BW[:, 1], 3) + below(word_BW[:, 2], 3), minlength=9)
    assert stats.chisquare(cells).pvalue > 0.001


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**31))
def test_a_word_picks_a_number_below_the_count(word: int, count: int) -> None:
    assert 0 <= picked(word, count) < count
    assert below(np.array([word], dtype=np.uint64), count)[0] == picked(word, count)


# ---------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(("height", "width"), [(30, 40), (200, 150), (7, 9), (64, 33)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_bilinear_with_centres_at_halves(height: int, width: int, channels: int) -> None:
    image_HWC = noise(height, width, channels)
    shown = rendered(EvalView(Resize(), 32, channels), image_HWC)
    assert np.abs(shown - bilinear(image_HWC, 32, 32)).max() <= 1.01


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image_HWC = noise(32, 32)
    for view in (
        EvalView(Resize(), 32, 3),
        TrainView(Augmentation(), 32, 3, 0),
        EvalView(CenterCrop(resize=32), 32, 3),
    ):
        np.testing.assert_array_equal(rendered(view, image_HWC), image_HWC)
    np.testing.assert_array_equal(
        rendered(EvalView(Resize(), 32, 3), saved(Image.fromarray(image_HWC), "PNG")), image_HWC
    )


def test_a_centre_crop_is_the_middle_of_the_scaled_image() -> None:
    image_HWC = noise(60, 90)
    kept = rendered(EvalView(CenterCrop(resize=40), 32, 3), image_HWC)
    assert np.abs(kept - bilinear(image_HWC, 40, 60)[4:36, 14:46]).max() <= 1.01
    squeezed = rendered(EvalView(CenterCrop(resize=40, keep_aspect=False), 32, 3), image_HWC)
    assert np.abs(squeezed - bilinear(image_HWC, 40, 40)[4:36, 4:36]).max() <= 1.01


def test_a_crop_larger_than_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="a crop of 32 pixels cannot be cut"):
        EvalView(CenterCrop(resize=31), 32, 3)
    with pytest.raises(ValueError, match="a crop of 32 pixels cannot be cut"):
        TrainView(Augmentation(crop=RandomCrop(resize=31)), 32, 3, 0)


def test_a_random_crop_is_a_window_of_the_scaled_image_and_reaches_all_places() -> None:
    image_HWC = noise(10, 10)
    view = TrainView(Augmentation(crop=RandomCrop(resize=10)), 8, 3, 0)
    windows = {image_HWC[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    assert {rendered(view, image_HWC, position).tobytes() for position in range(100)} == windows


def test_a_shift_moves_by_all_distances_and_fills_with_black() -> None:
    image_HWC = noise(6, 6)
    padded = np.pad(image_HWC, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[y : y + 6, x : x + 6].tobytes() for y in range(3) for x in range(3)}
    view = TrainView(Augmentation(crop=Shift(pixels=1)), 6, 3, 0)
    assert {rendered(view, image_HWC, position).tobytes() for position in range(100)} == windows


@pytest.mark.parametrize("channels", [1, 3])
def test_half_of_the_images_are_mirrored(channels: int) -> None:
    image_HWC = noise(8, 8, channels)
    view = TrainView(Augmentation(flip=True), 8, channels, 0)
    shown = [rendered(view, image_HWC, position) for position in range(400)]
    mirrored = [np.array_equal(one, image_HWC[:, ::-1]) for one in shown]
    assert all(m or np.array_equal(one, image_HWC) for m, one in zip(mirrored, shown, strict=True))
    assert 160 < sum(mirrored) < 240


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (256, 256), (100, 400), (33, 32)])
def test_inception_crops_keep_their_bounds(height: int, width: int) -> None:
    words_BW = draws(np.arange(500), TRIES * WORDS_PER_TRY, 0, "view").tolist()
    for words in words_BW:
        top, left, crop_height, crop_width = inception_rectangle(height, width, 0.05, words)
        assert top >= 0
        assert left >= 0
        assert top + crop_height <= height
        assert left + crop_width <= width
        assert crop_height * crop_width >= 0.05 * height * width
        assert crop_width - 1 <= 4 / 3 * crop_height
        assert crop_width + 1 >= 3 / 4 * crop_height


def test_inception_crops_draw_their_height_evenly_as_tensorflow_does() -> None:
    # At aspect ratio a of 256 x 256 pixels: from sqrt(0.05 / a) to min(1, 1 / a) of the side, evenly; a evenly too.
    words_BW = draws(np.arange(20_000), TRIES * WORDS_PER_TRY, 1, "view").tolist()
    heights = np.array([inception_rectangle(256, 256, 0.05, words).height for words in words_BW]) / 256
    aspect = np.linspace(3 / 4, 4 / 3, 10_001)
    expected = ((np.sqrt(0.05 / aspect) + np.minimum(1, 1 / aspect)) / 2).mean()
    assert abs(heights.mean() - expected) < 0.006


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (1, 1), (2, 3)])
def test_an_image_that_no_crop_fits_is_seen_whole(height: int, width: int) -> None:
    for words in draws(POSITIONS, TRIES * WORDS_PER_TRY, 0, "view").tolist():
        top, left, crop_height, crop_width = inception_rectangle(height, width, 0.05, words)
        if max(height, width) > 3:
            assert (top, left, crop_height, crop_width) == (0, 0, height, width)
        assert top + crop_height <= height
        assert left + crop_width <= width
    shown = rendered(TrainView(AUGMENTATIONS["inception"], 16, 3, 0), noise(height, width))
    assert shown.shape == (16, 16, 3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_augmentation_is_the_same_for_threads_in_any_order(name: str, channels: int) -> None:
    view = TrainView(AUGMENTATIONS[name], 24, channels, seed=5)
    encoded = saved(Image.fromarray(picture()), "JPEG", quality=90)
    word_BW = view.words(POSITIONS)
    batch_BHWC = np.empty((len(POSITIONS), 24, 24, channels), dtype=np.uint8)
    with ThreadPoolExecutor(4) as readers:
        list(readers.map(lambda b: view.render(encoded, word_BW[b], batch_BHWC[b]), reversed(range(len(POSITIONS)))))
    for position in (0, 17, 63):
        np.testing.assert_array_equal(batch_BHWC[position], rendered(view, encoded, position))
        np.testing.assert_array_equal(
            batch_BHWC[position], rendered(view, decode(encoded, channels, rough=view.rough), position)
        )


def test_another_seed_sees_other_views_and_a_change_of_bits_is_a_decision() -> None:
    image_HWC = noise(60, 50)
    view = TrainView(AUGMENTATIONS["inception"], 24, 3, seed=0)
    other = TrainView(AUGMENTATIONS["inception"], 24, 3, seed=1)
    assert not np.array_equal(rendered(view, image_HWC), rendered(other, image_HWC))
    digest = hashlib.sha256(b"".join(rendered(view, image_HWC, position).tobytes() for position in range(20)))
    assert digest.hexdigest()[:16] == "2387ac0366d866b2"


def test_opencv_starts_no_threads_beside_ours() -> None:
    program = "import workers.data.views, cv2; print(cv2.getNumThreads())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


# ---------------------------------------------------------------------------------------------------------- RandAugment


def changed(name: str, image_HWC: Pixels, magnitude: float, sign: int = 1) -> Pixels:
    out_HWC = image_HWC.copy()
    OPERATIONS[name](out_HWC, magnitude / 10, (0, sign << 63, 1 << 63, 1 << 63))
    return out_HWC


def test_the_operations_are_the_sixteen_of_big_vision() -> None:
    colors = {"AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"}
    factors = {"Color", "Contrast", "Brightness", "Sharpness"}
    moves = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"}
    assert set(OPERATIONS) == colors | factors | moves


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0.0, 5.0, 10.0, 20.0, 30.0])
def test_each_operation_works_at_each_magnitude_in_place(name: str, channels: int, magnitude: float) -> None:
    for image_HWC in (picture(24, 24)[..., :channels].copy(), np.full((24, 24, channels), 90, dtype=np.uint8)):
        out_HWC = changed(name, image_HWC, magnitude)
        assert out_HWC.shape == image_HWC.shape
        assert out_HWC.dtype == np.uint8


def test_operations_on_values_are_those_of_pillow() -> None:
    image_HWC = picture(24, 24)
    shown = Image.fromarray(image_HWC)
    np.testing.assert_array_equal(changed("Equalize", image_HWC, 0), np.asarray(ImageOps.equalize(shown)))
    np.testing.assert_array_equal(changed("Invert", image_HWC, 0), np.asarray(ImageOps.invert(shown)))
    np.testing.assert_array_equal(changed("Posterize", image_HWC, 10), np.asarray(ImageOps.posterize(shown, 4)))
    np.testing.assert_array_equal(changed("Solarize", image_HWC, 5), np.asarray(ImageOps.solarize(shown, 128)))
    close = {"AutoContrast": ImageOps.autocontrast(shown)}
    for name, enhance in (("Color", ImageEnhance.Color), ("Brightness", ImageEnhance.Brightness)):
        close[name] = enhance(shown).enhance(1.9)
    close["Sharpness"] = ImageEnhance.Sharpness(shown).enhance(1.9)
    for name, expected in close.items():
        difference = np.abs(changed(name, image_HWC, 10).astype(int) - np.asarray(expected))
        assert difference.max() <= 2, name


def test_magnitudes_of_zero_and_beyond_ten_do_what_the_levels_say() -> None:
    image_HWC = picture(24, 24)
    np.testing.assert_array_equal(changed("Posterize", image_HWC, 0), image_HWC & 128)
    np.testing.assert_array_equal(changed("Posterize", image_HWC, 20), image_HWC)
    np.testing.assert_array_equal(changed("Solarize", image_HWC, 0), 255 - image_HWC)
    np.testing.assert_array_equal(changed("Solarize", image_HWC, 10), image_HWC)
    np.testing.assert_array_equal(changed("Brightness", image_HWC, 5), image_HWC)
    np.testing.assert_array_equal(changed("Contrast", np.full_like(image_HWC, 196), 20), np.full_like(image_HWC, 196))
    for name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout"):
        np.testing.assert_array_equal(changed(name, image_HWC, 0), image_HWC)


def test_moves_are_by_pixels_of_a_square_of_224_and_leave_grey() -> None:
    image_HWC = picture(224, 224)
    moved = changed("TranslateX", image_HWC, 1)
    np.testing.assert_array_equal(moved[:, :-10], image_HWC[:, 10:])
    assert (moved[:, -10:] == 128).all()
    back = changed("TranslateX", image_HWC, 1, sign=0)
    np.testing.assert_array_equal(back[:, 10:], image_HWC[:, :-10])
    small = picture(56, 56)
    np.testing.assert_array_equal(changed("TranslateY", small, 4)[:-10], small[10:])
    cut = changed("Cutout", image_HWC, 10)
    assert (cut[72:152, 72:152] == 128).all()
    np.testing.assert_array_equal(cut[:72], image_HWC[:72])


def test_a_turn_forth_and_back_leaves_the_middle() -> None:
    image_HWC = cv2.GaussianBlur(noise(64, 64), (0, 0), 4).astype(np.uint8)
    turned = changed("Rotate", changed("Rotate", image_HWC, 10), 10, sign=0)
    assert np.abs(turned[20:44, 20:44].astype(int) - image_HWC[20:44, 20:44]).mean() < 4
    centre = np.zeros((65, 65, 3), dtype=np.uint8)
    centre[32, 32] = 255
    assert (changed("Rotate", centre, 10)[32, 32] == 255).all()


def test_layers_pick_all_operations_evenly() -> None:
    words_BW = draws(np.arange(16_000), 4, 0, "view")
    counts = np.bincount(below(words_BW[:, 0], 16), minlength=16)
    assert stats.chisquare(counts).pvalue > 0.001
    image_HWC = picture(16, 16)
    twice, once = image_HWC.copy(), image_HWC.copy()
    words = [int(word) for word in draws(np.array([3]), 8, 0, "view")[0]]
    augment(twice, RandAugment(layers=2, magnitude=10.0), words)
    for first in (0, 4):
        augment(once, RandAugment(layers=1, magnitude=10.0), words[first : first + 4])
    np.testing.assert_array_equal(twice, once)


# ---------------------------------------------------------------------------------------------------------------- mixup


def test_shares_are_at_least_a_half_and_follow_the_beta_distribution() -> None:
    for alpha in (0.2, 0.5, 0.8):
        share_S = shares(np.arange(0, 512 * 4000, 512), alpha, seed=0)
        assert share_S.dtype == np.float32
        assert share_S.min() >= 0.5
        assert share_S.max() <= 1
        upper_half = 2 * stats.beta(alpha, alpha).cdf(np.sort(share_S)) - 1
        assert stats.kstest(upper_half, "uniform").pvalue > 0.001


def test_shares_depend_on_seed_and_position_alone() -> None:
    first_S = np.array([0, 512, 1024])
    share_S = shares(first_S, 0.2, seed=0)
    np.testing.assert_array_equal(shares(first_S[[2, 1]], 0.2, seed=0), share_S[[2, 1]])
    assert not (shares(first_S, 0.2, seed=1) == share_S).any()


def test_each_image_and_label_is_mixed_with_the_one_before() -> None:
    image_BCHW = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    target_BK = torch.eye(4)
    share = torch.tensor(0.75)
    image, target = mixed(image_BCHW, share), mixed(target_BK, share)
    assert image[:, 0, 0, 0].tolist() == [0.75, 0.75, 1.75, 2.75]
    assert target[1].tolist() == [0.25, 0.75, 0.0, 0.0]
    assert target.sum(dim=1).tolist() == [1.0] * 4
    assert torch.equal(mixed(image_BCHW, torch.tensor(1.0)), image_BCHW)


# ------------------------------------------------------------------------------------------------------------- resident


@pytest.mark.parametrize("name", ["none", "flip", "shift", "cifar", "inception", "light2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resident_images_are_augmented_as_any_others_bit_for_bit(name: str, channels: int) -> None:
    image_NHWC = noise(12, 12, channels, images=20)
    resident = Resident(image_NHWC, AUGMENTATIONS[name], 12, seed=9)
    assert resident.batched == (name not in ("inception", "light2"))
    row_B, position_B = POSITIONS % 20, POSITIONS * 1_000_003
    batch_BHWC = resident.batch(row_B, position_B)
    view = TrainView(AUGMENTATIONS[name], 12, channels, seed=9)
    for shown, row, position in zip(batch_BHWC, row_B, position_B, strict=True):
        np.testing.assert_array_equal(shown, rendered(view, image_NHWC[row], int(position)))
    on_device = resident.batch_on_device(row_B, position_B, torch.device("cpu"))
    np.testing.assert_array_equal(on_device.numpy(), batch_BHWC)


def test_resident_images_of_another_size_are_resized() -> None:
    image_NHWC = noise(10, 14, images=5)
    resident = Resident(image_NHWC, AUGMENTATIONS["cifar"], 12, seed=0)
    assert not resident.batched
    assert resident.batch(np.arange(5), np.arange(5)).shape == (5, 12, 12, 3)


def test_resident_images_are_not_changed_and_an_empty_batch_is_empty() -> None:
    image_NHWC = noise(8, 8, images=4)
    before = image_NHWC.copy()
    image_NHWC.setflags(write=False)
    for name in ("none", "flip", "cifar"):
        resident = Resident(image_NHWC, AUGMENTATIONS[name], 8, seed=0)
        resident.batch(np.zeros(50, dtype=np.int64), np.arange(50))[...] = 0
        np.testing.assert_array_equal(resident.batch(np.array([1]), np.array([0])).shape, (1, 8, 8, 3))
        assert resident.batch(np.arange(0), np.arange(0)).shape == (0, 8, 8, 3)
        assert resident.batch_on_device(np.arange(0), np.arange(0), torch.device("cpu")).shape == (0, 8, 8, 3)
    np.testing.assert_array_equal(image_NHWC, before)


def test_inception_crops_of_area_one_are_as_large_as_fits() -> None:
    view = TrainView(Augmentation(crop=InceptionCrop(area_min=1.0)), 16, 3, 0)
    image_HWC = noise(40, 40)
    whole = rendered(EvalView(Resize(), 16, 3), image_HWC)
    np.testing.assert_array_equal(rendered(view, image_HWC), whole)
