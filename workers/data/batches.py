"""The batches of a training on the device: images as floats, labels or shares of classes, mixed where the recipe says.

S = steps of a chunk, B = batch, C = channels, H, W = pixels, K = classes. Batches follow from the step alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from studies.definitions import AnyTraining
from studies.registry import BUILT_IN_ONLY, Registry
from studies.subsets import Certificate
from workers.data.loader import TrainLoader
from workers.data.mixup import mixed, shares
from workers.data.order import shuffled_places
from workers.data.resident import Resident
from workers.data.sources import Source, open_source
from workers.data.views import TrainView
from workers.devices import Device

_CHUNK_IMAGES = 16_384
"""Places in the order of images in memory that are worked out at a time."""


class Batches:
    """The batches of a run. Steps are asked for in order; going back or ahead costs as much as a start.

    Raises DataError as `open_source` does, and when images cannot be shown.
    """

    def __init__(self, run: AnyTraining, device: Device, registry: Registry = BUILT_IN_ONLY) -> None:
        source = open_source(run.data, registry)
        self.run = run
        self.device = device
        self.certificate: Certificate = source.certificate()
        self._from: _Memory | _Files = (
            _Memory(run, source, device) if source.resident else _Files(run, source, device.threads)
        )

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images as float32 in [-1, 1], (B, C, H, W), and targets of the batch of a step.

        Targets are labels, (B,), or where images have many labels or are mixed, shares of classes, (B, K).
        """
        image_BHWC, target = self._from.at(step)
        image_BCHW = normalized(self.device.place(image_BHWC))
        target = self.device.place(target)
        augmentation = self.run.recipe.augmentation
        if not augmentation.mixup:
            return image_BCHW, target
        if target.ndim == 1:
            target = functional.one_hot(target, self.run.data.classes).float()
        first = np.array([step * self.run.recipe.batch], dtype=np.int64)
        share = self.device.place(torch.from_numpy(shares(first, augmentation.mixup, self.run.seed)))
        return mixed(image_BCHW, share), mixed(target, share)

    @property
    def waited_seconds(self) -> float:
        """How long steps waited for images to be read."""
        return self._from.waited_seconds

    def close(self) -> None:
        """End the threads that read ahead."""
        self._from.close()


class _Memory:
    """Images that are in memory: on the device, unless that is the CPU, where gathering on the host is faster."""

    waited_seconds = 0.0

    def __init__(self, run: AnyTraining, source: Source, device: Device) -> None:
        image_NHWC, label_N = source.decoded()
        self.run = run
        self.device = device
        self.images = Resident(image_NHWC, run.recipe.augmentation, run.image_size, run.seed)
        self.label_N = label_N
        self.chunk_steps = max(1, _CHUNK_IMAGES // run.recipe.batch)
        self.chunk_first = -self.chunk_steps
        self.place_SB: NDArray[np.int64] = np.empty((0, run.recipe.batch), dtype=np.int64)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images as uint8, (B, H, W, C), and labels, (B,)."""
        if not 0 <= step - self.chunk_first < len(self.place_SB):
            self._work_out(step)
        place_B = self.place_SB[step - self.chunk_first]
        batch = len(place_B)
        position_B = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        label_B = torch.from_numpy(self.label_N[place_B])
        if self.device.torch.type == "cpu":
            return torch.from_numpy(self.images.batch(place_B, position_B)), label_B
        return self.images.batch_on_device(place_B, position_B, self.device.torch), label_B

    def _work_out(self, first: int) -> None:
        batch = self.run.recipe.batch
        steps = min(self.chunk_steps, self.run.steps - first)
        place = shuffled_places(first * batch, steps * batch, rows=self.run.data.rows, seed=self.run.seed)
        self.chunk_first = first
        self.place_SB = place.reshape(steps, batch)

    def close(self) -> None:
        """Nothing to end."""


class _Files:
    """Images that are read from files, or drawn, by threads that keep ahead of the steps."""

    def __init__(self, run: AnyTraining, source: Source, readers: int) -> None:
        self.run = run
        self.source = source
        self.readers = readers
        self.view = TrainView(run.recipe.augmentation, run.image_size, run.data.channels, run.seed)
        self.loader: TrainLoader | None = None
        self.next_step = 0
        self._waited_seconds = 0.0

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images as uint8, (B, H, W, C), and targets."""
        if self.loader is None or step != self.next_step:
            self.close()
            run = self.run
            self.loader = TrainLoader(
                self.source,
                self.view,
                batch=run.recipe.batch,
                seed=run.seed,
                first_step=step,
                steps=run.steps - step,
                readers=self.readers,
            )
        batch = next(self.loader)
        self.next_step = step + 1
        # The loader fills this buffer again, which a copy to another device may still be reading.
        return torch.tensor(batch.images), torch.from_numpy(batch.labels)

    @property
    def waited_seconds(self) -> float:
        """How long steps waited, for all loaders so far."""
        return self._waited_seconds + (self.loader.waited_seconds if self.loader else 0.0)

    def close(self) -> None:
        """End the threads."""
        if self.loader is not None:
            self._waited_seconds += self.loader.waited_seconds
            self.loader.close()
            self.loader = None


def normalized(image_BHWC: Tensor) -> Tensor:
    """uint8 values, (B, H, W, C), as float32 in [-1, 1], (B, C, H, W), on the device where they are."""
    image_BCHW = image_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return image_BCHW.mul_(2 / 255).sub_(1)
