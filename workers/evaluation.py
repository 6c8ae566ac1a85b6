"""Classifies a split with a network, and loads trained ones; always in float32, with sums in float64 or integers.

B = images of a batch, H, W = pixels, F = features, K = classes of the network, C = those of the data, or channels,
G = guesses, the most likely first, M = bins of confidence.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from studies.definitions import AnyTraining, Classification, Evaluate, FewShot, FewShotClassification
from studies.metrics import ACCURACY, ACCURACY_TOP5, CALIBRATION_ERROR, LOSS
from workers.data.batches import normalized
from workers.data.loader import Batch, eval_batches
from workers.data.sources import Source, open_source
from workers.data.views import EvalView
from workers.devices import Device
from workers.final import read_final
from workers.models.build import blueprint, materialize
from workers.models.network import FeatureNetwork, Network
from workers.models.transfer import loaded, resized
from workers.supervision import CheckpointError, DataError, Finished, Place, Stopped, Supervisor, Value, Wish, Yielded

BATCH = 256
"""Images classified at a time. Fixed, since the shape of a batch can change bits."""
TOP = 5
"""Guesses of which one must be right for the top-5 accuracy; of no more classes it is not measured."""
BINS = 15
"""Of equal width, of the confidence in [0, 1] (arXiv:1706.04599, section 5)."""
CONFIDENCE_PARTS = 2**32
"""A confidence is summed in such parts, as an integer: the same sum in any order, for two billion images."""


@dataclass(frozen=True)
class Trained:
    """A trained network, ready for use, and where it comes from."""

    network: FeatureNetwork
    training: AnyTraining
    mixed_numerics: bool


def evaluate(run: Evaluate, place: Place, supervisor: Supervisor) -> Finished:
    """The metrics of `classified` for a trained network.

    Raises CheckpointError when `place.upstream` is not the whole training that the run names, ValueError when the
    network classifies nothing or is not made for the run's images, DataError when these cannot be read, Stopped and
    Yielded as the supervisor wishes.
    """
    place.device.use()
    trained = load_trained(run, place)
    if not isinstance(trained.network, Network):
        raise ValueError(
            f"the training {run.upstream[:12]} learned to predict masked patches and knows no classes: fine-tune it, or"
            " evaluate it by few-shot classification"
        )
    check_classes(run, trained.training.data.classes)
    source = open_source(run.data, place.registry)
    found = _classified(trained.network, run, source, place.device, supervisor)
    values = tuple(value_of(run, metric, value) for metric, value in found.items())
    return Finished(values, mixed_numerics=trained.mixed_numerics, certificate=source.certificate())


def classified(network: Network, measured: Classification, place: Place, supervisor: Supervisor) -> dict[str, float]:
    """The metrics of a network, by name, on the images that are counted: `docs/definitions.md` has their definitions.

    network: on the place's device, in evaluation mode, of as many classes as `check_classes` wants.
    Raises DataError when images cannot be read or none counts, Stopped and Yielded as the supervisor wishes.
    """
    source = open_source(measured.data, place.registry)
    return _classified(network, measured, source, place.device, supervisor)


def check_classes(measured: Classification, classes: int) -> None:
    """Raise ValueError when a network of so many classes cannot be measured on the data."""
    data = measured.data
    if measured.mapping is None and data.classes != classes:
        raise ValueError(
            f"a network of {classes} classes cannot be measured on {data.classes}, those of {data.name}: give a mapping"
        )
    if measured.mapping is not None and len(measured.mapping) != classes:
        raise ValueError(
            f"a mapping of {len(measured.mapping)} classes is none of a network of {classes}: give one for these"
        )


def load_trained(run: Evaluate | FewShot, place: Place) -> Trained:
    """The network that a run stands on, from a final checkpoint alone; positions are interpolated to the run's images.

    Raises CheckpointError when the checkpoint is not whole or of another training, ValueError when the network is not
    made for images of the run's channels, or cannot be for images of its size.
    """
    if place.upstream is None:
        raise CheckpointError(f"no checkpoint was given of the training {run.upstream[:12]} that this run stands on")
    final = read_final(place.upstream)
    training = final.training
    if final.facts.run != run.upstream:
        raise CheckpointError(
            f"{place.upstream} is of the training {final.facts.run[:12]}, and the run stands on {run.upstream[:12]}"
        )
    if run.data.channels != training.data.channels:
        raise ValueError(f"a network for {training.data.channels} channels cannot see images of {run.data.channels}")
    network: FeatureNetwork = blueprint(
        training.model,
        image_size=run.image_size,
        channels=training.data.channels,
        classes=training.data.classes,
    )
    weights = resized(final.weights, training.model, from_size=training.image_size, to_size=run.image_size)
    try:
        loaded(materialize(network, place.device.torch), weights)
    except ValueError as error:
        raise CheckpointError(
            f"{place.upstream} holds tensors of other names or shapes than its model has: {error}"
        ) from error
    return Trained(network.eval(), training, final.facts.mixed_numerics)


def batched(
    forward: Callable[[Tensor], Tensor], batches: Iterable[Batch], rows: int, device: Device, supervisor: Supervisor
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch, and what `forward` makes of its images.

    On the device every batch has the same shape: the last is filled up with its last image, and what comes of these is
    cut away. Raises Stopped and Yielded as the supervisor wishes; an evaluation that yields begins anew, so it saves
    nothing.
    rows: images of all batches together.
    """
    seen = 0
    for batch in batches:
        image_BHWC = torch.from_numpy(batch.images)
        real = len(image_BHWC)
        if real < BATCH:
            image_BHWC = torch.cat([image_BHWC, image_BHWC[-1:].expand(BATCH - real, -1, -1, -1)])
        with torch.no_grad():
            answer = forward(normalized(device.place(image_BHWC)))
        device.end_step()  # before the last batch's answers are cut: what is compiled is the same for every batch
        yield batch, answer[:real]
        device.end_step()
        seen += real
        wish = supervisor.reached(0)
        if wish is Wish.STOP:
            raise Stopped
        if wish is Wish.YIELD and seen < rows:
            raise Yielded


