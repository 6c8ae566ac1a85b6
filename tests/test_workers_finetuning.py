"""Fine-tunings: they go on from trained weights, stop and resume with the same bits, and refuse what does not fit."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from studies.datasets import DIGITS
from studies.definitions import SGD, AnyTraining, Evaluate, FineTune, Recipe, Train, key_of
from studies.metrics import ACCURACY, TRAIN_LOSS
from studies.models import Hybrid, MaskedPatch, fine_tuned
from tests.small_trainings import CPU, FAMILIES, RESNET, VIT, Recorder, bits_of, broken, place_in, training_of
from workers.checkpoints import load, save
from workers.data.batches import Batches
from workers.models.transfer import resized_positions
from workers.optimization import Optimizer
from workers.perform import perform
from workers.published.trained import export
from workers.starting import start_of
from workers.supervision import CheckpointError, Place
from workers.training import Training

DEEP = VIT.model_copy(update={"patch": 2, "depth": 2})
HYBRID = fine_tuned(Hybrid(body=RESNET, vit=VIT))
PRETRAINED = {
    **FAMILIES,
    "map": VIT.model_copy(update={"head": "map"}),
    "masked patches": MaskedPatch(vit=VIT.model_copy(update={"head": "token"})),
}
RECIPE = Recipe.model_validate(
    {
        "optimizer": SGD(momentum=0.9),
        "lr_peak": 0.03,
        "schedule": "cosine",
        "warmup_steps": 1,
        "weight_decay": 0.0,
        "batch": 20,
        "clip_norm": 1.0,
    }
)


def tuning_of(upstream: Train, steps: int = 6, *, image_size: int = 8, **fields: Any) -> FineTune:
    """A fine-tuning on other digits; what is no field of a fine-tuning is one of its recipe."""
    own = {name: fields.pop(name) for name in ("trained", "model", "data") if name in fields}
    recipe = Recipe.model_validate({**RECIPE.model_dump(), **fields})
    named = {"model": fine_tuned(upstream.model), "data": DIGITS.take("validation", 60), **own}
    return FineTune(
        upstream=key_of(upstream), image_size=image_size, recipe=recipe, examples=steps * recipe.batch, seed=3, **named
    )


def pretrained(folder: Path, model: Any = VIT, steps: int = 8, rows: int = 50) -> tuple[Train, Path]:
    run = training_of(steps, model=model, rows=rows)
    finished = perform(run, place_in(folder / "pretraining"), Recorder())
    assert finished.checkpoint is not None
    return run, finished.checkpoint


def begun(run: AnyTraining, place: Place) -> Training:
    """The training before its first step."""
    CPU.use()
    return Training(run, CPU, network=start_of(run, place).network)


@pytest.mark.parametrize("family", PRETRAINED)
def test_each_family_goes_on_from_trained_weights_under_a_head_of_zeros(family: str, tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path, PRETRAINED[family])
    run = tuning_of(upstream, 40, lr_peak=0.3)
    training = begun(run, place_in(tmp_path, upstream=checkpoint))
    before, inside = load(checkpoint)[0], "model.vit." if family == "masked patches" else "model."
    for name, tensor in training.weights().items():
        if "head." in name:
            assert not tensor.any()
        else:
            assert torch.equal(tensor, before[name.replace("model.", inside)]), name
    losses = [float(training.update()) for _ in range(run.steps)]
    assert losses[0] == pytest.approx(math.log(10), rel=1e-3)
    assert losses[-1] < 0.9 * losses[0]


def test_it_learns_images_of_another_size_and_is_evaluated_like_any_training(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path, DEEP, steps=150, rows=500)
    run = tuning_of(upstream, 60, image_size=12, lr_peak=0.1, data=DIGITS.take("validation"))
    training = begun(run, place_in(tmp_path, upstream=checkpoint))
    table_TD = load(checkpoint)[0]["model.position_TD"]
    assert torch.equal(training.weights()["model.position_TD"], resized_positions(table_TD, (4, 4), (6, 6)))
    finished = perform(run, place_in(tmp_path / "tuning", upstream=checkpoint), Recorder())
    (value,) = finished.values
    assert (value.metric, value.dataset, value.split, value.image_size) == (TRAIN_LOSS, "digits", "validation", 12)
    measure = Evaluate(upstream=key_of(run), data=DIGITS.take("test", 200), image_size=12)
    values = perform(measure, place_in(tmp_path, upstream=finished.checkpoint), Recorder()).values
    (accuracy,) = [value.value for value in values if value.metric == ACCURACY]
    assert accuracy is not None
    assert accuracy > 0.4


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"polyak": 0.9, "image_size": 12, "augmentation": {"crop": {"kind": "shift"}, "mixup": 0.1}, "dropout": 0.1},
        {"schedule": {"kind": "steps", "at": [0.3, 0.6, 0.9]}, "clip_norm": None, "precision": "bf16"},
        {"trained": "head", "polyak": 0.5, "optimizer": SGD(momentum_precision="bf16")},
    ],
    ids=["vit", "larger images, polyak and mixup", "bit", "head"],
)
def test_a_fine_tuning_stopped_at_any_step_goes_on_to_the_same_bits_without_its_pretraining(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    upstream, checkpoint = pretrained(tmp_path, DEEP)
    run = tuning_of(upstream, **fields)
    whole = Recorder()
    unbroken = perform(run, place_in(tmp_path / "unbroken", upstream=checkpoint), whole)
    stops = [broken(run, at, tmp_path / f"first{at}", upstream=checkpoint) for at in range(1, run.steps)]
    shutil.rmtree(checkpoint)
    for folder, first in stops:
        second = Recorder()
        resumed = perform(run, place_in(tmp_path / f"second{folder.name}", resume=folder, upstream=checkpoint), second)
        assert bits_of(resumed) == bits_of(unbroken)
        assert resumed.values == unbroken.values
        assert first.measured | second.measured == whole.measured


# ------------------------------------------------------------------------------------------------------ linear probe


@pytest.mark.parametrize("family", PRETRAINED)
def test_a_probe_leaves_every_bit_of_the_body_and_computes_no_gradient_there(family: str, tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path, PRETRAINED[family])
    run = tuning_of(upstream, trained="head", weight_decay=0.1, polyak=0.9, lr_peak=0.5)
    training = begun(run, place_in(tmp_path, upstream=checkpoint))
    before = {name: tensor.clone() for name, tensor in training.weights().items()}
    for _ in range(run.steps):
        training.update()
    for weights in (training.weights(), training.evaluated_weights()):
        assert {name for name in before if not torch.equal(weights[name], before[name])} == {
            name for name in before if name.endswith(("head.weight", "head.bias"))
        }
    kept = {name.removeprefix("momentum_buffer.") for name in training.optimizer.state()}
    assert {name for name, each in training.network.named_parameters() if each.requires_grad} == kept
    assert all(name.endswith(("head.weight", "head.bias")) for name in kept)


def test_a_probe_is_the_training_of_a_linear_layer_on_features_as_they_are_evaluated(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path, DEEP)
    run = tuning_of(upstream, 5, trained="head", weight_decay=0.1, lr_peak=0.5)
    training = begun(run, place_in(tmp_path, upstream=checkpoint))
    features = begun(run, place_in(tmp_path, upstream=checkpoint)).network.eval()
    layer = nn.Linear(VIT.width, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    head = nn.Sequential(layer)
    optimizer, batches = Optimizer(head, run.recipe), Batches(run, CPU)
    for step in range(run.steps):
        image_BCHW, label_B = batches.at(step)
        loss = nn.functional.cross_entropy(head(features.features(image_BCHW).detach()), label_B)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.update(run.recipe.lr_at(step, run.steps))
        assert float(training.update()) == pytest.approx(float(loss.detach()), rel=1e-6)
    torch.testing.assert_close(training.weights()["model.head.weight"], layer.weight.detach())


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_wrong_pretraining_is_refused_in_a_sentence(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path)
    run = tuning_of(upstream)
    with pytest.raises(CheckpointError, match="no checkpoint was given of the training"):
        perform(run, place_in(tmp_path / "a"), Recorder())
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        perform(run, place_in(tmp_path / "a", upstream=tmp_path / "nowhere"), Recorder())
    place = place_in(tmp_path / "a", upstream=checkpoint)
    with pytest.raises(CheckpointError, match="and the run stands on 000000000000"):
        perform(run.model_copy(update={"upstream": "0" * 64}), place, Recorder())
    tensors, facts = load(checkpoint)
    changes: dict[str, tuple[dict[str, object], str]] = {
        "renamed": ({"training": upstream.model_copy(update={"seed": 7}).model_dump_json()}, "its definition is of an"),
        "early": ({"step": 3}, "is at step 3 and not at the end of its training"),
        "unreadable": ({"training": "{}"}, "a definition that this code cannot read"),
    }
    for name, (change, message) in changes.items():
        save(tmp_path / name, tensors, facts.model_copy(update=change))
        with pytest.raises(CheckpointError, match=message):
            perform(run, place_in(tmp_path / "a", upstream=tmp_path / name), Recorder())
    save(tmp_path / "fewer", {"model.head.bias": tensors["model.head.bias"]}, facts)
    with pytest.raises(CheckpointError, match="other names or shapes"):
        perform(run, place_in(tmp_path / "a", upstream=tmp_path / "fewer"), Recorder())


def test_a_network_that_the_run_is_not_made_for_is_refused_in_a_sentence(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path)
    place = place_in(tmp_path / "a", upstream=checkpoint)
    wider = fine_tuned(VIT).model_copy(update={"width": 32})
    with pytest.raises(ValueError, match="of another architecture: fine-tuned, its width is 16, and the run has 32"):
        perform(tuning_of(upstream, model=wider), place, Recorder())
    with pytest.raises(ValueError, match=r"of another architecture: fine-tuned, its head is token, .* token-tanh"):
        perform(tuning_of(upstream, model=VIT), place, Recorder())
    with pytest.raises(ValueError, match=r"of another architecture: fine-tuned, its kind is vit, .* hybrid"):
        perform(tuning_of(upstream, model=HYBRID), place, Recorder())
    colored = DIGITS.take("validation", 60).model_copy(update={"channels": 3})
    with pytest.raises(ValueError, match="1 channels cannot see images of 3: choose another data set than digits"):
        perform(tuning_of(upstream, data=colored), place, Recorder())
    relative, checkpoint = pretrained(tmp_path / "relative", VIT.model_copy(update={"position": "relative"}), steps=3)
    with pytest.raises(ValueError, match="relative positions for images of 8 cannot see 12"):
        perform(tuning_of(relative, image_size=12), place_in(tmp_path / "a", upstream=checkpoint), Recorder())


def test_a_fine_tuning_stands_on_no_other(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path)
    first = tuning_of(upstream)
    finished = perform(first, place_in(tmp_path / "first", upstream=checkpoint), Recorder())
    second = first.model_copy(update={"upstream": key_of(first)})
    with pytest.raises(CheckpointError, match="a fine-tuning stands on a pre-training"):
        perform(second, place_in(tmp_path / "second", upstream=finished.checkpoint), Recorder())


def test_a_pretraining_of_mixed_numerics_is_remembered(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path)
    tensors, facts = load(checkpoint)
    save(tmp_path / "mixed", tensors, facts.model_copy(update={"mixed_numerics": True}))
    run = tuning_of(upstream)
    assert not perform(run, place_in(tmp_path / "a", upstream=checkpoint), Recorder()).mixed_numerics
    assert perform(run, place_in(tmp_path / "b", upstream=tmp_path / "mixed"), Recorder()).mixed_numerics
    folder, _ = broken(run, 2, tmp_path / "c", upstream=tmp_path / "mixed")
    assert perform(run, place_in(tmp_path / "d", resume=folder), Recorder()).mixed_numerics


def test_a_head_begins_at_its_bias_under_a_sigmoid_loss(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path)
    training = begun(tuning_of(upstream, loss="sigmoid", head_bias=-4.0), place_in(tmp_path, upstream=checkpoint))
    assert float(training.update()) == pytest.approx(4 + 10 * math.log1p(math.exp(-4)), rel=1e-5)


def test_a_fine_tuning_is_exported_and_a_masked_patch_model_says_that_it_has_no_counterpart(tmp_path: Path) -> None:
    upstream, checkpoint = pretrained(tmp_path, PRETRAINED["masked patches"], steps=3)
    with pytest.raises(ValueError, match="a masked-patch model, which timm has no counterpart for: export a fine-tun"):
        export(checkpoint, tmp_path / "masked.safetensors")
    finished = perform(tuning_of(upstream), place_in(tmp_path / "a", upstream=checkpoint), Recorder())
    assert finished.checkpoint is not None
    assert export(finished.checkpoint, tmp_path / "tuned.safetensors").startswith("vit_")
