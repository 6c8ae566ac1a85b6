"""Trains a network: from its initialization or a checkpoint to its final weights, the same bits however often it stops.

B = batch, C = channels, H, W = pixels, K = classes. An update counts as a step once it is done:
the run begins at step 0 and ends at step `run.steps`.
"""

import hashlib
import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from studies.definitions import Train, canonical, key_of
from studies.memory import micro_batch_of
from studies.metrics import TRAIN_LOSS
from studies.registry import BUILT_IN_ONLY, Registry
from workers.averaging import Average
from workers.checkpoints import Facts, forget, load, save, step_folder
from workers.data.batches import Batches
from workers.devices import Device
from workers.models.build import build
from workers.optimization import Optimizer, loss_of
from workers.supervision import (
    CheckpointError,
    Finished,
    NotFinite,
    OtherNumerics,
    Place,
    Stopped,
    Supervisor,
    Value,
    Wish,
    Yielded,
)

LOGGED_STEPS = 50
"""Steps of a training at which its loss is measured, about."""


def train(run: Train, place: Place, supervisor: Supervisor) -> Finished:
    """Train to the end, and leave the weights in the attempt's folder.

    A resumed training gives the bits of an unbroken one, in one numerics class. No value of the device is read on the
    host but at logged steps, which the definition alone decides, and for checkpoints. At the last step a wish to
    yield is not granted: the run is over as soon as it could be saved.

    Raises Yielded and Stopped as the supervisor wishes, NotFinite at the first logged step whose loss is no finite
    number or when the last update broke the weights, CheckpointError and OtherNumerics when `place.resume` cannot be
    gone on from, and DataError when the images are not those that the run names.
    """
    place.device.use()
    training = Training(run, place.device, place.registry, place.micro_batch)
    try:
        return _trained(training, place, supervisor)
    finally:
        training.batches.close()


def _trained(training: "Training", place: Place, supervisor: Supervisor) -> Finished:
    run = training.run
    if place.resume is not None:
        training.resume(place)
    forget(place.folder, keep=place.resume)
    saved_at = time.monotonic()
    while training.step < run.steps:
        loss = training.update()
        step = training.step
        if _is_logged(step, run.steps):
            _measure(run, supervisor, step, loss)
        wish = supervisor.reached(step)
        if wish is Wish.STOP:
            raise Stopped
        due = wish is Wish.YIELD or time.monotonic() - saved_at >= place.checkpoint_seconds
        # A broken state is not worth a checkpoint. It goes on to the next logged step, where it fails: at the same step
        # in every repeat, whenever checkpoints fell due.
        if due and step < run.steps and training.is_finite():
            _checkpoint(training, place, supervisor)
            if wish is Wish.YIELD:
                raise Yielded
            saved_at = time.monotonic()
    if not training.is_finite():
        raise NotFinite(f"the weights after the last step, {run.steps:,}, are not finite")
    final = place.folder / "final"
    save(final, training.evaluated_weights(), training.facts())
    value = Value(TRAIN_LOSS, run.data.name, run.data.split, run.image_size, float(loss))
    return Finished((value,), final, training.mixed_numerics, training.batches.certificate)


