"""Synthetic photographs for benchmarks: noise whose amplitudes fall with frequency, as JPEGs."""

import io

import numpy as np
from PIL import Image


def photograph(height: int, width: int, seed: int, *, fall: float = 1.35) -> bytes:
    """A JPEG of quality 90 whose three colours are mostly alike.

    fall: exponent of the frequency. With 1.35 an image of 375 x 500 pixels has 70 KB; less gives finer detail.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    waves = [rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape) for _ in range(3)]
    field = np.stack([np.fft.irfft2(wave / frequency**fall, s=(height, width)) for wave in waves], axis=-1)
    field /= field.std(axis=(0, 1))
    field = 0.9 * field[..., :1] + 0.4 * field
    file = io.BytesIO()
    Image.fromarray(np.clip(128 + 45 * field, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
