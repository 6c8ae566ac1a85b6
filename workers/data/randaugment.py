"""RandAugment (arXiv:1909.13719): some layers of random operations on an image, all of one magnitude.

H, W = pixels, C = channels. Operations and levels are those of the code that AugReg was trained with (big_vision,
`pp/autoaugment.py`, distort_image_with_randaugment, a fork of tensorflow/tpu's); each is equally likely and always
applied. What that code says in pixels is meant for squares of 224, and goes with the size here. What it does by
accident is kept, because the models of the paper saw it: see `_contrast` and `_posterize`.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from studies.augmentations import RandAugment
from workers.data.crops import picked

WORDS_PER_LAYER = 4
"""Which operation, its sign, and the two coordinates of cutout."""

Pixels = NDArray[np.uint8]
Operation = Callable[[Pixels, float, Sequence[int]], None]

_FULL_MAGNITUDE = 10.0
"""Where each scale ends that was meant; AugReg goes to twice that."""
_GREY = 128
"""What comes in where an image was moved away or cut out."""
_REFERENCE_SIZE = 224
_TRANSLATION, _CUTOUT = 100, 40
"""Pixels of an image of the reference size, at the full magnitude."""

_IDENTITY = np.arange(256, dtype=np.float64)


def augment(image_HWC: Pixels, definition: RandAugment, words: Sequence[int]) -> None:
    """Change a contiguous image in place.

    words: `layers * WORDS_PER_LAYER` random numbers below 2 ** 64.
    """
    share = definition.magnitude / _FULL_MAGNITUDE
    for first in range(0, definition.layers * WORDS_PER_LAYER, WORDS_PER_LAYER):
        layer = words[first : first + WORDS_PER_LAYER]
        OPERATIONS[_NAMES[picked(layer[0], len(_NAMES))]](image_HWC, share, layer)


# ---------------------------------------------------------------------------------------- by the value of a pixel alone


def _look_up(image_HWC: Pixels, table: NDArray[np.float64] | NDArray[np.int64]) -> None:
    """Replace values by those of a table, (256,) or (256, C), which are clipped and cut to whole numbers."""
    table_256 = np.clip(table, 0, 255).astype(np.uint8)
    cv2.LUT(image_HWC, table_256[None] if table_256.ndim == 2 else table_256, dst=image_HWC)


def _histograms(image_HWC: Pixels) -> NDArray[np.int64]:
    """How often each channel has each value, (C, 256)."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in cv2.split(image_HWC)])


