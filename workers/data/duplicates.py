"""Which images of one set are in another: digests and perceptual hashes of images, and the search among hashes.

Nothing is read or written here: `hash_files.py` keeps hashes, `duplicate_search.py` goes over them. The search is
multi-index hashing (Norouzi, Punjani and Fleet, arXiv:1307.2982): of hashes within a radius, one of four bands of 16
bits is almost equal, so only hashes that share a bucket of a band are compared.

Q = hashes looked for, N = hashes looked among, P = pairs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from workers.data.decoding import BadImage, decode

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Distances = NDArray[np.int8]

FARTHEST = 12
"""The largest radius. Of a million random hashes and 100,000, 20,000 pairs are so near by chance; 4 million at 16."""
NOWHERE = -1
"""The place and the distance of a hash that has no match."""

_SIDE = 32
"""phash takes the cosine transform of so many pixels a side, and the hash from its 8 x 8 lowest frequencies."""
_FIRM = 40
"""A coefficient so near to the median may be on its other side in a copy: rounding the pixels to 8 bits moves it by 18
(standard deviation: 0.29 grey levels x 4, the transform's scale, x 16, the root of the sum of its squared cosines)."""
_FIRM_BITS = 32
"""A hash with fewer firm bits is that of a flat image, a plain gradient or a single edge. 180 crops of photographs had
37 or more, and 98 % of them at least 50."""

_BANDS = 4
_BAND_BITS = 16
"""Of a million hashes against 100,000 within radius 6, in seconds: 7 bands 2.5, 5 bands 1.0, 4 bands 0.45, 3 bands
1.1. Fewer bands mean more buckets to visit, more bands mean more hashes in a bucket."""
_CHUNK = 2**20
"""So many hashes of each side are searched at once; with `_COMPARED`, what bounds the memory."""
_COMPARED = 2**17
"""Pairs compared at once: 1 MB of hashes, which stays in a core's cache."""

_DISTANCE_SHIFT = 48
_FAR = np.iinfo(np.int64).max


# ------------------------------------------------------------------------------------------------------------ hashing


@dataclass(frozen=True)
class Hashed:
    """What an image is recognized by."""

    digest: bytes
    """SHA-256 of the encoded bytes."""
    hash: int | None
    """64 bits, near in Hamming distance for pictures that look alike. None where it would say nothing about the
    picture (see `perceptual_hash`) and where the image cannot be decoded: such an image has exact copies only."""
    fault: str | None
    """Why the image cannot be decoded."""


def hashed(encoded: bytes) -> Hashed:
    """Digest and perceptual hash of an image as it lies in a file. No bytes make it raise."""
    digest = hashlib.sha256(encoded).digest()
    try:
        return Hashed(digest, perceptual_hash(Image.fromarray(decode(encoded, 1)[:, :, 0])), None)
    except BadImage as error:
        return Hashed(digest, None, str(error))


def perceptual_hash(picture: Image.Image) -> int | None:
    """ImageHash's `phash` of a picture, first row and column of frequencies first; None where it says nothing.

    The bits tell which low frequencies lie above their median. Those of a flat image, of a gradient and of a single
    edge are nearly all equal, so that rounding decides about the bits, and images that have nothing in common have
    them in common. At least half of the 64 must be farther from the median than rounding reaches.
    """
    # The reducing gap lets Pillow average whole pixels first: a third of the time, and the same bits but for one.
    shrunk = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    frequency = _COSINES @ np.asarray(shrunk, dtype=np.float64) @ _COSINES.T
    if np.count_nonzero(np.abs(frequency - np.median(frequency)) > _FIRM) < _FIRM_BITS:
        return None
    return int.from_bytes(np.packbits(imagehash.phash(shrunk).hash).tobytes(), "big")


_COSINES = 2 * np.cos(np.pi / (2 * _SIDE) * np.outer(np.arange(8), 2 * np.arange(_SIDE) + 1))
"""The 8 lowest frequencies of the cosine transform in phash's scale, (8, 32)."""


# ------------------------------------------------------------------------------------------------------------- search


def same(digest_Q: pa.Array, digest_N: pa.Array) -> Places:
    """For each digest the first place in `digest_N` where it is too, or NOWHERE. Shape (Q,)."""
    found = pc.index_in(digest_Q, value_set=digest_N)
    places: Places = found.fill_null(NOWHERE).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def nearest(hash_Q: Hashes, hash_N: Hashes, radius: int) -> tuple[Places, Distances]:
    """For each hash the place of the nearest in `hash_N`, the first of equally near ones, and its distance.

    Both are NOWHERE for a hash that has none within `radius`. However many hashes are equal, each is compared once.
    """
    distinct_Q, inverse_Q = np.unique(hash_Q, return_inverse=True)
    distinct_N, first_N = np.unique(hash_N, return_index=True)
    best_Q = np.full(len(distinct_Q), _FAR)
    for query_P, base_P, distance_P in near(distinct_Q, distinct_N, radius):
        # Ordered by distance, then by place.
        np.minimum.at(best_Q, query_P, (distance_P.astype(np.int64) << _DISTANCE_SHIFT) | first_N[base_P])
    best_Q = best_Q[inverse_Q]
    found_Q = best_Q < _FAR
    place_Q = np.where(found_Q, best_Q & (2**_DISTANCE_SHIFT - 1), NOWHERE)
    return place_Q, np.where(found_Q, best_Q >> _DISTANCE_SHIFT, NOWHERE).astype(np.int8)


def near(hash_Q: Hashes, hash_N: Hashes, radius: int) -> Iterator[tuple[Places, Places, Distances]]:
    """All pairs of hashes that differ in at most `radius` bits, each once: places in Q, places in N, distances, (P,).

    They come in parts of bounded size and in no order. Equal hashes are as many pairs as there are.
    Raises ValueError for a radius outside [0, FARTHEST].
    """
    if not 0 <= radius <= FARTHEST:
        raise ValueError(f"the radius is {radius}: give a number of bits from 0 to {FARTHEST}")
    for start_Q in range(0, len(hash_Q), _CHUNK):
        for start_N in range(0, len(hash_N), _CHUNK):
            some_Q, some_N = hash_Q[start_Q : start_Q + _CHUNK], hash_N[start_N : start_N + _CHUNK]
            # The smaller side visits buckets of the larger one.
            swap = len(some_Q) < len(some_N)
            parts = _near_within(some_Q, some_N, radius) if swap else _near_within(some_N, some_Q, radius)
            for visitor_P, host_P, distance_P in parts:
                query_P, base_P = (visitor_P, host_P) if swap else (host_P, visitor_P)
                yield query_P + start_Q, base_P + start_N, distance_P


def _near_within(visitor_V: Hashes, host_H: Hashes, radius: int) -> Iterator[tuple[Places, Places, Distances]]:
    """The pairs of two sets that are searched at once, as places of visitors and of hosts."""
    slacks = _slacks(radius)
    for band, slack in enumerate(slacks):
        if slack < 0:
            continue
        host_value_H = _band(host_H, band).astype(np.uint16)  # which NumPy sorts by radix
        order_H = np.argsort(host_value_H, kind="stable")
        sorted_H = host_H[order_H]
        bound = np.zeros(2**_BAND_BITS + 1, dtype=np.int64)
        np.cumsum(np.bincount(host_value_H, minlength=2**_BAND_BITS), out=bound[1:])
        value_V = _band(visitor_V, band).astype(np.int64)
        for mask in _masks(slack):
            bucket_V = value_V ^ mask
            for visitor_P, position_P in _met(bound[bucket_V], bound[bucket_V + 1]):
                difference_P = sorted_H[position_P] ^ visitor_V[visitor_P]
                close = np.flatnonzero(np.bitwise_count(difference_P) <= radius)
                # A pair may meet in several bands: it counts in the first.
                for earlier, allowed in enumerate(slacks[:band]):
                    close = close[np.bitwise_count(_band(difference_P[close], earlier)) > allowed]
                if len(close):
                    distance_P = np.bitwise_count(difference_P[close]).astype(np.int8)
                    yield visitor_P[close], order_H[position_P[close]], distance_P


def _met(start_V: Places, stop_V: Places) -> Iterator[tuple[Places, Places]]:
    """Each visitor with each position of [start, stop), as two arrays, about `_COMPARED` pairs at a time."""
    guest_G = np.flatnonzero(stop_V > start_V)
    start_G = start_V[guest_G]
    count_G = stop_V[guest_G] - start_G
    total_G = np.cumsum(count_G)
    begin, before = 0, 0
    while begin < len(guest_G):
        end = max(begin + 1, int(np.searchsorted(total_G, before + _COMPARED, side="right")))
        part = slice(begin, end)
        pairs = int(total_G[end - 1]) - before
        shift_G = start_G[part] - (total_G[part] - count_G[part] - before)
        position_P = np.repeat(shift_G, count_G[part]) + np.arange(pairs)
        yield np.repeat(guest_G[part], count_G[part]), position_P
        begin, before = end, before + pairs


def _slacks(radius: int) -> list[int]:
    """How many bits may differ in each band; -1 is a band that need not be looked at.

    Were more than so many to differ in every band, they would be more than `radius` in all: the sum of (slack + 1) is
    radius + 1.
    """
    return [(radius + 1 + band) // _BANDS - 1 for band in range(_BANDS)]


def _band(hashes: Hashes, band: int) -> Hashes:
    return (hashes >> np.uint64(band * _BAND_BITS)) & np.uint64(2**_BAND_BITS - 1)


def _masks(slack: int) -> list[int]:
    """All numbers of a band with at most so many bits set."""
    bits = range(_BAND_BITS)
    return [sum(1 << bit for bit in chosen) for many in range(slack + 1) for chosen in combinations(bits, many)]
