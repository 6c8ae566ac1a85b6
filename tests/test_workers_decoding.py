import io
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from studies.augmentations import AUGMENTATIONS, CenterCrop
from tests.bad_images import CORPUS, HEIGHT, WIDTH, BadImageCase, chunk, lines_of, patched, picture, png, saved
from workers.data.decoding import MOST_PIXELS, BadImage, Fault, Inspection, Oddity, decode, inspect
from workers.data.views import EvalView, TrainView

each_case = pytest.mark.parametrize("case", CORPUS.values(), ids=list(CORPUS))
VIEWS = [
    *(TrainView(AUGMENTATIONS[name], 16, 3, seed=0) for name in ("none", "cifar", "inception", "strong2")),
    EvalView(CenterCrop(resize=20), 16, 3),
]


def rgb() -> Image.Image:
    return Image.fromarray(picture())


def test_the_corpus_has_many_kinds_and_each_fault() -> None:
    assert len(CORPUS) >= 100
    assert {case.fault for case in CORPUS.values()} == {None, *Fault}
    assert {oddity for case in CORPUS.values() for oddity in case.oddities} == set(Oddity)


@each_case
def test_each_bad_or_odd_image_is_said_to_be_what_it_is(case: BadImageCase) -> None:
    found = inspect(case.encoded)
    assert (found.fault, found.oddities) == (case.fault, case.oddities)
    assert bool(found.message) == (case.fault is not None)
    assert "\n" not in found.message


@each_case
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_decoded_whole_or_refused_with_its_fault(case: BadImageCase, channels: int) -> None:
    if case.fault is not None:
        with pytest.raises(BadImage) as refused:
            decode(case.encoded, channels)
        assert refused.value.fault == case.fault
        return
    found, image_HWC = inspect(case.encoded), decode(case.encoded, channels)
    assert image_HWC.shape == (found.height, found.width, channels)
    assert image_HWC.dtype == np.uint8
    assert image_HWC.flags.c_contiguous
    assert image_HWC.flags.writeable


@each_case
@pytest.mark.parametrize("view", VIEWS)
def test_each_image_fills_its_slot_or_is_refused(case: BadImageCase, view: TrainView | EvalView) -> None:
    slot = np.zeros((16, 16, 3), dtype=np.uint8)
    words_W = view.words(np.array([7]))[0]
    if case.fault is not None:
        with pytest.raises(BadImage):
            view.render(case.encoded, words_W, slot)
        assert not slot.any()
    else:
        view.render(case.encoded, words_W, slot)


def test_no_image_of_the_corpus_crashes_hangs_warns_or_prints() -> None:
    program = (
        "from tests.bad_images import CORPUS\n"
        "from workers.data.decoding import inspect\n"
        "for case in CORPUS.values():\n"
        "    assert inspect(case.encoded).fault == case.fault\n"
    )
    command = [sys.executable, "-W", "error", "-X", "faulthandler", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"P6"])
)
def test_any_bytes_are_inspected_without_an_exception(tail: bytes, magic: bytes) -> None:
    assert isinstance(inspect(magic + tail), Inspection)


@given(st.sampled_from(["jpeg", "png", "gif", "webp", "bmp", "tiff-lzw"]), st.floats(0, 1, exclude_max=True))
def test_an_image_that_lost_its_end_is_refused_or_still_whole(name: str, share: float) -> None:
    whole = CORPUS[name].encoded
    try:
        image_HWC = decode(whole[: int(share * len(whole))], 3)
    except BadImage as bad:
        assert bad.fault in {Fault.EMPTY, Fault.TRUNCATED, Fault.CORRUPT, Fault.UNKNOWN}  # noqa: PT017
    else:
        np.testing.assert_array_equal(image_HWC, decode(whole, 3))


def test_images_are_decoded_by_many_threads_as_by_one() -> None:
    names = [name for name, case in CORPUS.items() if case.fault is None and len(case.encoded) < 50_000]
    expected = {name: decode(CORPUS[name].encoded, 3) for name in names}
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(name for name in names if not np.array_equal(decode(CORPUS[name].encoded, 3), expected[name]))

    filters = list(warnings.filters)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert warnings.filters == filters
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_jpeg_is_decoded_to_what_pillow_shows() -> None:
    encoded = CORPUS["jpeg"].encoded
    shown = np.asarray(Image.open(io.BytesIO(encoded))).astype(int)
    assert abs(decode(encoded, 3) - shown).max() <= 6  # the fast DCT; rough upsampling of colours would be 25 away
    rough = abs(decode(encoded, 3, rough=True) - shown)
    assert 6 < rough.max() <= 40
    assert rough.mean() <= 3
    grey = np.asarray(Image.open(io.BytesIO(encoded)).convert("L")).astype(int)
    assert abs(decode(encoded, 1)[..., 0] - grey).mean() <= 2


