"""Masked-patch pre-training: it learns what patches show, goes on with the same bits, and adds up in parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studies.datasets import DIGITS
from studies.definitions import Adafactor, FewShotWatch, Train, key_of
from studies.metrics import TRAIN_LOSS, fewshot_accuracy
from studies.models import MaskedPatch
from tests.small_trainings import CPU, VIT, Recorder, bits_of, broken, place_in, training_of
from workers.checkpoints import load
from workers.data.batches import Batches
from workers.models.build import build
from workers.models.masked import corruption_of
from workers.optimization import Optimizer
from workers.perform import perform
from workers.training import Training

TOKEN = VIT.model_copy(update={"head": "token", "patch": 2})
TARGETS = {
    "mean-color": MaskedPatch(vit=TOKEN),
    "small-colors": MaskedPatch(vit=TOKEN.model_copy(update={"patch": 4}), target="small-colors"),
    "pixels": MaskedPatch(vit=TOKEN, target="pixels", corrupted=0.3),
}


def masked(steps: int, target: str = "mean-color", **fields: Any) -> Train:
    return training_of(steps, model=TARGETS[target], **{"lr_peak": 3e-3, **fields})


def losses_of(update: Callable[[], Tensor], steps: int) -> list[float]:
    return [float(loss) for loss in [update() for _ in range(steps)]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_network_learns_what_is_under_the_patches(target: str, precision: str) -> None:
    run = masked(150, target, rows=1000, batch=50, precision=precision)
    CPU.use()
    losses = losses_of(Training(run, CPU).update, run.steps)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_step_is_that_of_a_loop_written_by_hand() -> None:
    run = masked(4)
    CPU.use()
    model, recipe = TARGETS["mean-color"], run.recipe
    network = build(model, image_size=8, channels=1, classes=10, seed=run.seed).train()
    optimizer, batches = Optimizer(network, recipe), Batches(run, CPU)
    expected = []
    for step in range(run.steps):
        image_BCHW, _ = batches.at(step)
        corruption = corruption_of(run.seed, step, batch=recipe.batch, patches=16, share=model.corrupted)
        loss = network.loss(network(image_BCHW, corruption), network.targets(image_BCHW, corruption))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.update(recipe.lr_at(step, run.steps))
        expected.append(float(loss.detach()))
    training = Training(run, CPU)
    assert losses_of(training.update, run.steps) == expected
    for name, parameter in network.named_parameters():
        assert torch.equal(training.weights()[f"model.{name}"], parameter.detach()), name


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("mean-color", {"dropout": 0.2, "polyak": 0.9}),
        ("small-colors", {"precision": "bf16"}),
        ("pixels", {"optimizer": Adafactor(), "augmentation": "shift"}),
    ],
)
def test_a_masked_training_stopped_at_any_step_goes_on_to_the_same_bits(
    target: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    run, whole = masked(5, target, **fields), Recorder()
    unbroken = perform(run, place_in(tmp_path / "unbroken"), whole)
    for at in range(1, run.steps):
        folder, first = broken(run, at, tmp_path / f"first{at}")
        second = Recorder()
        resumed = perform(run, place_in(tmp_path / f"second{at}", resume=folder), second)
        assert bits_of(resumed) == bits_of(unbroken)
        assert resumed.values == unbroken.values
        assert first.measured | second.measured == whole.measured


@pytest.mark.parametrize("target", TARGETS)
def test_a_masked_batch_in_parts_gives_the_losses_of_a_whole_one_within_rounding(target: str) -> None:
    run = masked(5, target, batch=64, rows=200)
    CPU.use()
    whole, parts = (losses_of(Training(run, CPU, micro_batch=most).update, run.steps) for most in (None, 16))
    assert parts == pytest.approx(whole, rel=1e-4)
    assert whole[0] != whole[-1]


def test_its_result_is_its_loss_and_a_few_shot_watch_reads_its_features(tmp_path: Path) -> None:
    watch = FewShotWatch(
        support=DIGITS.take("validation"),
        data=DIGITS.take("test", 200),
        image_size=8,
        shots=(5,),
        support_seeds=(0,),
        l2=(1.0,),
        every=2,
    )
    run = Train.model_validate({**masked(6).model_dump(), "watches": (watch,)})
    recorder = Recorder()
    finished = perform(run, place_in(tmp_path), recorder)
    found = {value.metric: value.value for value in finished.values}
    assert found[TRAIN_LOSS] == recorder.measured[6][TRAIN_LOSS]
    accuracy = found[fewshot_accuracy(5)]
    assert accuracy is not None
    assert accuracy > 0.2
    tensors, facts = load(tmp_path / "final")
    assert (facts.run, facts.step) == (key_of(run), 6)
    assert {"model.mask_1D", "model.predict.weight", "model.vit.cls_1D"} < tensors.keys()


def test_a_masked_training_reads_no_value_of_the_device_between_logged_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(masked(10, dropout=0.1), CPU)
    training.update()

    def refuse(tensor: Tensor) -> None:
        raise AssertionError("the host waits for the device")

    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, refuse)
    for _ in range(5):
        training.update()
