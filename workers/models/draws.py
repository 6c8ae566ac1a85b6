"""First values of parameters, drawn from a seed: the same on every machine, whatever torch's own generators hold.

Torch's normal numbers depend on the instruction set of the CPU, so these come from NumPy's Philox in float64. Each
parameter has a stream of its own, named by the seed and its path: no value depends on which was drawn before.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal variable that is kept within [-2, 2]."""


class Draws:
    """Streams of random numbers below one path of one seed."""

    def __init__(self, seed: int, path: str = "") -> None:
        self.seed = seed
        self.path = path

    def within(self, name: str) -> "Draws":
        """The streams one level deeper."""
        return Draws(self.seed, f"{self.path}/{name}")

    def normal(self, name: str, parameter: Tensor, std: float) -> None:
        """Fill with normal numbers."""
        _fill(parameter, self._stream(name).standard_normal(parameter.shape) * std)

    def xavier_uniform(self, name: str, kernel_OI: Tensor) -> None:
        """Fill a linear kernel uniformly within sqrt(6 / (inputs + outputs)) (Glorot and Bengio, 2010)."""
        bound = math.sqrt(6 / sum(kernel_OI.shape))
        _fill(kernel_OI, self._stream(name).uniform(-bound, bound, kernel_OI.shape))

    def lecun_normal(self, name: str, kernel: Tensor) -> None:
        """Fill a kernel, outputs first, with variance 1 / inputs, cut at two standard deviations (as flax does)."""
        stream = self._stream(name)
        values = stream.standard_normal(kernel.shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = stream.standard_normal(int(outside.sum()))
        _fill(kernel, values / (_TRUNCATED_STD * math.sqrt(kernel[0].numel())))

    def _stream(self, name: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self.seed}{self.path}/{name}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _fill(parameter: Tensor, values: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values))
