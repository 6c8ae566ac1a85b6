"""A keyed pseudo-random permutation of row numbers, computed place by place.

It needs no table, so a subset of 303 million rows costs nothing: the first n places of one key are a prefix of the
first m >= n, on every machine. A four-round Feistel network over the next even power of two, walking on while the
number falls outside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4


def permuted(places: NDArray[np.int64], rows: int, *key: str | int) -> NDArray[np.int64]:
    """The row at each place of the permutation of range(rows) that `key` names.

    places: whole numbers in [0, rows), any shape. The answer has the same shape.
    """
    assert rows > 0
    assert places.size == 0 or (places.min() >= 0 and places.max() < rows), "a place outside the permutation"
    return _walked(places, rows, _round_keys(key))


def places_of(row: NDArray[np.int64], rows: int, *key: str | int) -> NDArray[np.int64]:
    """The place of each row in the permutation of range(rows) that `key` names: the inverse of `permuted`."""
    assert rows > 0
    assert row.size == 0 or (row.min() >= 0 and row.max() < rows), "a row outside the permutation"
    return _walked(row, rows, _round_keys(key), back=True)


def _walked(
    start: NDArray[np.int64], rows: int, round_keys: list[np.uint64], *, back: bool = False
) -> NDArray[np.int64]:
    half_bits = max(1, (max(rows - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64(2**half_bits - 1)
    shift = np.uint64(half_bits)

    number = start.astype(np.uint64).reshape(-1)
    outside = np.arange(len(number))
    while len(outside):
        walking = number[outside]
        left, right = walking >> shift, walking & mask
        if back:
            for round_key in reversed(round_keys):
                left, right = right ^ (_mixed(left ^ round_key) & mask), left
        else:
            for round_key in round_keys:
                left, right = right, left ^ (_mixed(right ^ round_key) & mask)
        walked = (left << shift) | right
        number[outside] = walked
        outside = outside[walked >= np.uint64(rows)]
    return number.astype(np.int64).reshape(start.shape)


def _round_keys(key: tuple[str | int, ...]) -> list[np.uint64]:
    text = "/".join(map(str, key)).encode()
    digest = hashlib.sha256(text).digest()
    return [np.uint64(int.from_bytes(digest[8 * i : 8 * i + 8], "little")) for i in range(_ROUNDS)]


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
