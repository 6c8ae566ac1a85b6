"""Random numbers of training examples: whoever asks, in whatever order, gets those of (seed, position) and no others.

B = examples, W = words of each. A word is 64 random bits. There is no state, so that any number of readers draw the
same, and a training goes on from anywhere.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2 ** 64 over the golden ratio: the steps of splitmix64."""


def draws(position_B: NDArray[np.int64], words: int, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Random words of each example, (B, W): the first n are the same for any number of words.

    position_B: places in the whole training (epoch * rows + place in the epoch), from 0.
    purpose: what they decide; two purposes share nothing.
    The finalizer of splitmix64 (Steele, Lea and Flood 2014), twice: over the position, then over the word's number.
    """
    first, second = _key(seed, purpose)
    stream_B = _mixed(position_B.astype(np.uint64) * _GOLDEN + first) ^ second
    step_W = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
    return _mixed(stream_B[:, None] + step_W)


def unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as numbers in [0, 1), by their upper 53 bits; any shape."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(words: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Words as whole numbers in [0, count), by their upper 32 bits; any shape. Uneven by at most count / 2 ** 32."""
    assert 0 < count <= 2**31, count
    return (((words >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


@lru_cache(maxsize=64)
def _key(seed: int, purpose: str) -> tuple[np.uint64, np.uint64]:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little")), np.uint64(int.from_bytes(digest[8:16], "little"))


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
