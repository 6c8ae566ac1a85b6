"""Trains a network: from its initialization or a checkpoint to its final weights, the same bits however often it stops.

B = batch, C = channels, H, W = pixels, K = classes. An update counts as a step once it is done:
the run begins at step 0 and ends at step `run.steps`.
"""

import hashlib
import math
import time

import torch
from torch import Tensor

from studies.definitions import AnyTraining, Train, canonical, key_of
from studies.memory import micro_batch_of
from studies.metrics import TRAIN_LOSS
from studies.registry import BUILT_IN_ONLY, Registry
from workers.averaging import Average
from workers.checkpoints import Facts, forget, save, step_folder
from workers.data.batches import Batches
from workers.devices import Device
from workers.final import is_trunk, prefixed, trunk_tensors
from workers.models.build import AnyNetwork
from workers.objectives import made_trainable, part_loss, parts_of
from workers.optimization import Optimizer
from workers.starting import State, first_network, start_of
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
from workers.watching import Found, best_of, check_watches, due, look, measurements, results

LOGGED_STEPS = 50
"""Steps of a training at which its loss is measured, about."""


def train(run: AnyTraining, place: Place, supervisor: Supervisor) -> Finished:
    """Train to the end, and leave the weights in the attempt's folder; of a trunk, all of its state.

    A resumed training gives the bits of an unbroken one, in one numerics class, and so does one that starts from its
    trunk, `place.upstream`. No value of the device is read on the host but at logged steps, which the definition alone
    decides, for watches and for checkpoints. At the last step a wish to yield is not granted: the run is over as soon
    as it could be saved.

    Raises Yielded and Stopped as the supervisor wishes, NotFinite at the first logged step whose loss is no finite
    number or when the weights are broken at a watched step or the last, CheckpointError and OtherNumerics when
    `place.resume` or `place.upstream` cannot be gone on from, ValueError when a pre-trained network is not made for the
    run or the run's for a watch, and DataError when the images are not those that the run names.
    """
    place.device.use()
    check_watches(run, place.registry)
    start = start_of(run, place)
    training = Training(run, place.device, place.registry, place.micro_batch, start.network)
    try:
        training.mixed_numerics = start.mixed_numerics
        if start.state is not None:
            training.become(start.state, any_numerics=place.any_numerics)
        return _trained(training, place, supervisor)
    finally:
        training.batches.close()


def _trained(training: "Training", place: Place, supervisor: Supervisor) -> Finished:
    run = training.run
    forget(place.folder, keep=place.resume)
    saved_at = time.monotonic()
    found: Found = {}
    while training.step < run.steps:
        loss = training.update()
        step = training.step
        if _is_logged(step, run.steps):
            _measure(run, supervisor, step, loss)
        if due(run, step):
            found = _watch(training, place, supervisor)
        wish = supervisor.reached(step)
        if wish is Wish.STOP:
            raise Stopped
        due_now = wish is Wish.YIELD or time.monotonic() - saved_at >= place.checkpoint_seconds
        # A broken state is not worth a checkpoint. It goes on to the next logged step, where it fails: at the same step
        # in every repeat, whenever checkpoints fell due.
        if due_now and step < run.steps and training.is_finite():
            _checkpoint(training, place, supervisor)
            if wish is Wish.YIELD:
                raise Yielded
            saved_at = time.monotonic()
    if not training.is_finite():
        raise NotFinite(f"the weights after the last step, {run.steps:,}, are not finite")
    best = training.best
    if best is not None and best.step < run.steps:
        # What is left is older than what was measured last.
        found = look(run, list(run.watches), best.weights, run.steps, place, supervisor)
    final = place.folder / "final"
    save(final, training.left(), training.facts())
    value = Value(TRAIN_LOSS, run.data.name, run.data.split, run.image_size, float(loss))
    values = (value, *results(found, best))
    return Finished(values, final, training.mixed_numerics, training.batches.certificate)


