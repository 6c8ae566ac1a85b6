"""What is measured of a network while it is trained, and the best weights so far. It changes nothing of the training.

A watch sees the weights that would be evaluated were the training over, in a second network, in float32.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from studies.definitions import AnyTraining, FewShotWatch, SplitWatch
from studies.metrics import ACCURACY, BEST_STEP, fewshot_accuracy, watched
from studies.models import MaskedPatch
from studies.registry import Registry
from workers.data.sources import open_source
from workers.evaluation import check_classes, classified, value_of
from workers.fewshot import check_fewshot, fewshot_classified
from workers.models.build import AnyNetwork, blueprint, materialize
from workers.models.network import Network
from workers.models.transfer import loaded, resized
from workers.supervision import Place, Supervisor, Value, Wish

AnyWatch = SplitWatch | FewShotWatch

Found = dict[AnyWatch, dict[str, float]]
"""What each watch found, by metric."""


class Best:
    """The weights of the best step so far, on the host, by the accuracy of the watch that decides."""

    def __init__(self, watch: AnyWatch, weights: Mapping[str, Tensor]) -> None:
        """weights: names and shapes of those that will be offered."""
        self.watch = watch
        self.weights = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in weights.items()}
        self._accuracy = torch.full((), -math.inf, dtype=torch.float64)
        self._step = torch.zeros((), dtype=torch.int64)

    @property
    def step(self) -> int:
        """After which the weights were measured; 0 before any were."""
        return int(self._step)

    def offer(self, step: int, found: Found, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights of a step whose accuracy is higher than that of all before it."""
        if self.watch not in found or found[self.watch][_deciding(self.watch)] <= float(self._accuracy):
            return
        self._accuracy.fill_(found[self.watch][_deciding(self.watch)])
        self._step.fill_(step)
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])

    def state(self) -> dict[str, Tensor]:
        """All of it: no copies."""
        weights = {f"weights.{name}": tensor for name, tensor in self.weights.items()}
        return {"accuracy": self._accuracy, "step": self._step, **weights}


def best_of(run: AnyTraining, weights: Mapping[str, Tensor]) -> Best | None:
    """What keeps the best weights of the run, where one of its watches asks for it."""
    return next((Best(watch, weights) for watch in run.watches if watch.keep == "best"), None)


def check_watches(run: AnyTraining, registry: Registry) -> None:
    """Raise ValueError for a watch that the run's network cannot serve, and DataError for one without its images,
    before anything is computed.
    """
    data = run.data
    for watch in run.watches:
        if watch.data.channels != data.channels:
            raise ValueError(f"a network for {data.channels} channels cannot see images of {watch.data.channels}")
        blueprint(run.model, image_size=watch.image_size, channels=data.channels, classes=data.classes)
        resized({}, run.model, from_size=run.image_size, to_size=watch.image_size)
        if isinstance(watch, FewShotWatch):
            check_fewshot(watch, registry)
        else:
            _check_classification(run, watch)
        open_source(watch.data, registry)


def due(run: AnyTraining, step: int) -> list[AnyWatch]:
    """The watches that measure after this step, as `studies.planned.watched_steps` counts them."""
    return [
        watch for watch in run.watches if step == run.steps or (watch.every is not None and step % watch.every == 0)
    ]


def look(
    run: AnyTraining,
    watches: list[AnyWatch],
    weights: Mapping[str, Tensor],
    step: int,
    place: Place,
    supervisor: Supervisor,
) -> Found:
    """What these watches find in these weights of the run's network.

    Raises Stopped when the supervisor wishes it, and what `classified` and `fewshot_classified` raise. A wish to yield
    waits: a watch is short.
    """
    quiet = _AtStep(supervisor, step)
    found: Found = {}
    for watch in watches:
        network = _network(run, watch.image_size, weights, place)
        if isinstance(watch, FewShotWatch):
            found[watch] = fewshot_classified(network, watch, place, quiet)
        else:
            assert isinstance(network, Network)
            found[watch] = classified(network, watch, place, quiet)
    return found


def measurements(found: Found) -> dict[str, float]:
    """What was found on the way, by the names of measurements."""
    return {
        watched(metric, watch.data.name, watch.data.split): value
        for watch, values in found.items()
        for metric, value in values.items()
    }


def results(found: Found, best: Best | None) -> list[Value]:
    """What was found in the weights that the training leaves, and the step that they are of where that was chosen."""
    values = [value_of(watch, metric, value) for watch, values in found.items() for metric, value in values.items()]
    return values if best is None else [*values, value_of(best.watch, BEST_STEP, best.step)]


class _AtStep:
    """A supervisor for what is measured after a step of a training: it hears of that step and no other."""

    def __init__(self, supervisor: Supervisor, step: int) -> None:
        self.supervisor = supervisor
        self.step = step

    def reached(self, step: int) -> Wish:
        """Whether to stop."""
        return Wish.STOP if self.supervisor.reached(self.step) is Wish.STOP else Wish.CONTINUE

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """An evaluation measures nothing on its way."""
        raise AssertionError

    def checkpointed(self, folder: object, step: int) -> None:
        """An evaluation saves nothing."""
        raise AssertionError


def _network(run: AnyTraining, image_size: int, weights: Mapping[str, Tensor], place: Place) -> AnyNetwork:
    """The run's network for images of this size, on the device and without chance."""
    shape = blueprint(run.model, image_size=image_size, channels=run.data.channels, classes=run.data.classes)
    fitting = resized(weights, run.model, from_size=run.image_size, to_size=image_size)
    network = loaded(materialize(shape, place.device.torch), fitting).eval()
    place.device.end_step()
    return network


def _deciding(watch: AnyWatch) -> str:
    """The metric by which a watch knows the best step."""
    return ACCURACY if isinstance(watch, SplitWatch) else fewshot_accuracy(max(watch.shots))


def _check_classification(run: AnyTraining, watch: SplitWatch) -> None:
    if isinstance(run.model, MaskedPatch):
        raise ValueError(
            f"a masked-patch model knows no classes, so {watch.data.name} cannot be classified with it: fine-tune it,"
            " or watch it by few-shot classification"
        )
    check_classes(watch, run.data.classes)
