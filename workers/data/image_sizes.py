"""From counts of image sizes to what a person wants to know of them."""

from collections.abc import Iterable
from typing import Any

import numpy as np

_MOST_COMMON = 5


def described(sizes: Iterable[tuple[int, int, int]]) -> dict[str, Any] | None:
    """Smallest, median and largest width, height and shorter side, how many images have which shorter side, and the
    most common sizes; None without an image.

    sizes: width and height in pixels, and the number of images of that size.
    """
    counted_N3 = np.array(list(sizes), dtype=np.int64).reshape(-1, 3)
    if not len(counted_N3):
        return None
    width_N, height_N, images_N = counted_N3.T
    shorter_N = np.minimum(width_N, height_N)
    octave_N = np.floor(np.log2(shorter_N)).astype(np.int64)
    order_N = np.lexsort((height_N, width_N, -images_N))
    return {
        "images": int(images_N.sum()),
        "distinct": len(counted_N3),
        "width": _spread(width_N, images_N),
        "height": _spread(height_N, images_N),
        "shorter_side": _spread(shorter_N, images_N),
        "by_shorter_side": [
            {"from": 2**octave, "to": 2 ** (octave + 1) - 1, "images": int(images_N[octave_N == octave].sum())}
            for octave in map(int, range(octave_N.min(), octave_N.max() + 1))
        ],
        "most_common": [
            {"width": int(width), "height": int(height), "images": int(images)}
            for width, height, images in counted_N3[order_N[:_MOST_COMMON]]
        ],
    }


def _spread(value_N: np.ndarray, images_N: np.ndarray) -> dict[str, int]:
    """Of a value that so many images have: the smallest, the median (the lower of two) and the largest."""
    order_N = np.argsort(value_N)
    until_N = np.cumsum(images_N[order_N])
    median = value_N[order_N[np.searchsorted(until_N, (until_N[-1] + 1) // 2)]]
    return {"min": int(value_N.min()), "median": int(median), "max": int(value_N.max())}
