"""A run as it is planned: its definition together with its key, its names for people, and its price."""

from dataclasses import dataclass
from functools import cached_property

from studies import cost, memory
from studies.definitions import Evaluate, FewShot, Train, canonical, configuration_of, key_of
from studies.devices import DeviceFacts


@dataclass(frozen=True)
class PlannedRun:
    """A run, priced and keyed, with what people call it. Evaluations carry the names of the training they measure."""

    run: Train | Evaluate | FewShot
    training: Train
    """The training that the run is, or that it stands on."""
    model: str
    """What the study calls the network: `ViT-B/16`."""
    family: str
    epochs: float
    sweep: str | None = None
    """Shared by the trainings that differ only in searched recipe fields and seed; None outside a sweep."""
    searched: str | None = None
    """The searched recipe fields of this run as JSON."""

    @cached_property
    def key(self) -> str:
        """The run's name, 64 hexadecimal digits."""
        return key_of(self.run)

    @cached_property
    def configuration(self) -> str:
        """The name shared by replicates, 64 hexadecimal digits."""
        training = configuration_of(self.training)
        return training if isinstance(self.run, Train) else configuration_of(self.run, training)

    @property
    def definition(self) -> str:
        """The run as canonical JSON."""
        return canonical(self.run)

    @property
    def upstream(self) -> str | None:
        """Key of the training that an evaluation waits for."""
        return None if isinstance(self.run, Train) else self.run.upstream

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        data = self.training.data
        return cost.parameters(self.training.model, self.training.image_size, data.channels, data.classes)

    @property
    def train_flops(self) -> float:
        """FLOPs of the training: the cost of the point that this run puts on a frontier."""
        training, data = self.training, self.training.data
        return cost.train_flops(training.model, training.image_size, data.channels, data.classes, training.examples)

    @property
    def images(self) -> int:
        """Images that this run itself puts through the network, repeats counted."""
        run = self.run
        if isinstance(run, Train):
            return run.examples
        if isinstance(run, FewShot):
            # The most: supports of two seeds may share images, which go through once.
            drawn = max(run.shots) * run.support.classes * len(run.support_seeds)
            return run.data.rows + min(run.support.rows, drawn)
        return run.data.rows

    @property
    def flops(self) -> float:
        """FLOPs of this run itself: of a training, its training; of an evaluation, its forward passes."""
        if isinstance(self.run, Train):
            return self.train_flops
        data = self.training.data
        forward = cost.forward_flops(self.training.model, self.run.image_size, data.channels, data.classes)
        return float(forward * self.images)

    def step_memory(self, device: DeviceFacts) -> memory.Memory:
        """What a step of the training needs on a device."""
        training, data = self.training, self.training.data
        return memory.recipe_memory(
            training.model, training.image_size, data.channels, data.classes, training.recipe, device
        )

    @property
    def steps(self) -> int:
        """Optimizer updates of a training; 0 for an evaluation."""
        return self.run.steps if isinstance(self.run, Train) else 0