def _auto_contrast(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Stretch each channel to all values."""
    tables = []
    for count_256 in _histograms(image_HWC):
        (present,) = np.nonzero(count_256)
        low, high = float(present[0]), float(present[-1])
        tables.append((_IDENTITY - low) * (255 / (high - low)) if high > low else _IDENTITY)
    _look_up(image_HWC, np.stack(tables, axis=-1))


def _equalize(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Make each channel's values equally frequent, by Pillow's rule."""
    tables = []
    for count_256 in _histograms(image_HWC):
        step = int(count_256.sum() - count_256[np.nonzero(count_256)[0][-1]]) // 255
        before_256 = np.cumsum(count_256) - count_256
        # The first value is 0 whatever the step.
        spread_256 = np.where(np.arange(256) > 0, (before_256 + step // 2) // max(step, 1), 0)
        tables.append(spread_256.astype(np.float64) if step else _IDENTITY)
    _look_up(image_HWC, np.stack(tables, axis=-1))


def _invert(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    np.subtract(255, image_HWC, out=image_HWC)


def _posterize(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Keep the upper bits of each value: more of them the greater the magnitude, and at least one."""
    shift = min(max(8 - int(share * 4), 0), 7)
    np.bitwise_and(image_HWC, np.uint8(0xFF << shift & 0xFF), out=image_HWC)


def _solarize(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Invert what is bright: less of it the greater the magnitude, and from 10 on nothing."""
    threshold = int(share * 256)
    _look_up(image_HWC, np.where(threshold > _IDENTITY, _IDENTITY, 255 - _IDENTITY))


def _solarize_add(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Brighten what is dark."""
    _look_up(image_HWC, np.where(_IDENTITY < 128, _IDENTITY + int(share * 110), _IDENTITY))


def _factor(share: float) -> float:
    """Of the original, the rest being of a degenerate image: 1 changes nothing, more than 1 exaggerates."""
    return share * 1.8 + 0.1


def _contrast(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Blend with one grey: not the image's mean, but the number of its pixels over 256, which at 224 x 224 is 196."""
    grey = _REFERENCE_SIZE**2 / 256
    _look_up(image_HWC, grey + _factor(share) * (_IDENTITY - grey))


def _brightness(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Blend with black."""
    _look_up(image_HWC, _factor(share) * _IDENTITY)


# ------------------------------------------------------------------------------------------ by other channels or pixels


def _blend(degenerate_HWC: NDArray[np.float32], image_HWC: Pixels, share: float) -> None:
    factor = np.float32(_factor(share))
    blended_HWC = degenerate_HWC + factor * (image_HWC - degenerate_HWC)
    np.copyto(image_HWC, np.clip(blended_HWC, 0, 255, out=blended_HWC), casting="unsafe")


def _color(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Blend with the grey image; an image of one channel stays as it is."""
    if image_HWC.shape[2] == 3:
        _blend(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32), image_HWC, share)


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
"""Pillow's SMOOTH filter."""


def _sharpness(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Blend with the smoothed image; the outermost pixels stay as they are."""
    smooth_HWC = np.trunc(cv2.filter2D(image_HWC, cv2.CV_32F, _SMOOTH)).reshape(image_HWC.shape)
    inner_HWC = image_HWC[1:-1, 1:-1]
    _blend(smooth_HWC[1:-1, 1:-1], inner_HWC, share)


# ------------------------------------------------------------------------------------------------------------ by moving


def _move(image_HWC: Pixels, matrix_23: Sequence[Sequence[float]]) -> None:
    """Take each pixel from the nearest to matrix @ (x, y, 1); grey where that is outside."""
    height, width, channels = image_HWC.shape
    moved = cv2.warpAffine(
        image_HWC,
        np.array(matrix_23, dtype=np.float64),
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(_GREY,) * 4,
    )
    image_HWC[...] = moved.reshape(height, width, channels)


def _signed(value: float, layer: Sequence[int]) -> float:
    return value if layer[1] >> 63 else -value


def _rotate(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Turn around the centre, by 30 degrees at the full magnitude."""
    angle = math.radians(_signed(share * 30, layer))
    cosine, sine = math.cos(angle), math.sin(angle)
    y, x = ((side - 1) / 2 for side in image_HWC.shape[:2])
    _move(image_HWC, ((cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y)))


def _shear_x(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    _move(image_HWC, ((1, _signed(share * 0.3, layer), 0), (0, 1, 0)))


def _shear_y(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    _move(image_HWC, ((1, 0, 0), (_signed(share * 0.3, layer), 1, 0)))


def _distance(image_HWC: Pixels, pixels: float) -> float:
    """Pixels of an image of the reference size, in those of this one."""
    return pixels * len(image_HWC) / _REFERENCE_SIZE


def _translate_x(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    _move(image_HWC, ((1, 0, _signed(_distance(image_HWC, share * _TRANSLATION), layer)), (0, 1, 0)))


def _translate_y(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    _move(image_HWC, ((1, 0, 0), (0, 1, _signed(_distance(image_HWC, share * _TRANSLATION), layer))))


def _cutout(image_HWC: Pixels, share: float, layer: Sequence[int]) -> None:
    """Grey out a square around a random pixel."""
    height, width = image_HWC.shape[:2]
    reach = round(_distance(image_HWC, int(share * _CUTOUT)))
    y, x = picked(layer[2], height), picked(layer[3], width)
    image_HWC[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = _GREY


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}
"""By the name that the paper gives them."""
_NAMES = tuple(OPERATIONS)