class Training:
    """All that changes while a network is trained, and nothing that could be worked out again."""

    def __init__(
        self,
        run: AnyTraining,
        device: Device,
        registry: Registry = BUILT_IN_ONLY,
        micro_batch: int | None = None,
        network: AnyNetwork | None = None,
    ) -> None:
        """micro_batch: images of a step on the device at a time, as many as divide the batch; None is all.

        network: what the training begins with; None is the initialization, which a fine-tuning has none of.
        """
        recipe = run.recipe
        self.micro_batch = micro_batch_of(recipe.batch, micro_batch)
        self.run = run
        self.device = device
        self.step = 0
        self.mixed_numerics = False
        if network is None:
            assert isinstance(run, Train)
            network = first_network(run)
        self.network = made_trainable(network.to(device.torch), run)
        self.optimizer = Optimizer(self.network, recipe, compiled=device.compiles)
        self.average = None if recipe.polyak is None else Average(self.network, recipe.polyak)
        self.best = best_of(run, self._weights())
        self.batches = Batches(run, device, registry)
        # Zeros of the optimizer that were only recorded would make the first step another program than the others.
        device.end_step()

    def update(self) -> Tensor:
        """Do one step; the loss before it stays on the device."""
        run, recipe = self.run, self.run.recipe
        number = recipe.batch // self.micro_batch
        parts = parts_of(run, self.step, self.batches.at(self.step), number=number, device=self.device)
        losses = []
        for index, part in enumerate(parts):
            if recipe.dropout or recipe.stochastic_depth:
                self.device.seed(_dropout_seed(run.seed, self.step, index))
            loss = part_loss(self.network, run, part, self.device) / number  # gradients add up, and parts are equal
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            if number > 1:
                self.device.end_step()
        self.optimizer.update(recipe.lr_at(self.step, run.steps))
        if self.average is not None:
            self.average.update()
        self.device.end_step()
        self.step += 1
        return losses[0] if number == 1 else torch.stack(losses).sum()

    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by name: no copies."""
        return prefixed("model", self._weights())

    def evaluated_weights(self) -> dict[str, Tensor]:
        """What the training is for, by the same names: their average where the recipe asks for one. No copies."""
        return prefixed("model", self.evaluated())

    def evaluated(self) -> dict[str, Tensor]:
        """The same by the network's own names."""
        return self._weights() | (self.average.weights if self.average is not None else {})

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """Weights, optimizer, average and best weights: no copies. Order of the data, rate and dropout follow from the
        step.
        """
        best = {} if self.best is None else prefixed("best", self.best.state())
        return self._state_on_device() | best

    def _state_on_device(self) -> dict[str, Tensor]:
        averages = {} if self.average is None else prefixed("average", self.average.weights)
        return self.weights() | prefixed("optimizer", self.optimizer.state()) | averages

    def left(self) -> dict[str, Tensor]:
        """What the final checkpoint holds: the weights to evaluate; of a trunk, all of its state. No copies."""
        if is_trunk(self.run):
            return trunk_tensors(self.state())
        return prefixed("model", self.evaluated() if self.best is None else self.best.weights)

    def is_finite(self) -> bool:
        """No number of the state is NaN or infinite; best weights were when they were kept."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self._state_on_device().values()]).all())

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

    def become(self, read: State, *, any_numerics: bool) -> None:
        """Go on from what a checkpoint holds. Raises CheckpointError and OtherNumerics."""
        state = self.state()
        expected = {name: tensor.shape for name, tensor in state.items()}
        if {name: tensor.shape for name, tensor in read.tensors.items()} != expected:
            raise CheckpointError(f"{read.folder} holds tensors of other names or shapes than the run has")
        other = read.numerics != self.numerics
        if other and not any_numerics:
            raise OtherNumerics(
                f"the checkpoint of step {read.step:,} is of another numerics class, and to go on would change bits;"
                f" ask for it with --any-numerics. It is of '{read.numerics}', this place is '{self.numerics}'"
            )
        for name, tensor in state.items():
            tensor.copy_(read.tensors[name])
        self.step = read.step
        self.optimizer.set_step(read.step)
        self.device.end_step()
        self.mixed_numerics = read.mixed_numerics or other


def _is_logged(step: int, steps: int) -> bool:
    return step == steps or step % math.ceil(steps / LOGGED_STEPS) == 0


def _measure(run: AnyTraining, supervisor: Supervisor, step: int, loss: Tensor) -> None:
    """Raise NotFinite for a loss that is no finite number, once it is measured."""
    loss_nats = float(loss)
    supervisor.measure(step, {TRAIN_LOSS: loss_nats, "lr": run.recipe.lr_at(step - 1, run.steps)})
    if not math.isfinite(loss_nats):
        raise NotFinite(f"the training loss at step {step:,} of {run.steps:,} is {loss_nats}")


def _watch(training: Training, place: Place, supervisor: Supervisor) -> Found:
    """Measure what is due after this step, and keep the best. Raises NotFinite where there is nothing to measure."""
    run, step = training.run, training.step
    if not training.is_finite():
        raise NotFinite(f"the weights after step {step:,} of {run.steps:,} are not finite")
    weights = training.evaluated()
    found = look(run, due(run, step), weights, step, place, supervisor)
    supervisor.measure(step, measurements(found))
    if training.best is not None:
        training.best.offer(step, found, weights)
    return found


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
