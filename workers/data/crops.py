"""Which rectangle of an image a random word picks: Inception crops and random squares, as TensorFlow draws them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

TRIES = 10
"""Rectangles tried before the whole image is taken. Only images much longer than wide ever need a second one."""
WORDS_PER_TRY = 4

_ASPECT_MIN, _ASPECT_MAX = 3 / 4, 4 / 3
_TWO_64 = 2.0**64


class Rectangle(NamedTuple):
    """Part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def inception_rectangle(height: int, width: int, area_min: float, words: Sequence[int]) -> Rectangle:
    """A random part of an image of this size, as `tf.image.sample_distorted_bounding_box` draws it (arXiv:1409.4842).

    words: TRIES * WORDS_PER_TRY numbers below 2 ** 64. The aspect ratio is uniform in [3/4, 4/3); then the height is,
    between those at which the area is `area_min` of the image and at which the rectangle still fits: not the area,
    which is what torchvision's RandomResizedCrop draws.
    """
    least = area_min * height * width
    for first in range(0, TRIES * WORDS_PER_TRY, WORDS_PER_TRY):
        aspect = _ASPECT_MIN + words[first] / _TWO_64 * (_ASPECT_MAX - _ASPECT_MIN)
        crop_height = _height(height, width, least, aspect, words[first + 1])
        crop_width = round(crop_height * aspect)
        if crop_height * crop_width < least:  # rounding
            crop_height += 1
            crop_width = round(crop_height * aspect)
        if 0 < crop_height <= height and 0 < crop_width <= width and crop_height * crop_width >= least:
            # TensorFlow's offsets never reach the last row and column; ours do.
            top = picked(words[first + 2], height - crop_height + 1)
            return Rectangle(top, picked(words[first + 3], width - crop_width + 1), crop_height, crop_width)
    return Rectangle(0, 0, height, width)


def _height(height: int, width: int, least: float, aspect: float, word: int) -> int:
    tallest = round(math.sqrt(height * width / aspect))
    if round(tallest * aspect) > width:
        tallest = int((width + 0.5) / aspect)
        if round(tallest * aspect) > width:
            tallest -= 1
    tallest = min(tallest, height)
    lowest = min(round(math.sqrt(least / aspect)), tallest)
    return lowest + picked(word, tallest - lowest + 1)


def picked(word: int, count: int) -> int:
    """A whole number in [0, count), by the word's upper 32 bits: what `draws.below` says of one word."""
    return (word >> 32) * count >> 32
