"""What named devices sustain on training steps, for estimates of time before anything was measured.

These are rates of whole training steps, not peaks; each with its basis. A store that holds finished trainings on a
device knows better, and its figure is preferred.
"""

from dataclasses import dataclass

from studies.architectures import nearest


@dataclass(frozen=True)
class DeviceRate:
    """Training FLOPs per second that one unit of a device sustains."""

    name: str
    unit: str
    flops_per_second: float
    basis: str


DEVICES = {
    rate.name: rate
    for rate in (
        DeviceRate("cpu", "core", 2e10, "small networks in float32 on one core of a 2025 server CPU"),
        DeviceRate("a100", "GPU", 1.1e14, "35 % of 312 TFLOP/s in bf16"),
        DeviceRate("h100", "GPU", 3.0e14, "30 % of 989 TFLOP/s in bf16 (ViT-g/14 in NeMo: 29 %)"),
        DeviceRate("h200", "GPU", 3.0e14, "30 % of 989 TFLOP/s in bf16"),
        DeviceRate("tpu-v3", "core", 2.3e13, "between ViT-H/14 and L/16 in Table 2 of arXiv:2010.11929v2"),
        DeviceRate("tpu-v4", "chip", 1.1e14, "40 % of 275 TFLOP/s in bf16"),
    )
}


def device_rate(name: str) -> DeviceRate:
    """The device of this name. Raises ValueError with the nearest valid name."""
    if name not in DEVICES:
        raise ValueError(f"'{name}' is no device that vitscale has a rate for{nearest(name, list(DEVICES))}")
    return DEVICES[name]
