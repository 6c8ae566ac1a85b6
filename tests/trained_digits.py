"""A small transformer trained on the digits, which evaluations in tests stand on; `conftest.py` trains it once."""

from collections.abc import Mapping
from pathlib import Path

from studies.datasets import DIGITS
from studies.definitions import Train
from studies.models import ViT
from studies.recipes import recipe
from workers.devices import Device
from workers.supervision import Finished, Wish

CPU = Device.named("cpu")
SMALL = Train(
    model=ViT(patch=2, width=32, depth=2, mlp=64, heads=4),
    data=DIGITS.take("train"),
    image_size=8,
    recipe=recipe("small", {"augmentation": "none"}),
    examples=50 * 200,
    seed=0,
)


class Silent:
    """Counts what it is asked, and wishes one thing."""

    def __init__(self, wish: Wish = Wish.CONTINUE) -> None:
        self.wish = wish
        self.heard = 0

    def reached(self, step: int) -> Wish:
        self.heard += 1
        return self.wish

    def measure(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def checkpointed(self, folder: Path, step: int) -> None: ...


def values(finished: Finished) -> dict[str, float | None]:
    """The results by metric."""
    return {value.metric: value.value for value in finished.values}
