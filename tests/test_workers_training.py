"""Trainings: they learn, stop and go on with the same bits, fail where they should, and order their checkpoints."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.augmentations import AUGMENTATIONS
from studies.definitions import SGD, Adafactor, AdamW, Train, key_of
from studies.metrics import TRAIN_LOSS
from tests.small_trainings import CPU, FAMILIES, Recorder, final_bits, place_in, training_of
from workers.checkpoints import load, load_facts, save, step_folder
from workers.data.batches import Batches
from workers.perform import perform
from workers.supervision import (
    CheckpointError,
    NotFinite,
    OtherNumerics,
    Place,
    Stopped,
    Wish,
    Yielded,
)
from workers.training import Training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns_one_batch_by_heart(family: str, precision: str) -> None:
    run = training_of(150, model=FAMILIES[family], rows=20, precision=precision, clip_norm=None, weight_decay=0.0)
    CPU.use()
    training = Training(run, CPU)
    losses = [float(training.update()) for _ in range(run.steps)]
    assert losses[0] == pytest.approx(math.log(10), rel=1e-3)  # a head of zeros: equal odds
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": AdamW(), "dropout": 0.2, "augmentation": AUGMENTATIONS["strong2"]},
        {"optimizer": SGD(momentum=0.9), "lr_peak": 0.1, "dropout": 0.2},
        {"optimizer": SGD(momentum=0.0), "lr_peak": 0.1, "clip_norm": None, "schedule": "linear"},
        {
            "optimizer": AdamW(),
            "precision": "bf16",
            "loss": "sigmoid",
            "label_smoothing": 0.1,
            "augmentation": AUGMENTATIONS["shift"],
        },
        {"optimizer": AdamW(momentum_precision="bf16"), "head_weight_decay": 3.0},
        {"optimizer": SGD(momentum_precision="bf16"), "lr_peak": 0.1, "schedule": {"kind": "steps", "at": [0.5]}},
        {
            "optimizer": Adafactor(factored_from=8),
            "schedule": {"kind": "rsqrt", "timescale": 2, "cooldown_steps": 3},
            "loss": "sigmoid",
            "head_bias": -10.0,
        },
        {"optimizer": AdamW(), "polyak": 0.9, "schedule": "constant"},
        {"optimizer": Adafactor(), "polyak": 0.5, "dropout": 0.1, "precision": "bf16"},
    ],
    ids=[
        "adamw",
        "sgd",
        "sgd without momentum",
        "bf16",
        "adamw with a bf16 moment",
        "sgd with a bf16 moment",
        "adafactor",
        "polyak",
        "adafactor and polyak",
    ],
)
def test_a_training_stopped_at_any_step_goes_on_to_the_same_bits(recipe: dict[str, Any], tmp_path: Path) -> None:
    run = training_of(9, **recipe)
    whole = Recorder()
    unbroken = perform(run, place_in(tmp_path / "unbroken"), whole)
    for stop in range(1, run.steps):
        first, second = Recorder(Wish.YIELD, at=stop), Recorder()
        attempt = tmp_path / f"first{stop}"
        with pytest.raises(Yielded):
            perform(run, place_in(attempt), first)
        torch.rand(3)  # whatever else draws from torch's own generator meanwhile
        resumed = perform(run, place_in(tmp_path / f"second{stop}", resume=first.current), second)
        assert unbroken.checkpoint is not None
        assert resumed.checkpoint is not None
        assert final_bits(resumed.checkpoint) == final_bits(unbroken.checkpoint)
        assert resumed.values == unbroken.values
        assert first.measured | second.measured == whole.measured
        assert first.steps + second.steps == whole.steps


@given(stops=st.sets(st.integers(1, 11)), family=st.sampled_from(["resnet", "hybrid"]))
@settings(max_examples=5, deadline=None)
def test_a_training_stopped_again_and_again_goes_on_to_the_same_state(stops: set[int], family: str) -> None:
    run = training_of(12, model=FAMILIES[family], augmentation=AUGMENTATIONS["shift"])
    CPU.use()
    unbroken = Training(run, CPU)
    current = Training(run, CPU)
    for step in range(run.steps):
        if step in stops:
            state = {name: tensor.clone() for name, tensor in current.state().items()}
            current = Training(run, CPU)
            for name, tensor in current.state().items():
                tensor.copy_(state[name])
            current.step = step
            current.optimizer.set_step(step)
        unbroken.update()
        current.update()
    for name, tensor in unbroken.state().items():
        assert torch.equal(tensor, current.state()[name]), name


def test_the_seed_decides_the_bits_and_the_attempt_does_not(tmp_path: Path) -> None:
    bits = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finished = perform(training_of(5, seed=seed), place_in(tmp_path / name), Recorder())
        assert finished.checkpoint is not None
        bits[name] = final_bits(finished.checkpoint)
        (value,) = finished.values
        assert (value.metric, value.dataset, value.split, value.image_size) == (TRAIN_LOSS, "digits", "train", 8)
    assert load(tmp_path / "a/final")[0].keys() == load(tmp_path / "c/final")[0].keys()
    tensors = {name: load(tmp_path / name / "final")[0] for name in bits}
    same = {
        other: all(torch.equal(tensors["a"][name], tensors[other][name]) for name in tensors["a"])
        for other in ("b", "c")
    }
    assert same == {"b": True, "c": False}


def test_the_final_checkpoint_holds_the_weights_alone_and_the_definition(tmp_path: Path) -> None:
    run = training_of(3)
    finished = perform(run, place_in(tmp_path), Recorder())
    assert finished.checkpoint == tmp_path / "final"
    tensors, facts = load(tmp_path / "final")
    assert all(name.startswith("model.") for name in tensors)
    assert (facts.run, facts.step, facts.numerics) == (key_of(run), 3, CPU.numerics)
    assert Train.model_validate_json(facts.training) == run


def test_what_is_kept_and_evaluated_is_the_average_of_the_weights(tmp_path: Path) -> None:
    run = training_of(4, polyak=0.75)
    perform(run, place_in(tmp_path), Recorder())
    training = Training(run, CPU)
    averages = {name: tensor.double() for name, tensor in training.weights().items()}
    for _ in range(run.steps):
        training.update()
        for name, tensor in training.weights().items():
            averages[name] = 0.75 * averages[name] + 0.25 * tensor
    tensors, _ = load(tmp_path / "final")
    assert tensors.keys() == averages.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor.double(), averages[name], atol=1e-7, rtol=1e-5)
        assert torch.equal(tensor, training.evaluated_weights()[name])
    assert not torch.equal(tensors["model.head.weight"], training.weights()["model.head.weight"])


def test_an_average_changes_no_step(tmp_path: Path) -> None:
    losses = []
    for polyak in (None, 0.9):
        recorder = Recorder()
        perform(training_of(6, polyak=polyak), place_in(tmp_path / str(polyak)), recorder)
        losses.append(recorder.measured)
    assert losses[0] == losses[1]


def test_an_average_that_is_not_finite_is_a_broken_state() -> None:
    training = Training(training_of(3, polyak=0.9), CPU)
    training.update()
    assert training.is_finite()
    assert training.average is not None
    training.average.weights["head.bias"][0] = math.nan
    assert not training.is_finite()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sigmoid_loss_begins_where_the_bias_of_the_head_puts_it(family: str) -> None:
    runs = [training_of(3, model=FAMILIES[family], loss="sigmoid", head_bias=bias) for bias in (0.0, -10.0)]
    plain, biased = (Training(run, CPU) for run in runs)
    head = {"hybrid": "model.vit.head.bias"}.get(family, "model.head.bias")
    assert torch.equal(biased.weights()[head], torch.full((10,), -10.0))
    for name, tensor in plain.weights().items():
        assert name == head or torch.equal(tensor, biased.weights()[name])
    assert float(plain.update()) == pytest.approx(10 * math.log(2))
    # One class of ten is there, at odds of exp(-10), and nine are not.
    assert float(biased.update()) == pytest.approx(10 + 10 * math.log1p(math.exp(-10)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_batch_in_parts_gives_the_losses_of_a_whole_one_within_rounding(family: str, loss: str) -> None:
    # 1 x 64 and 2 x 32: sums are rounded in another order, so 5 steps agree to 1e-4 of each loss and not to the bit.
    run = training_of(5, model=FAMILIES[family], batch=64, rows=200, loss=loss, augmentation={"mixup": 0.2})
    CPU.use()
    whole, parts = Training(run, CPU), Training(run, CPU, micro_batch=32)
    expected = [float(whole.update()) for _ in range(run.steps)]
    assert [float(parts.update()) for _ in range(run.steps)] == pytest.approx(expected, rel=1e-4)
    assert expected[0] != expected[-1]


@pytest.mark.parametrize(("most", "part"), [(None, 20), (64, 20), (20, 20), (19, 10), (9, 5), (3, 2), (1, 1)])
def test_parts_of_a_batch_are_equal_and_no_larger_than_asked_for(most: int | None, part: int) -> None:
    assert Training(training_of(3), CPU, micro_batch=most).micro_batch == part


def test_a_training_in_parts_resumes_to_the_same_bits_in_the_same_parts_alone(tmp_path: Path) -> None:
    run = training_of(6, dropout=0.2)
    unbroken = perform(run, place_in(tmp_path / "unbroken", micro_batch=10), Recorder())
    first = Recorder(Wish.YIELD, at=3)
    with pytest.raises(Yielded):
        perform(run, place_in(tmp_path / "first", micro_batch=10), first)
    resumed = perform(run, place_in(tmp_path / "second", resume=first.current, micro_batch=10), Recorder())
    assert unbroken.checkpoint is not None
    assert resumed.checkpoint is not None
    assert final_bits(resumed.checkpoint) == final_bits(unbroken.checkpoint)
    with pytest.raises(OtherNumerics, match="micro-batch=10', this place is"):
        perform(run, place_in(tmp_path / "third", resume=first.current), Recorder())


def test_losses_and_rates_are_measured_at_about_fifty_steps_and_the_last(tmp_path: Path) -> None:
    run = training_of(203)
    recorder = Recorder()
    finished = perform(run, place_in(tmp_path), recorder)
    assert list(recorder.measured) == [*range(5, 203, 5), 203]
    assert recorder.measured[203][TRAIN_LOSS] == finished.values[0].value
    assert recorder.measured[5]["lr"] == run.recipe.lr_at(4, 203)
    assert recorder.steps == list(range(1, 204))


def test_an_old_checkpoint_goes_only_when_the_new_one_is_current(tmp_path: Path) -> None:
    recorder = Recorder()
    perform(training_of(5), place_in(tmp_path, checkpoint_seconds=0), recorder)
    assert recorder.earlier_seen == [True] * 3
    # The last one stays until the result is committed: the run can still be gone on from it.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-00000004"]


def test_a_short_training_writes_no_checkpoint_but_its_last(tmp_path: Path) -> None:
    recorder = Recorder()
    perform(training_of(5), place_in(tmp_path, checkpoint_seconds=100), recorder)
    assert recorder.current is None
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_run_that_is_stopped_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        perform(training_of(5), place_in(tmp_path), Recorder(Wish.STOP, at=3))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_at_its_last_step_finishes_rather_than_yields(tmp_path: Path) -> None:
    assert perform(training_of(5), place_in(tmp_path), Recorder(Wish.YIELD, at=5)).checkpoint == tmp_path / "final"


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 100.0])
def test_a_diverged_training_is_measured_and_fails_at_the_same_step_each_time(
    checkpoint_seconds: float, tmp_path: Path
) -> None:
    # 101 steps are logged at each third, whatever the clock says.
    run = training_of(101, optimizer=SGD(), lr_peak=1e30, clip_norm=None)
    recorder = Recorder()
    with pytest.raises(NotFinite, match="the training loss at step 3 of 101 is nan"):
        perform(run, place_in(tmp_path, checkpoint_seconds=checkpoint_seconds), recorder)
    assert math.isnan(recorder.measured[3][TRAIN_LOSS])
    assert not (tmp_path / "final").exists()
    if recorder.current is not None:
        assert all(bool(tensor.isfinite().all()) for tensor in load(recorder.current)[0].values())


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path: Path) -> None:
    run = training_of(1, optimizer=SGD(), lr_peak=3e38, clip_norm=None, warmup_steps=0, weight_decay=1e10)
    with pytest.raises(NotFinite, match="the weights after the last step, 1, are not finite"):
        perform(run, place_in(tmp_path), Recorder())


@pytest.fixture
def yielded(tmp_path: Path) -> tuple[Train, Path]:
    run, recorder = training_of(6), Recorder(Wish.YIELD, at=3)
    with pytest.raises(Yielded):
        perform(run, place_in(tmp_path / "yielded"), recorder)
    assert recorder.current == step_folder(tmp_path / "yielded", 3)
    return run, recorder.current


def test_another_numerics_class_goes_on_only_when_asked_to_and_says_so_ever_after(
    yielded: tuple[Train, Path], tmp_path: Path
) -> None:
    run, folder = yielded
    two_threads = replace(CPU, threads=2)
    with pytest.raises(OtherNumerics, match=r"threads=1 .* this place is .* threads=2"):
        perform(run, Place(two_threads, tmp_path / "b", resume=folder), Recorder())
    recorder = Recorder(Wish.YIELD, at=4)
    with pytest.raises(Yielded):
        perform(run, Place(two_threads, tmp_path / "b", resume=folder, any_numerics=True), recorder)
    finished = perform(run, Place(two_threads, tmp_path / "c", resume=recorder.current), Recorder())
    assert finished.mixed_numerics
    assert load_facts(tmp_path / "c/final").mixed_numerics
    assert not perform(run, place_in(tmp_path / "d", resume=folder), Recorder()).mixed_numerics


def test_a_checkpoint_of_another_run_or_another_shape_is_refused(yielded: tuple[Train, Path], tmp_path: Path) -> None:
    run, folder = yielded
    with pytest.raises(CheckpointError, match="belongs to the run"):
        perform(run.model_copy(update={"seed": 1}), place_in(tmp_path / "b", resume=folder), Recorder())
    tensors, facts = load(folder)
    tensors.pop("model.head.bias")
    save(tmp_path / "fewer", tensors, facts)
    with pytest.raises(CheckpointError, match="tensors of other names or shapes"):
        perform(run, place_in(tmp_path / "b", resume=tmp_path / "fewer"), Recorder())
    save(tmp_path / "beyond", tensors, facts.model_copy(update={"step": 6}))
    with pytest.raises(CheckpointError, match="is at step 6, and the run has 6 steps"):
        perform(run, place_in(tmp_path / "b", resume=tmp_path / "beyond"), Recorder())
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        perform(run, place_in(tmp_path / "b", resume=tmp_path / "nowhere"), Recorder())


def test_a_retry_in_the_folder_of_a_killed_attempt_clears_it_but_for_its_checkpoint(
    yielded: tuple[Train, Path],
) -> None:
    run, folder = yielded
    for leftover in ("step-00000005", "step-00000006.writing", "final", "final.writing"):
        (folder.parent / leftover).mkdir()
    finished = perform(run, place_in(folder.parent, resume=folder, checkpoint_seconds=0), Recorder())
    assert finished.checkpoint == folder.parent / "final"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["final", "step-00000005"]


# ------------------------------------------------------------------------------------------------------- batches


def test_a_shifted_image_is_the_image_moved_and_filled_with_the_darkest_value() -> None:
    image, label = Batches(training_of(3, rows=20), CPU).at(1)
    moved, moved_label = Batches(training_of(3, rows=20, augmentation="shift"), CPU).at(1)
    assert torch.equal(label, moved_label)
    found = set()
    for before, after in zip(image, moved, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1), value=-1.0)
        windows = {(y, x): padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
        (shift,) = [shift for shift, window in windows.items() if torch.equal(window, after)]
        found.add(shift)
    assert len(found) > 3


def test_mixup_blends_images_and_labels_alike_and_keeps_at_least_half() -> None:
    image, label = Batches(training_of(3), CPU).at(2)
    mixed, share_BK = Batches(training_of(3, augmentation={"mixup": 0.8}), CPU).at(2)
    share = float(share_BK.gather(1, label[:, None]).min())
    assert 0.5 <= share < 1
    onehot = torch.nn.functional.one_hot(label, 10)
    torch.testing.assert_close(share_BK, share * onehot + (1 - share) * onehot.roll(1, 0))
    torch.testing.assert_close(mixed, share * image + (1 - share) * image.roll(1, 0))
    again = Batches(training_of(3, augmentation={"mixup": 0.8}), CPU)
    again.at(0)
    assert torch.equal(again.at(2)[0], mixed)


@pytest.mark.parametrize("optimizer", [AdamW(), Adafactor(factored_from=8)], ids=["adamw", "adafactor"])
def test_training_reads_no_value_of_the_device_between_logged_steps(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training_of(10, optimizer=optimizer, polyak=0.9, augmentation=AUGMENTATIONS["shift"], dropout=0.1)
    training = Training(run, CPU)
    training.update()

    def refuse(tensor: torch.Tensor) -> None:
        raise AssertionError("the host waits for the device")

    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for _ in range(5):
        training.update()
