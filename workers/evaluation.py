"""Classifies a split with a trained network, and loads such networks; always in float32, with sums in float64.

B = images of a batch, C = channels, H, W = pixels, F = features, K = classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from studies.definitions import RUN, Evaluate, FewShot, Train, key_of
from studies.metrics import ACCURACY, LOSS
from workers.checkpoints import load
from workers.data.batches import normalized
from workers.data.loader import Batch, eval_batches
from workers.data.sources import open_source
from workers.data.views import EvalView
from workers.devices import Device
from workers.models.build import blueprint, materialize
from workers.models.network import Network
from workers.models.transfer import loaded, resized
from workers.supervision import CheckpointError, Finished, Place, Stopped, Supervisor, Value, Wish, Yielded

BATCH = 256
"""Images classified at a time. Fixed, since the shape of a batch can change bits."""


@dataclass(frozen=True)
class Trained:
    """A trained network, ready to classify, and where it comes from."""

    network: Network
    training: Train
    mixed_numerics: bool


def evaluate(run: Evaluate, place: Place, supervisor: Supervisor) -> Finished:
    """Accuracy and loss on a split. The loss is that of a softmax over the logits, whatever loss the training had.

    Of images with lists of labels, a guess is right when it is one of them, and the loss is a binary cross-entropy per
    class, summed over classes.

    Raises CheckpointError when `place.upstream` is not the whole training that the run names, ValueError when the
    network is not made for the run's images, DataError when these cannot be read, Stopped and Yielded as the
    supervisor wishes.
    """
    place.device.use()
    trained = load_trained(run, place)
    if run.data.classes != trained.training.data.classes:
        raise ValueError(
            f"a network of {trained.training.data.classes} classes cannot be measured on {run.data.classes}"
        )
    device = place.device
    source = open_source(run.data, place.registry)
    view = EvalView(run.view, run.image_size, run.data.channels)
    # Kept on the device to the end: the host waits once. An integer count is exact.
    correct = torch.zeros((), dtype=torch.int64, device=device.torch)
    loss_nats = torch.zeros((), dtype=torch.float64, device=device.torch)
    batches = eval_batches(source, view, BATCH, readers=device.threads)
    for batch, logits_BK in batched(trained.network, batches, run.data.rows, device, supervisor):
        label = device.place(torch.from_numpy(batch.labels))
        guess_B = logits_BK.argmax(dim=-1)
        if run.data.multi_label:
            correct += label.gather(1, guess_B[:, None]).sum().long()
            loss_nats += functional.binary_cross_entropy_with_logits(
                logits_BK.double(), label.double(), reduction="sum"
            )
        else:
            correct += (guess_B == label).sum()
            loss_nats += functional.cross_entropy(logits_BK.double(), label, reduction="sum")
    rows = run.data.rows
    return Finished(
        (
            value_of(run, ACCURACY, int(correct) / rows),
            value_of(run, LOSS, float(loss_nats) / rows),
        ),
        mixed_numerics=trained.mixed_numerics,
        certificate=source.certificate(),
    )


def load_trained(run: Evaluate | FewShot, place: Place) -> Trained:
    """The network that a run stands on, from its checkpoint alone; positions are interpolated to the run's images.

    Raises CheckpointError when the checkpoint is not whole or of another training, ValueError when the network is not
    made for images of the run's channels, or cannot be for images of its size.
    """
    if place.upstream is None:
        raise CheckpointError(f"no checkpoint was given of the training {run.upstream[:12]} that this run stands on")
    tensors, facts = load(place.upstream)
    training = _training(facts.training, place.upstream)
    if not facts.run == key_of(training) == run.upstream:
        raise CheckpointError(
            f"{place.upstream} is of the training {facts.run[:12]}, and the run stands on {run.upstream[:12]}"
        )
    if facts.step != training.steps:
        raise CheckpointError(f"{place.upstream} is at step {facts.step:,} of {training.steps:,}, so it is not trained")
    if run.data.channels != training.data.channels:
        raise ValueError(f"a network for {training.data.channels} channels cannot see images of {run.data.channels}")
    network = blueprint(
        training.model,
        image_size=run.image_size,
        channels=training.data.channels,
        classes=training.data.classes,
    )
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    weights = resized(weights, training.model, from_size=training.image_size, to_size=run.image_size)
    try:
        loaded(materialize(network, place.device.torch), weights)
    except ValueError as error:
        raise CheckpointError(
            f"{place.upstream} holds tensors of other names or shapes than its model has: {error}"
        ) from error
    return Trained(network.eval(), training, facts.mixed_numerics)


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


def value_of(run: Evaluate | FewShot, metric: str, value: float) -> Value:
    """A result on the data that the run classifies."""
    return Value(metric, run.data.name, run.data.split, run.image_size, value if math.isfinite(value) else None)


def _training(definition: str, folder: Path) -> Train:
    try:
        training = RUN.validate_json(definition)
    except ValidationError as error:
        raise CheckpointError(
            f"{folder} holds a definition that this code cannot read: use the code that wrote it"
        ) from error
    if not isinstance(training, Train):
        raise CheckpointError(f"{folder} is of no training")
    return training
