"""An encoded image becomes the square that the network sees: cropped, resized, mirrored, written into its batch's slot.

H, W = pixels, C = channels, B = examples, W (of words) = random words of an example. What the views mean is said in
`studies/augmentations.py`. Resizing is bilinear without antialiasing, with pixels' centres at halves, which is what
big_vision's `resize` and TensorFlow do unless told otherwise.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from studies.augmentations import (
    Augmentation,
    CenterCrop,
    InceptionCrop,
    RandomCrop,
    Resize,
    Shift,
    check_sizes,
)
from workers.data import randaugment
from workers.data.crops import TRIES, WORDS_PER_TRY, inception_rectangle, picked
from workers.data.decoding import decode
from workers.data.draws import draws

# Readers are threads of ours, one for each core that they may use. Threads of OpenCV's own would take cores from the
# training step, and one image is too small for them. The number is the process's, so it is set where OpenCV comes in.
cv2.setNumThreads(1)

Pixels = NDArray[np.uint8]


class TrainView:
    """What training sees of images: an augmentation at a size, by a seed. Mixup, of whole batches, is not here.

    Threads may share it: it holds no state.
    """

    def __init__(self, augmentation: Augmentation, image_size: int, channels: int, seed: int) -> None:
        """Raise ValueError when the crop is larger than the images that it is cut from."""
        check_sizes(augmentation.crop, image_size)
        self.augmentation = augmentation
        self.image_size = image_size
        self.channels = channels
        self.seed = seed
        # Scaling to a random size moves pixels further than rough colours do, and decoding is most of an image's time.
        self.rough = isinstance(augmentation.crop, InceptionCrop | RandomCrop)
        """Whether colours of JPEGs are decoded roughly."""
        self._crop_words = TRIES * WORDS_PER_TRY if isinstance(augmentation.crop, InceptionCrop) else 2
        layers = augmentation.randaugment.layers if augmentation.randaugment else 0
        self._words = 1 + self._crop_words + layers * randaugment.WORDS_PER_LAYER

    def words(self, position_B: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The random words of examples, (B, W), by their places in the whole training (epoch * rows + place)."""
        return draws(position_B, self._words, self.seed, "view")

    def render(self, encoded: bytes | Pixels, words_W: NDArray[np.uint64], out_HWC: Pixels) -> None:
        """Write the view of one image, its bytes or its pixels (H, W, C), into a slot (image_size, image_size, C).

        words_W: this example's row of `words`. out_HWC must be contiguous.
        Raises BadImage when the bytes cannot be shown.
        """
        image_HWC = _pixels(encoded, self.channels, rough=self.rough)
        word = words_W.tolist()
        crop = self.augmentation.crop
        if isinstance(crop, InceptionCrop):
            height, width = image_HWC.shape[:2]
            top, left, height, width = inception_rectangle(height, width, crop.area_min, word[1:])
            _resize(image_HWC[top : top + height, left : left + width], out_HWC)
        elif isinstance(crop, RandomCrop):
            scaled_HWC = _scaled(image_HWC, crop.resize, crop.keep_aspect)
            spare = [side - self.image_size + 1 for side in scaled_HWC.shape[:2]]
            _cut(scaled_HWC, picked(word[1], spare[0]), picked(word[2], spare[1]), out_HWC)
        elif isinstance(crop, Shift):
            _resize(image_HWC, out_HWC)
            down, right = (picked(word[i], 2 * crop.pixels + 1) for i in (1, 2))
            _shift(out_HWC, crop.pixels, down, right)
        else:
            _see(crop, image_HWC, out_HWC)
        if self.augmentation.flip and word[0] >> 63:
            cv2.flip(out_HWC, 1, dst=out_HWC)
        if (rand := self.augmentation.randaugment) is not None:
            randaugment.augment(out_HWC, rand, word[1 + self._crop_words :])


class EvalView:
    """What evaluation sees of images: always the same. It has TrainView's form, with no random words."""

    def __init__(self, view: Resize | CenterCrop, image_size: int, channels: int) -> None:
        """Raise ValueError when the crop is larger than the images that it is cut from."""
        check_sizes(view, image_size)
        self.view = view
        self.image_size = image_size
        self.channels = channels

    def words(self, position_B: NDArray[np.int64]) -> NDArray[np.uint64]:
        """No words: (B, 0)."""
        return np.empty((len(position_B), 0), dtype=np.uint64)

    def render(self, encoded: bytes | Pixels, words_W: NDArray[np.uint64], out_HWC: Pixels) -> None:
        """As of TrainView; `words_W` is not looked at. Raises BadImage when the bytes cannot be shown."""
        _see(self.view, _pixels(encoded, self.channels), out_HWC)


def _pixels(encoded: bytes | Pixels, channels: int, *, rough: bool = False) -> Pixels:
    if isinstance(encoded, bytes):
        return decode(encoded, channels, rough=rough)
    assert encoded.ndim == 3, encoded.shape
    assert encoded.shape[2] == channels, encoded.shape
    return encoded


def _see(view: Resize | CenterCrop, image_HWC: Pixels, out_HWC: Pixels) -> None:
    if isinstance(view, Resize):
        _resize(image_HWC, out_HWC)
        return
    scaled_HWC = _scaled(image_HWC, view.resize, view.keep_aspect)
    top, left = ((side - len(out_HWC)) // 2 for side in scaled_HWC.shape[:2])
    _cut(scaled_HWC, top, left, out_HWC)


def _scaled(image_HWC: Pixels, size: int, keep_aspect: bool) -> Pixels:
    """The whole image, its smaller side (or both) of `size` pixels."""
    height, width, channels = image_HWC.shape
    if keep_aspect:
        factor = size / min(height, width)
        height, width = max(size, round(height * factor)), max(size, round(width * factor))
    else:
        height = width = size
    scaled_HWC = np.empty((height, width, channels), dtype=np.uint8)
    _resize(image_HWC, scaled_HWC)
    return scaled_HWC


def _resize(image_HWC: Pixels, out_HWC: Pixels) -> None:
    if image_HWC.shape == out_HWC.shape:
        out_HWC[...] = image_HWC
        return
    # INTER_LINEAR computes in fixed point, with the same bits from SSE3 to AVX-512, with and without IPP.
    # INTER_LINEAR_EXACT, which promises that, takes 2.4 times as long, a tenth of an image's time, to differ by 1 in
    # 255 at an eighth of the places.
    height, width = out_HWC.shape[:2]
    written = cv2.resize(image_HWC, (width, height), dst=out_HWC, interpolation=cv2.INTER_LINEAR)
    assert np.may_share_memory(written, out_HWC), "OpenCV did not write into the slot that it was given"


def _cut(image_HWC: Pixels, top: int, left: int, out_HWC: Pixels) -> None:
    height, width = out_HWC.shape[:2]
    out_HWC[...] = image_HWC[top : top + height, left : left + width]


def _shift(out_HWC: Pixels, pixels: int, down: int, right: int) -> None:
    """Replace an image by the window at row `down` and column `right` of itself with a border of zeros."""
    size = len(out_HWC)
    padded_HWC = np.zeros((size + 2 * pixels, size + 2 * pixels, out_HWC.shape[2]), dtype=np.uint8)
    padded_HWC[pixels : pixels + size, pixels : pixels + size] = out_HWC
    _cut(padded_HWC, down, right, out_HWC)