@pytest.mark.parametrize("name", ["jpeg-cmyk", "jpeg-ycck"])
def test_ink_on_paper_becomes_light_as_pillow_shows_it(name: str) -> None:
    encoded = CORPUS[name].encoded
    shown = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode(encoded, 3), shown)
    if name == "jpeg-cmyk":
        assert abs(shown.astype(int) - picture()).mean() < 10


@pytest.mark.parametrize("name", ["png", "png-interlaced", "png-rgba", "bmp", "tiff-lzw", "ppm"])
def test_lossless_formats_keep_every_pixel(name: str) -> None:
    np.testing.assert_array_equal(decode(CORPUS[name].encoded, 3), picture())


@pytest.mark.parametrize("name", ["png-16-bit-grey", "tiff-16-bit", "ppm-16-bit-grey"])
def test_16_bits_are_scaled_to_8_and_not_clipped(name: str) -> None:
    np.testing.assert_array_equal(decode(CORPUS[name].encoded, 1), picture()[..., :1])
    np.testing.assert_array_equal(decode(CORPUS[name].encoded, 3), picture()[..., [0, 0, 0]])
    np.testing.assert_array_equal(decode(CORPUS["png-16-bit-rgb"].encoded, 3), picture())


def test_grey_becomes_rgb_by_repeating() -> None:
    for name in ("png-grey", "jpeg-grey"):
        grey_HW1 = decode(CORPUS[name].encoded, 1)
        np.testing.assert_array_equal(decode(CORPUS[name].encoded, 3), np.repeat(grey_HW1, 3, axis=-1))


def test_a_palette_is_looked_up_and_alpha_is_dropped() -> None:
    shown = np.asarray(rgb().quantize(16).convert("RGB"))
    for name in ("png-palette", "png-palette-transparent", "gif", "bmp-palette"):
        np.testing.assert_array_equal(decode(CORPUS[name].encoded, 3), shown)
    clear = Image.merge("RGBA", [*rgb().split(), Image.new("L", (WIDTH, HEIGHT), 0)])
    np.testing.assert_array_equal(decode(saved(clear, "PNG"), 3), picture())


def test_of_an_animation_the_first_frame_is_shown() -> None:
    np.testing.assert_array_equal(decode(CORPUS["png-animated"].encoded, 3), picture())
    np.testing.assert_array_equal(decode(CORPUS["tiff-pages"].encoded, 3), picture())
    first = np.asarray(Image.open(io.BytesIO(CORPUS["gif-animated"].encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode(CORPUS["gif-animated"].encoded, 3), first)


def test_the_orientation_of_exif_is_not_applied() -> None:
    assert decode(CORPUS["jpeg-exif-rotated"].encoded, 3).shape == (HEIGHT, WIDTH, 3)


def test_extra_bytes_change_no_pixel() -> None:
    plain = decode(CORPUS["jpeg"].encoded, 3)
    for name in ("jpeg-trailing-bytes", "jpeg-bytes-before-its-end"):
        np.testing.assert_array_equal(decode(CORPUS[name].encoded, 3), plain)


def test_an_image_of_the_most_pixels_is_shown_and_one_with_a_line_more_is_not() -> None:
    height = MOST_PIXELS // 10_000
    assert decode(png(10_000, height, 1, 0, bytes(1251 * height)), 1).shape == (height, 10_000, 1)
    found = inspect(png(10_000, height + 1, 1, 0, bytes(1251 * (height + 1))))
    assert (found.fault, found.width, found.height) == (Fault.TOO_LARGE, 10_000, height + 1)


def test_damage_behind_extra_bytes_is_not_overlooked() -> None:
    encoded = CORPUS["jpeg-end-in-its-middle"].encoded
    both = encoded[:-2] + b"\x01\x02" * 9 + encoded[-2:]
    assert inspect(both).fault == Fault.CORRUPT


def test_a_gif_whose_second_frame_is_broken_is_shown() -> None:
    encoded = CORPUS["gif-animated"].encoded
    second = encoded.index(b"\x2c", len(encoded) // 2)
    found = inspect(encoded[: second + 15])
    assert found.fault is None


def test_text_in_a_png_is_no_part_of_its_pixels() -> None:
    lines = lines_of(picture())
    broken = chunk(b"tEXt", b"no zero byte in here")
    wrong_checksum = patched(chunk(b"tIME", bytes(7)), 15, b"\0\0\0\0")
    for between in (broken, wrong_checksum):
        np.testing.assert_array_equal(decode(png(WIDTH, HEIGHT, 8, 2, lines, between), 3), picture())
