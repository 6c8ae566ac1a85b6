"""Trainings of a few steps on the digits, and a supervisor that keeps what it hears."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from studies.datasets import DIGITS
from studies.definitions import AnyTraining, Recipe, Train
from studies.models import Hybrid, ResNet, ViT
from studies.schedules import Cosine
from workers.checkpoints import load_facts
from workers.devices import Device
from workers.perform import perform
from workers.supervision import Finished, Place, Wish, Yielded

CPU = Device.named("cpu")
VIT = ViT(patch=4, width=16, depth=1, mlp=32, heads=2)
RESNET = ResNet(blocks=(1,), width=8, root="3x3", groups=4)
FAMILIES = {
    "vit": VIT,
    "vit gap": VIT.model_copy(update={"head": "gap"}),
    "resnet": RESNET,
    "hybrid": Hybrid(body=RESNET, vit=VIT),
}
"""One of each, small enough for a step in a few milliseconds."""
RECIPE = Recipe(lr_peak=1e-2, schedule=Cosine(), warmup_steps=2, weight_decay=0.1, batch=20, clip_norm=1.0)


def training_of(steps: int, *, model: Any = VIT, rows: int = 50, seed: int = 0, **recipe: Any) -> Train:
    """A training of so many steps; what else is named are fields of the recipe."""
    changed = Recipe.model_validate({**RECIPE.model_dump(), **recipe})
    data, examples = DIGITS.take("train", rows), steps * changed.batch
    return Train(model=model, data=data, image_size=8, recipe=changed, examples=examples, seed=seed)


class Recorder:
    """Keeps all it hears, and wishes what it was told to from a step on."""

    def __init__(self, wish: Wish = Wish.CONTINUE, at: int = 0) -> None:
        self.wish, self.at = wish, at
        self.steps: list[int] = []
        self.measured: dict[int, dict[str, float]] = {}
        self.current: Path | None = None
        self.earlier_seen: list[bool] = []

    def reached(self, step: int) -> Wish:
        self.steps.append(step)
        return self.wish if step >= self.at else Wish.CONTINUE

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        self.measured.setdefault(step, {}).update(metrics)

    def checkpointed(self, folder: Path, step: int) -> None:
        assert load_facts(folder).step == step
        if self.current is not None:
            self.earlier_seen.append(self.current.exists())
        self.current = folder


def place_in(folder: Path, **fields: Any) -> Place:
    """One thread of the CPU, with files in this folder."""
    return Place(device=CPU, folder=folder, **fields)


def final_bits(folder: Path) -> bytes:
    """The tensors of a checkpoint."""
    return (folder / "state.safetensors").read_bytes()


def bits_of(finished: Finished) -> bytes:
    """The tensors that a training left."""
    assert finished.checkpoint is not None
    return final_bits(finished.checkpoint)


def broken(run: AnyTraining, at: int, folder: Path, **fields: Any) -> tuple[Path, Recorder]:
    """The checkpoint of a training that yields at a step, and what it heard until then."""
    recorder = Recorder(Wish.YIELD, at=at)
    with pytest.raises(Yielded):
        perform(run, place_in(folder, **fields), recorder)
    assert recorder.current is not None
    return recorder.current, recorder