class Training:
    """All that changes while a network is trained, and nothing that could be worked out again."""

    def __init__(
        self, run: Train, device: Device, registry: Registry = BUILT_IN_ONLY, micro_batch: int | None = None
    ) -> None:
        """micro_batch: images of a step on the device at a time, as many as divide the batch; None is all."""
        recipe = run.recipe
        self.micro_batch = micro_batch_of(recipe.batch, micro_batch)
        self.run = run
        self.device = device
        self.step = 0
        self.mixed_numerics = False
        network = build(
            run.model,
            image_size=run.image_size,
            channels=run.data.channels,
            classes=run.data.classes,
            dropout=recipe.dropout,
            stochastic_depth=recipe.stochastic_depth,
            head_bias=recipe.head_bias,
            seed=run.seed,
        )
        self.network = network.to(device.torch).train()
        self.optimizer = Optimizer(self.network, recipe, compiled=device.compiles)
        self.average = None if recipe.polyak is None else Average(self.network, recipe.polyak)
        self.batches = Batches(run, device, registry)
        # Zeros of the optimizer that were only recorded would make the first step another program than the others.
        device.end_step()

    def update(self) -> Tensor:
        """Do one step; the loss before it stays on the device."""
        run, recipe = self.run, self.run.recipe
        image_BCHW, target = self.batches.at(self.step)
        parts = recipe.batch // self.micro_batch
        losses = []
        for part, (image, wanted) in enumerate(zip(image_BCHW.chunk(parts), target.chunk(parts), strict=True)):
            if recipe.dropout or recipe.stochastic_depth:
                self.device.seed(_dropout_seed(run.seed, self.step, part))
            with self.device.autocast(recipe.precision):
                logits_BK = self.network(image)
            loss = loss_of(logits_BK, wanted, recipe) / parts  # gradients add up, and parts are equal
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            if parts > 1:
                self.device.end_step()
        self.optimizer.update(recipe.lr_at(self.step, run.steps))
        if self.average is not None:
            self.average.update()
        self.device.end_step()
        self.step += 1
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name: no copies."""
        return _named("model", {name: parameter.detach() for name, parameter in self.network.named_parameters()})

    def evaluated_weights(self) -> dict[str, Tensor]:
        """What the training is for, by the same names: their average where the recipe asks for one. No copies."""
        return self.weights() if self.average is None else _named("model", self.average.weights)

    def state(self) -> dict[str, Tensor]:
        """Weights, optimizer and average: no copies. The order of the data, rate and dropout follow from the step."""
        averages = {} if self.average is None else _named("average", self.average.weights)
        return self.weights() | _named("optimizer", self.optimizer.state()) | averages

    def is_finite(self) -> bool:
        """No number of the state is NaN or infinite."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.state().values()]).all())

    def facts(self) -> Facts:
        """What a checkpoint of this moment says about itself."""
        return Facts(
            run=key_of(self.run),
            training=canonical(self.run),
            step=self.step,
            numerics=self.numerics,
            mixed_numerics=self.mixed_numerics,
        )

    @property
    def numerics(self) -> str:
        """The device's class, and the parts in which a batch is added up."""
        whole = self.micro_batch == self.run.recipe.batch
        return self.device.numerics if whole else f"{self.device.numerics} micro-batch={self.micro_batch}"

    def resume(self, place: Place) -> None:
        """Become what the checkpoint holds. Raises CheckpointError and OtherNumerics."""
        assert place.resume is not None
        tensors, facts = load(place.resume)
        if facts.run != key_of(self.run):
            raise CheckpointError(f"{place.resume} belongs to the run {facts.run[:12]}, not to {key_of(self.run)[:12]}")
        if not 0 < facts.step < self.run.steps:
            raise CheckpointError(f"{place.resume} is at step {facts.step:,}, and the run has {self.run.steps:,} steps")
        state = self.state()
        expected = {name: tensor.shape for name, tensor in state.items()}
        if {name: tensor.shape for name, tensor in tensors.items()} != expected:
            raise CheckpointError(f"{place.resume} holds tensors of other names or shapes than the run has")
        other = facts.numerics != self.numerics
        if other and not place.any_numerics:
            raise OtherNumerics(
                f"the checkpoint of step {facts.step:,} is of another numerics class, and to go on would change bits;"
                f" ask for it with --any-numerics. It is of '{facts.numerics}', this place is '{self.numerics}'"
            )
        for name, tensor in state.items():
            tensor.copy_(tensors[name])
        self.step = facts.step
        self.optimizer.set_step(facts.step)
        self.device.end_step()
        self.mixed_numerics = facts.mixed_numerics or other


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _is_logged(step: int, steps: int) -> bool:
    return step == steps or step % math.ceil(steps / LOGGED_STEPS) == 0


def _measure(run: Train, supervisor: Supervisor, step: int, loss: Tensor) -> None:
    """Raise NotFinite for a loss that is no finite number, once it is measured."""
    loss_nats = float(loss)
    supervisor.measure(step, {TRAIN_LOSS: loss_nats, "lr": run.recipe.lr_at(step - 1, run.steps)})
    if not math.isfinite(loss_nats):
        raise NotFinite(f"the training loss at step {step:,} of {run.steps:,} is {loss_nats}")


def _checkpoint(training: Training, place: Place, supervisor: Supervisor) -> None:
    """Save, make it current, and only then delete what was current before."""
    folder = step_folder(place.folder, training.step)
    save(folder, training.state(), training.facts())
    supervisor.checkpointed(folder, training.step)
    forget(place.folder, keep=folder)


def _dropout_seed(seed: int, step: int, part: int) -> int:
    """63 bits: torch's generators differ in how they take larger or negative seeds."""
    named = f"dropout/{seed}/{step}" + (f"/{part}" if part else "")
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:8], "little") >> 1
