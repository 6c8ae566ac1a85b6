"""Hashes of images and the search among them: what is found alike, what is not, and that nothing near is missed."""

import io
import tracemalloc
from collections.abc import Callable
from hashlib import sha256

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from workers.data.duplicate_report import Pair, Shown, page
from workers.data.duplicates import FARTHEST, NOWHERE, hashed, near, nearest, perceptual_hash, same

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]
RADIUS = 6


def crops(count: int, side: int = 300) -> list[Image.Image]:
    """Squares of photographs, cut at random places."""
    random = np.random.default_rng(0)
    found = []
    for index in range(count):
        photograph = PHOTOGRAPHS[index % len(PHOTOGRAPHS)]
        x = int(random.integers(photograph.width - side))
        y = int(random.integers(photograph.height - side))
        found.append(photograph.crop((x, y, x + side, y + side)))
    return found


def encoded(picture: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=quality)
    return buffer.getvalue()


def distance(first: bytes, second: bytes) -> int:
    one, other = hashed(first).hash, hashed(second).hash
    assert one is not None
    assert other is not None
    return (one ^ other).bit_count()


def halved(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "another quality": lambda picture: encoded(picture, quality=50),
    "losslessly": lambda picture: encoded(picture, "PNG"),
    "half the size": lambda picture: encoded(halved(picture)),
    "stretched": lambda picture: encoded(picture.resize((224, 160), Image.Resampling.BILINEAR)),
    "brighter": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.1)),
    "in grey": lambda picture: encoded(picture.convert("L")),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_near_its_original(name: str) -> None:
    for picture in crops(20):
        assert distance(encoded(picture), COPIES[name](picture)) <= RADIUS


def test_other_pictures_are_far_from_each_other() -> None:
    digests = [encoded(photograph) for photograph in PHOTOGRAPHS]
    digests += [encoded(photograph.transpose(Image.Transpose.ROTATE_180)) for photograph in PHOTOGRAPHS]
    for index, first in enumerate(digests):
        for second in digests[:index]:
            assert distance(first, second) > 2 * RADIUS


def test_the_hash_is_that_of_the_library() -> None:
    for picture in crops(20, side=60):  # small enough to be shrunk in one step
        bits = imagehash.phash(picture).hash.flatten()
        found = perceptual_hash(picture)
        assert found is not None
        assert (found ^ int("".join(str(int(bit)) for bit in bits), 2)).bit_count() <= 2


def test_the_digest_is_of_the_bytes_as_they_lie() -> None:
    file = encoded(crops(1)[0])
    assert hashed(file).digest == sha256(file).digest()
    assert hashed(file + b"\0").digest != hashed(file).digest


