"""A run as it is planned: its definition together with its key, its names for people, and its price."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from studies import cost, memory
from studies.definitions import (
    AnyRun,
    AnyTraining,
    Evaluate,
    FewShot,
    FewShotClassification,
    FineTune,
    SplitWatch,
    Train,
    Watch,
    canonical,
    configuration_of,
    key_of,
)
from studies.devices import DeviceFacts

Role = Literal["trunk", "trial", "final"]
"""Why a study wants a run that no cell of its grids names: several trainings start from a `trunk`, a search tries a
`trial`, and measures its choice in `final` runs."""


@dataclass(frozen=True)
class PlannedRun:
    """A run, priced and keyed, with what people call it. Evaluations carry the names of the training they measure."""

    run: AnyRun
    training: AnyTraining
    """The training that the run is, or that it stands on."""
    model: str
    """What the study calls the network: `ViT-B/16`."""
    family: str
    epochs: float
    """Of the pre-training."""
    sweep: str | None = None
    """Shared by the trainings that differ only in searched recipe fields and seed; None outside a sweep."""
    searched: str | None = None
    """The searched recipe fields of this run as JSON."""
    pretraining: Train | None = None
    """What a fine-tuning began with, and its evaluations; None where that is `training` itself."""
    transfer: str | None = None
    """What the study calls the transfer that the run belongs to: `fine-tuning`."""
    role: Role | None = None
    trunk: "PlannedRun | None" = None
    """The training without a cooldown whose state this training starts from."""

    @cached_property
    def key(self) -> str:
        """The run's name, 64 hexadecimal digits."""
        return key_of(self.run)

    @cached_property
    def configuration(self) -> str:
        """The name shared by replicates, 64 hexadecimal digits."""
        configuration = configuration_of(self.root)
        if isinstance(self.training, FineTune):
            configuration = configuration_of(self.training, configuration)
        if isinstance(self.run, Evaluate | FewShot):
            configuration = configuration_of(self.run, configuration)
        return configuration

    @property
    def root(self) -> Train:
        """The pre-training that all stands on: what a point on a frontier costs."""
        root = self.pretraining or self.training
        assert isinstance(root, Train)
        return root

    @property
    def definition(self) -> str:
        """The run as canonical JSON."""
        return canonical(self.run)

    @property
    def upstream(self) -> str | None:
        """Key of the run that this one waits for: what it evaluates, fine-tunes, or starts from."""
        if isinstance(self.run, Train):
            return self.trunk.key if self.trunk else None
        return self.run.upstream

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        data = self.training.data
        return cost.parameters(self.training.model, self.training.image_size, data.channels, data.classes)

    @property
    def train_flops(self) -> float:
        """FLOPs of the pre-training from its first step: the cost of the point that this run puts on a frontier."""
        return _training_flops(self.root, self.root.examples)

    @property
    def images(self) -> int:
        """Images that this run itself puts through the network, repeats counted."""
        run = self.run
        if isinstance(run, Train | FineTune):
            return run.examples - self._shared_examples + _watched_images(run, self._shared_examples)
        return _classified_images(run)

    @property
    def flops(self) -> float:
        """FLOPs that are spent on this run itself.

        Of a training, the updates that it does not share with a trunk, and what is evaluated during them; of an
        evaluation, its forward passes.
        """
        run, data = self.run, self.training.data
        if isinstance(run, Train | FineTune):
            spent = _training_flops(run, run.examples - self._shared_examples)
            return spent + _watched_flops(run, self._shared_examples)
        forward = cost.forward_flops(self.training.model, run.image_size, data.channels, data.classes)
        return float(forward * self.images)

    @property
    def _shared_examples(self) -> int:
        return self.trunk.training.examples if self.trunk else 0

    def step_memory(self, device: DeviceFacts) -> memory.Memory:
        """What a step of the training needs on a device."""
        training, data = self.training, self.training.data
        return memory.recipe_memory(
            training.model, training.image_size, data.channels, data.classes, training.recipe, device
        )

    @property
    def steps(self) -> int:
        """Optimizer updates of a training; 0 for an evaluation."""
        return self.run.steps if isinstance(self.run, Train | FineTune) else 0


def _training_flops(run: AnyTraining, examples: int) -> float:
    """A linear probe does not go backwards through the body, whose gradients nobody needs."""
    data = run.data
    if isinstance(run, FineTune) and run.trained == "head":
        return float(cost.forward_flops(run.model, run.image_size, data.channels, data.classes) * examples)
    return cost.train_flops(run.model, run.image_size, data.channels, data.classes, examples)


def _classified_images(measured: Evaluate | FewShot | SplitWatch | FewShotClassification) -> int:
    if isinstance(measured, FewShotClassification):
        # The most: supports of two seeds may share images, which go through once.
        drawn = max(measured.shots) * measured.support.classes * len(measured.support_seeds)
        return measured.data.rows + min(measured.support.rows, drawn)
    return measured.data.rows


def _watched_images(run: AnyTraining, shared_examples: int) -> int:
    return sum(_classified_images(watch) * _times(watch, run, shared_examples) for watch in run.watches)


def _watched_flops(run: AnyTraining, shared_examples: int) -> float:
    data = run.data
    return sum(
        float(
            cost.forward_flops(run.model, watch.image_size, data.channels, data.classes)
            * _classified_images(watch)
            * _times(watch, run, shared_examples)
        )
        for watch in run.watches
    )


def _times(watch: Watch, run: AnyTraining, shared_examples: int) -> int:
    """How often a watch measures after the steps that a trunk did."""
    return sum(step * run.recipe.batch > shared_examples for step in watched_steps(watch.every, run.steps))


def watched_steps(every: int | None, steps: int) -> list[int]:
    """The steps after which a watch measures: multiples of `every`, and the last."""
    return [*range(every, steps, every), steps] if every is not None else [steps]
