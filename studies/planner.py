"""Which shapes of a transformer fit into a device: the simulation of arXiv:2106.04560v2, section 3.4."""

from collections.abc import Sequence
from dataclasses import dataclass

from studies.devices import Kind
from studies.memory import Keeping, Memory, Precision, training_memory
from studies.models import ViT, check_fits

DEPTHS = (6, 8, 12, 16, 24, 32, 40, 48, 56)
WIDTHS = (256, 384, 512, 768, 1024, 1280, 1408, 1664, 2048)
MLP_WIDTHS = 4
"""Width of the MLP in widths of the network."""
HEAD_WIDTH = 64
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
OPTIMIZERS: tuple[Keeping, ...] = ("adam", "adam-bf16", "adafactor")


@dataclass(frozen=True)
class Shape:
    """A transformer of some depth and width, and what a training step of it needs with one optimizer."""

    optimizer: Keeping
    depth: int
    width: int
    memory_bytes: int
    """At the batch that was asked for."""
    largest_batch: int
    """That fits; 0 where not even one image does."""
    fits: bool


def shapes_that_fit(
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    device_bytes: int,
    batch: int,
    patch: int,
    image_size: int,
    classes: int,
    optimizers: Sequence[Keeping] = OPTIMIZERS,
    precision: Precision = "bf16",
    kind: Kind = "gpu",
    token_multiple: int = 1,
) -> list[Shape]:
    """Every depth with every width and optimizer, in this order, and whether it fits.

    batch: images on the device in one step. The network has attention pooling for its head, as the second paper's.
    kind, token_multiple: of the device, as in `devices.DeviceFacts`.
    Raises ValueError for a width that heads of 64 do not divide, and for patches that do not tile the image.
    """
    found = []
    for optimizer in optimizers:
        for depth in depths:
            for width in widths:
                model = shape(depth, width, patch)
                check_fits(model, image_size)
                memory = training_memory(
                    model,
                    image_size,
                    3,
                    classes,
                    optimizer=optimizer,
                    precision=precision,
                    kind=kind,
                    token_multiple=token_multiple,
                )
                found.append(_judged(memory, optimizer, depth, width, device_bytes, batch))
    return found


def shape(depth: int, width: int, patch: int) -> ViT:
    """A transformer with the usual proportions. Raises ValueError for a width that heads of 64 do not divide."""
    if width % HEAD_WIDTH:
        below = width - width % HEAD_WIDTH
        nearest = ", ".join(str(each) for each in (below, below + HEAD_WIDTH) if each)
        raise ValueError(f"a width of {width} is no multiple of a head's {HEAD_WIDTH}; the nearest that are: {nearest}")
    return ViT(patch=patch, width=width, depth=depth, mlp=MLP_WIDTHS * width, heads=width // HEAD_WIDTH, head="map")


def optimizers_named(names: Sequence[str] | None) -> tuple[Keeping, ...]:
    """The optimizers of these names; all for none. Raises ValueError for another name."""
    for name in names or ():
        if name not in OPTIMIZERS:
            raise ValueError(f"'{name}' is no optimizer to plan for; valid: {', '.join(OPTIMIZERS)}")
    return tuple(each for each in OPTIMIZERS if not names or each in names)


def precision_named(name: str) -> Precision:
    """The precision of this name. Raises ValueError for another name."""
    for precision in PRECISIONS:
        if precision == name:
            return precision
    raise ValueError(f"'{name}' is no precision; valid: {', '.join(PRECISIONS)}")


def _judged(memory: Memory, optimizer: Keeping, depth: int, width: int, device_bytes: int, batch: int) -> Shape:
    needed = memory.at(batch)
    return Shape(optimizer, depth, width, needed, memory.largest_batch(device_bytes), needed <= device_bytes)
