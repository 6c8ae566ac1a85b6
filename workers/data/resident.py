"""Small images that stay in memory as uint8, and are augmented a batch at a time: on the host, or on the device.

N = images, H, W = pixels, C = channels, B = images of a batch, S = pixels along a side. The shifts and mirrors are
those of `views.TrainView`, bit for bit, whichever way they are computed.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.augmentations import Augmentation, Resize, Shift
from workers.data.draws import below
from workers.data.views import TrainView


class Resident:
    """Images of one size, augmented. Threads may share it."""

    def __init__(self, image_NHWC: NDArray[np.uint8], augmentation: Augmentation, image_size: int, seed: int) -> None:
        """Keep the images, in a copy where shifts need a border. Raise ValueError as TrainView does."""
        _, height, width, channels = image_NHWC.shape
        self.view = TrainView(augmentation, image_size, channels, seed)
        crop = augmentation.crop
        whole = height == width == image_size and isinstance(crop, Resize | Shift) and augmentation.randaugment is None
        self.batched = whole
        """Whether a batch is gathered at once; else image by image, which is some twenty times slower."""
        self._border = crop.pixels if whole and isinstance(crop, Shift) else 0
        border = ((0, 0), (self._border,) * 2, (self._border,) * 2, (0, 0))
        padded_NHWC = np.pad(image_NHWC, border) if self._border else image_NHWC
        # Torch takes no array that is read-only, as Arrow's are.
        self._image_NHWC = np.require(padded_NHWC, requirements=["C", "W"])
        self._on_device: dict[torch.device, Tensor] = {}

    def batch(self, row_B: NDArray[np.int64], position_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The augmented images of these rows, (B, H, W, C), each at its place in the whole training."""
        if self.batched and not self._border and not self.view.augmentation.flip:
            return self._image_NHWC[row_B]  # nothing is left to chance, and steps of small networks take 2 ms
        size, channels = self.view.image_size, self.view.channels
        words_BW = self.view.words(position_B)
        if not self.batched:
            out_BHWC = np.empty((len(row_B), size, size, channels), dtype=np.uint8)
            for row, words_W, out_HWC in zip(row_B, words_BW, out_BHWC, strict=True):
                self.view.render(self._image_NHWC[row], words_W, out_HWC)
            return out_BHWC
        # A row of a window is contiguous, so it is one item of the view, and a window is a column of `size` items.
        line = np.dtype((np.void, size * channels))
        images = len(self._image_NHWC)
        stride = self._image_NHWC.strides
        windows = np.lib.stride_tricks.as_strided(
            self._image_NHWC.reshape(-1)[: size * channels].view(line),
            shape=(images, 2 * self._border + 1, 2 * self._border + 1, size),
            strides=(stride[0], stride[1], stride[2], stride[1]),
            writeable=False,
        )
        down_B, right_B, mirrored_B = self._choices(words_BW)
        out_BHWC = windows[row_B, down_B, right_B].view(np.uint8).reshape(len(row_B), size, size, channels)
        (mirrored,) = np.nonzero(mirrored_B)
        if len(mirrored):
            lines = out_BHWC[mirrored].reshape(-1, size, channels)
            out_BHWC[mirrored] = cv2.flip(lines, 1).reshape(-1, size, size, channels)
        return out_BHWC

    def batch_on_device(self, row_B: NDArray[np.int64], position_B: NDArray[np.int64], device: torch.device) -> Tensor:
        """The same images gathered on a device, where all of them stay from the first call on: (B, H, W, C), uint8."""
        if not self.batched:
            return torch.from_numpy(self.batch(row_B, position_B)).to(device)
        image_PC = self._on_device.get(device)
        if image_PC is None:
            whole = torch.from_numpy(self._image_NHWC.reshape(-1, self.view.channels))
            image_PC = self._on_device[device] = whole.to(device)
        down_B, right_B, mirrored_B = self._choices(self.view.words(position_B))
        size, padded = self.view.image_size, self._image_NHWC.shape[1]
        corner_B = (row_B * padded + down_B) * padded + right_B
        # One copy to the device: the upper left pixel of each window, and whether to mirror it.
        corner_B, mirrored_B = torch.from_numpy(np.stack([corner_B, mirrored_B])).to(device, non_blocking=True)
        along_S = torch.arange(size, device=device)
        x_BS = torch.where(mirrored_B[:, None] > 0, size - 1 - along_S, along_S)
        pixel_BSS = corner_B[:, None, None] + (along_S * padded)[:, None] + x_BS[:, None]
        return image_PC.index_select(0, pixel_BSS.reshape(-1)).reshape(-1, size, size, self.view.channels)

    def _choices(self, words_BW: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of each window, and 1 where it is mirrored: what TrainView.render makes of the words."""
        count = 2 * self._border + 1
        mirrored_B = (words_BW[:, 0] >> np.uint64(63)).astype(np.int64) * int(self.view.augmentation.flip)
        return below(words_BW[:, 1], count), below(words_BW[:, 2], count), mirrored_B