def value_of(measured: Classification | FewShotClassification, metric: str, value: float) -> Value:
    """A result on the data that is classified."""
    finite = value if math.isfinite(value) else None
    return Value(metric, measured.data.name, measured.data.split, measured.image_size, finite)


def _classified(
    network: Network, measured: Classification, source: Source, device: Device, supervisor: Supervisor
) -> dict[str, float]:
    view = EvalView(measured.view, measured.image_size, measured.data.channels)
    tally = _Tally(measured, device)
    device.end_step()  # zeros that were only recorded would make the first batch's sums a program of their own
    batches = eval_batches(source, view, BATCH, readers=device.threads)
    for batch, logits_BK in batched(network, batches, measured.data.rows, device, supervisor):
        tally.add(logits_BK, device.place(torch.from_numpy(batch.labels)))
    return tally.metrics()


class _Tally:
    """Sums over the images that are counted. They stay on the device to the end: the host waits once.

    Integers wherever possible: they are exact, in whatever order a device adds them up.
    """

    def __init__(self, measured: Classification, device: Device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device.torch)

        self.measured = measured
        self.classes = 0
        self.counted = zeros()
        self.right = zeros()
        self.right_of_five = zeros()
        self.loss_nats = zeros(dtype=torch.float64)
        self.bins = torch.arange(BINS, device=device.torch)
        self.images_M, self.right_M, self.confidence_M = zeros(BINS), zeros(BINS), zeros(BINS)
        self.mapping_K: Tensor | None = None
        self.reachable_C: Tensor | None = None
        if measured.mapping is not None:
            self.mapping_K = device.place(torch.tensor(measured.mapping))
            known = torch.zeros(measured.data.classes, dtype=torch.bool)
            known[[label for label in measured.mapping if label >= 0]] = True
            self.reachable_C = device.place(known)

    def add(self, logits_BK: Tensor, label: Tensor) -> None:
        """label: (B,), or of lists of labels 1 for each and 0 elsewhere, (B, C)."""
        self.classes = logits_BK.shape[1]
        guess_BG = most_likely(logits_BK, TOP if self.classes > TOP else 1)
        if self.mapping_K is not None:
            guess_BG = self.mapping_K[guess_BG]
        counted_B = self._counted(label)
        right_BG = self._is_right(guess_BG, label) & counted_B[:, None]
        self.counted += counted_B.sum()
        self.right += right_BG[:, 0].sum()
        self.right_of_five += right_BG.any(dim=1).sum()
        if self.mapping_K is not None:
            return
        if self.measured.data.multi_label:
            loss_BK = functional.binary_cross_entropy_with_logits(logits_BK.double(), label.double(), reduction="none")
            self.loss_nats += torch.where(counted_B, loss_BK.sum(dim=1), 0).sum()
        else:
            self.loss_nats += functional.cross_entropy(logits_BK.double(), label, reduction="sum")
            self._bin(logits_BK.double().softmax(dim=1).amax(dim=1), right_BG[:, 0])

    def metrics(self) -> dict[str, float]:
        """By name. Raises DataError when no image was counted."""
        counted, data = int(self.counted), self.measured.data
        if not counted:
            which = "a label" if self.measured.mapping is None else "a label of a class that the mapping names"
            raise DataError(f"no image of {data.name}, {data.split} split, has {which}: classify another split")
        found = {ACCURACY: int(self.right) / counted}
        if self.classes > TOP:
            found[ACCURACY_TOP5] = int(self.right_of_five) / counted
        if self.measured.mapping is None:
            found[LOSS] = float(self.loss_nats) / counted
            if not data.multi_label:
                found[CALIBRATION_ERROR] = self._calibration_error(counted)
        return found

    def _counted(self, label: Tensor) -> Tensor:
        """Whether an image counts, (B,): one without a label that a guess can be does not."""
        if self.measured.data.multi_label:
            labels_BC = label.bool()
            return (labels_BC if self.reachable_C is None else labels_BC & self.reachable_C).any(dim=1)
        return torch.ones_like(label, dtype=torch.bool) if self.reachable_C is None else self.reachable_C[label]

    def _is_right(self, guess_BG: Tensor, label: Tensor) -> Tensor:
        if self.measured.data.multi_label:
            return label.bool().gather(1, guess_BG.clamp(min=0)) & (guess_BG >= 0)
        return guess_BG == label[:, None]

    def _bin(self, confidence_B: Tensor, right_B: Tensor) -> None:
        # Of bins (m / BINS, (m + 1) / BINS]. What is no number is in none.
        bin_B = (confidence_B.nan_to_num(-1) * BINS).ceil().long() - 1
        within_BM = bin_B[:, None] == self.bins
        part_B = (confidence_B.nan_to_num(0) * CONFIDENCE_PARTS).round().long()
        self.images_M += within_BM.sum(dim=0)
        self.right_M += (within_BM & right_B[:, None]).sum(dim=0)
        self.confidence_M += (within_BM * part_B[:, None]).sum(dim=0)

    def _calibration_error(self, counted: int) -> float:
        images_M, right_M, confidence_M = (each.cpu() for each in (self.images_M, self.right_M, self.confidence_M))
        if int(images_M.sum()) < counted:
            return math.nan
        gap_M = (right_M - confidence_M.double() / CONFIDENCE_PARTS).abs()
        return float(gap_M.sum()) / counted


def most_likely(logits_BK: Tensor, guesses: int) -> Tensor:
    """The classes of the largest logits, (B, guesses), the largest first, and of equal ones the first.

    Not by `topk`, which takes any of equal ones: all are, in a head that starts at zero.
    """
    left_BK = logits_BK.clone()
    guess_BG = torch.empty(len(logits_BK), 0, dtype=torch.int64, device=logits_BK.device)
    for _ in range(guesses):
        guess_B1 = left_BK.argmax(dim=1, keepdim=True)
        guess_BG = torch.cat([guess_BG, guess_B1], dim=1)
        left_BK.scatter_(1, guess_B1, -math.inf)
    return guess_BG