def flat_images() -> dict[str, NDArray[np.uint8]]:
    y, x = np.mgrid[:200, :200]
    random = np.random.default_rng(0)
    return {
        "one colour": np.full((200, 200), 90, np.uint8),
        "hardly any noise": (128 + random.normal(0, 2, (200, 200))).astype(np.uint8),
        "a gradient": x.astype(np.uint8),
        "a slanted gradient": ((x + y) // 2).astype(np.uint8),
        "an edge": np.where(x < 100, 255, 0).astype(np.uint8),
        "a disk": np.where((x - 99.5) ** 2 + (y - 99.5) ** 2 < 60**2, 255, 0).astype(np.uint8),
    }


@pytest.mark.parametrize("name", flat_images())
def test_a_hash_that_rounding_decides_is_none(name: str) -> None:
    assert hashed(encoded(Image.fromarray(flat_images()[name]), "PNG")).hash is None


def test_digits_of_8_pixels_have_hashes() -> None:
    for image in load_digits().images[:100]:
        assert hashed(encoded(Image.fromarray((image * 15.9).astype(np.uint8)), "PNG")).hash is not None


@pytest.mark.parametrize("file", [b"", b"\xff\xd8", b"<html>", encoded(PHOTOGRAPHS[0])[:20_000]])
def test_what_cannot_be_decoded_has_a_digest_and_a_fault(file: bytes) -> None:
    found = hashed(file)
    assert found.digest == sha256(file).digest()
    assert found.hash is None
    assert found.fault


def test_a_jpeg_for_printers_has_a_hash() -> None:
    picture = PHOTOGRAPHS[0]
    assert distance(encoded(picture), encoded(picture.convert("CMYK"))) <= RADIUS


def test_equal_digests_are_found_at_their_first_place() -> None:
    def digests(*values: bytes) -> pa.Array:
        return pa.array([sha256(value).digest() for value in values], pa.binary(32))

    assert same(digests(b"a", b"b", b"c"), digests(b"x", b"c", b"a", b"c")).tolist() == [2, NOWHERE, 1]
    assert same(digests(b"a"), digests()).tolist() == [NOWHERE]
    assert same(digests(), digests(b"a")).tolist() == []


# ------------------------------------------------------------------------------------------------------------- search


def random_hashes(random: np.random.Generator, count: int) -> NDArray[np.uint64]:
    return random.integers(0, 2**64, count, dtype=np.uint64)


def changed(random: np.random.Generator, hashes: NDArray[np.uint64], most: int) -> NDArray[np.uint64]:
    """The hashes with 0 to `most` bits flipped in each."""
    found = hashes.copy()
    for index in range(len(found)):
        for bit in random.choice(64, random.integers(most + 1), replace=False):
            found[index] ^= np.uint64(1) << np.uint64(bit)
    return found


@given(
    radius=st.integers(0, FARTHEST),
    queries=st.integers(0, 120),
    bases=st.integers(0, 120),
    common_bits=st.sampled_from([0, 0xFFFF, 0xFFFF_FFFF_0000, 0xFFFF_FFFF_FFFF_FF00]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_the_search_finds_what_comparing_all_pairs_finds(
    radius: int, queries: int, bases: int, common_bits: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    hash_N = random_hashes(random, bases) | np.uint64(common_bits)
    copies = changed(random, hash_N, FARTHEST)[: queries // 2]
    hash_Q = np.concatenate([copies, random_hashes(random, queries - len(copies))])
    found = [
        pair for part in near(hash_Q, hash_N, radius) for pair in zip(*(each.tolist() for each in part), strict=True)
    ]
    distance_QN = np.bitwise_count(hash_Q[:, None] ^ hash_N)
    expected = [(int(q), int(n), int(distance_QN[q, n])) for q, n in np.argwhere(distance_QN <= radius)]
    assert sorted(found) == expected

    place_Q, nearest_Q = nearest(hash_Q, hash_N, radius)
    for query, (place, bits) in enumerate(zip(place_Q, nearest_Q, strict=True)):
        if not len(hash_N) or distance_QN[query].min() > radius:
            assert (place, bits) == (NOWHERE, NOWHERE)
        else:
            assert (place, bits) == (distance_QN[query].argmin(), distance_QN[query].min())


def test_a_hundred_thousand_equal_hashes_on_both_sides_are_found_at_once() -> None:
    random = np.random.default_rng(0)
    hash_Q, hash_N = random_hashes(random, 200_000), random_hashes(random, 200_000)
    hash_Q[50_000:150_000] = 7
    hash_N[99_999:] = 5
    place_Q, distance_Q = nearest(hash_Q, hash_N, RADIUS)
    assert (place_Q[50_000:150_000] == 99_999).all()
    assert (distance_Q[50_000:150_000] == 1).all()
    assert (place_Q[:50_000] == NOWHERE).sum() > 49_900


def test_the_search_needs_little_memory_besides_the_hashes() -> None:
    random = np.random.default_rng(0)
    # Half of them share a band, as pictures of one kind do: a bucket of 150,000 is looked at in parts.
    hash_Q, hash_N = random_hashes(random, 300_000), random_hashes(random, 2_000)
    hash_Q[::2] |= np.uint64(0xFFFF)
    hash_N[::2] |= np.uint64(0xFFFF)
    tracemalloc.start()
    try:
        place_Q, _ = nearest(hash_Q, hash_N, RADIUS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(place_Q) == 300_000
    assert peak < 30 * 2**20


@pytest.mark.parametrize("radius", [-1, FARTHEST + 1])
def test_a_radius_that_finds_nothing_or_everything_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match=f"the radius is {radius}: give a number of bits from 0 to 12"):
        next(near(np.zeros(1, np.uint64), np.zeros(1, np.uint64), radius))


# ------------------------------------------------------------------------------------------------------------- report


def shown(dataset: str, file: bytes) -> Shown:
    return Shown(dataset, "train", 1234, "train-00000-of-00001.parquet", "7", file)


def test_the_page_shows_both_images_of_a_pair_and_says_how_many_it_leaves_out() -> None:
    picture = crops(1)[0]
    pair = Pair("near", 4, shown("pets", encoded(picture)), shown("<b>web", encoded(halved(picture))))
    text = page("Duplicates", [("radius", "6")], [pair], found=1200)
    assert text.count("data:image/") == 2
    assert "4 bits differ" in text
    assert "row 1,234" in text
    assert "300 × 300" in text
    assert "150 × 150" in text
    assert "1 of 1,200 pairs are shown; 1,199 are not." in text
    assert "<b>web" not in text


def test_the_page_says_what_cannot_be_shown() -> None:
    pair = Pair("exact", 0, shown("a", b"no image"), shown("b", b"no image"))
    text = page("Duplicates", [], [pair], found=1)
    assert "same bytes" in text
    assert text.count("unreadable") == 2


def test_the_page_refers_to_nothing_outside() -> None:
    pair = Pair("near", 0, shown("a", encoded(crops(1)[0])), shown("b", encoded(crops(1)[0], "PNG")))
    text = page("Duplicates", [], [pair], found=1)
    assert "http" not in text
    assert "<script" not in text
