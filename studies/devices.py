"""What named devices sustain on training steps and hold in memory, for estimates before anything was measured.

Rates are those of whole training steps, not peaks; each with its basis. A store that holds finished trainings on a
device knows better, and its figure is preferred.
"""

from dataclasses import dataclass
from typing import Literal

from studies.architectures import nearest

GIB = 2**30

Kind = Literal["cpu", "gpu", "tpu"]
"""What decides which tensors a training step keeps: the implementations in use differ between these."""


@dataclass(frozen=True)
class DeviceFacts:
    """One unit of a device: what it sustains, and what fits into it."""

    name: str
    unit: str
    kind: Kind
    flops_per_second: float
    """Training FLOPs per second."""
    basis: str
    """Where the rate is from."""
    memory_bytes: int | None
    """Memory of one unit; None where only the machine itself can tell."""
    token_multiple: int = 1
    """Tokens of an image are padded in memory to a multiple of this."""


_FACTS = (
    DeviceFacts("cpu", "core", "cpu", 2e10, "small networks in float32 on one core of a 2025 server CPU", None),
    # The larger of the two sold, 80 GB: 80 GiB.
    DeviceFacts("a100", "GPU", "gpu", 1.1e14, "35 % of 312 TFLOP/s in bf16", 80 * GIB),
    DeviceFacts("h100", "GPU", "gpu", 3.0e14, "30 % of 989 TFLOP/s in bf16 (ViT-g/14 in NeMo: 29 %)", 80 * GIB),
    DeviceFacts("h200", "GPU", "gpu", 3.0e14, "30 % of 989 TFLOP/s in bf16", 140 * GIB),
    DeviceFacts(
        "tpu-v3", "core", "tpu", 2.3e13, "between ViT-H/14 and L/16 in Table 2 of arXiv:2010.11929v2", 16 * GIB, 128
    ),
    DeviceFacts("tpu-v4", "chip", "tpu", 1.1e14, "40 % of 275 TFLOP/s in bf16", 32 * GIB, 128),
)
DEVICES = {device.name: device for device in _FACTS}


def device_facts(name: str) -> DeviceFacts:
    """The device of this name. Raises ValueError with the nearest valid name."""
    if name not in DEVICES:
        raise ValueError(f"'{name}' is no device that vitscale has a rate for{nearest(name, list(DEVICES))}")
    return DEVICES[name]
