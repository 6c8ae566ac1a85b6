"""Watches: what they find, that they change nothing, and that the best weights are kept whatever stops a training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.augmentations import AUGMENTATIONS
from studies.datasets import DIGITS
from studies.definitions import SGD, Evaluate, FewShot, FewShotWatch, SplitWatch, Train, key_of
from studies.metrics import ACCURACY, BEST_STEP, LOSS, TRAIN_LOSS, fewshot_accuracy, watched
from studies.models import MaskedPatch
from studies.planned import watched_steps
from tests.small_trainings import CPU, FAMILIES, RESNET, VIT, Recorder, bits_of, broken, place_in, training_of
from workers.checkpoints import load
from workers.perform import perform
from workers.supervision import DataError, Finished, NotFinite, Stopped, Wish
from workers.training import Training
from workers.watching import due

DEEP = VIT.model_copy(update={"depth": 2, "patch": 2})
ROWS = 300
"""Of the test split: two batches, the second of which is not full."""


def split_watch(**fields: Any) -> SplitWatch:
    return SplitWatch.model_validate({"data": DIGITS.take("test", ROWS), "image_size": 8, **fields})


def fewshot_watch(**fields: Any) -> FewShotWatch:
    digits = {"support": DIGITS.take("validation"), "data": DIGITS.take("test", ROWS), "image_size": 8}
    return FewShotWatch.model_validate({**digits, "shots": (1, 5), "support_seeds": (0, 1), "l2": (1.0,), **fields})


def watching(run: Train, *watches: SplitWatch | FewShotWatch) -> Train:
    return Train.model_validate({**run.model_dump(), "watches": watches})


def restless(steps: int, **fields: Any) -> Train:
    """A training whose accuracy goes up and down, and whose first steps are those of any longer one."""
    rate = {"schedule": "constant", "optimizer": SGD(momentum=0.0), "lr_peak": 0.5, "clip_norm": None}
    return training_of(steps, **{**rate, "weight_decay": 0.0, **fields})


def values(finished: Finished) -> dict[str, float | None]:
    return {value.metric: value.value for value in finished.values}


@pytest.mark.parametrize(
    ("family", "recipe"),
    [
        ("vit", {"dropout": 0.3, "polyak": 0.9}),
        ("resnet", {"augmentation": AUGMENTATIONS["shift"], "precision": "bf16"}),
        ("hybrid", {"dropout": 0.1, "schedule": "linear", "augmentation": {"mixup": 0.2}}),
    ],
)
def test_a_training_that_is_watched_has_the_weights_of_one_that_is_not(
    family: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = training_of(7, model=FAMILIES[family], **recipe)
    alone, heard = Recorder(), Recorder()
    unseen = perform(run, place_in(tmp_path / "alone"), alone)
    watches: list[SplitWatch | FewShotWatch] = [
        split_watch(every=1),
        split_watch(every=3, image_size=16, data=DIGITS.take("validation", 50)),
        fewshot_watch(every=2),
    ]
    seen = perform(watching(run, *watches), place_in(tmp_path / "watched"), heard)
    assert bits_of(seen) == bits_of(unseen)
    for step, losses in alone.measured.items():
        assert losses.items() <= heard.measured[step].items()


@pytest.mark.parametrize("polyak", [None, 0.8])
def test_what_is_seen_on_the_way_is_what_an_evaluation_of_a_training_of_so_many_steps_finds(
    polyak: float | None, tmp_path: Path
) -> None:
    long = restless(9, model=DEEP, lr_peak=0.3, polyak=polyak)
    watches = (split_watch(every=4, image_size=12), fewshot_watch(every=4))
    recorder = Recorder()
    finished = perform(watching(long, *watches), place_in(tmp_path / "long"), recorder)
    short = restless(4, model=DEEP, lr_peak=0.3, polyak=polyak)
    for run, step in ((short, 4), (long, 9)):
        left = perform(run, place_in(tmp_path / f"{step}"), Recorder())
        place = place_in(tmp_path, upstream=left.checkpoint)
        expected: dict[str, float | None] = {}
        for kind, watch in ((Evaluate, watches[0]), (FewShot, watches[1])):
            fields = watch.model_dump(exclude={"kind", "every", "keep"})
            evaluation = kind.model_validate({**fields, "upstream": key_of(run)})
            expected |= values(perform(evaluation, place, Recorder()))
        assert {watched(metric, "digits", "test"): value for metric, value in expected.items()} == {
            name: value for name, value in recorder.measured[step].items() if name.startswith("digits/")
        }
    assert values(finished) == expected | {TRAIN_LOSS: values(finished)[TRAIN_LOSS]}
    assert {(value.metric, value.split, value.image_size) for value in finished.values} >= {
        (ACCURACY, "test", 12),
        (LOSS, "test", 12),
        (fewshot_accuracy(5), "test", 8),
        (TRAIN_LOSS, "train", 8),
    }


@given(every=st.none() | st.integers(1, 12), steps=st.integers(3, 12))
@settings(max_examples=50, deadline=None)
def test_watches_are_due_at_the_steps_that_are_planned(every: int | None, steps: int) -> None:
    run = watching(training_of(steps), split_watch(every=every))
    assert [step for step in range(1, steps + 1) if due(run, step)] == watched_steps(every, steps)


# ------------------------------------------------------------------------------------------------------ the best step


def accuracies_of(recorder: Recorder, metric: str = ACCURACY) -> dict[int, float]:
    name = watched(metric, "digits", "test")
    return {step: found[name] for step, found in recorder.measured.items() if name in found}


@pytest.mark.parametrize("polyak", [None, 0.3])
def test_the_best_weights_are_kept_and_all_results_are_theirs(polyak: float | None, tmp_path: Path) -> None:
    recorder = Recorder()
    run = watching(restless(12, polyak=polyak), split_watch(every=1, keep="best"), fewshot_watch())
    finished = perform(run, place_in(tmp_path / "long"), recorder)
    found = accuracies_of(recorder)
    step = min(found, key=lambda step: (-found[step], step))
    assert 1 < step < 12, "the test needs a training whose best step is on its way"
    assert values(finished)[BEST_STEP] == step
    assert values(finished)[ACCURACY] == found[step]
    short = watching(restless(step, polyak=polyak), fewshot_watch())
    left = perform(short, place_in(tmp_path / "short"), Recorder())
    assert bits_of(finished) == bits_of(left)
    assert values(finished)[fewshot_accuracy(5)] == values(left)[fewshot_accuracy(5)]
    assert load(tmp_path / "long/final")[1].step == 12


def test_of_equally_good_steps_the_first_is_kept(tmp_path: Path) -> None:
    # A rate so small that no guess changes after the head of zeros has its first values.
    run = watching(restless(6, lr_peak=1e-12, model=RESNET), split_watch(every=2, keep="best"))
    recorder = Recorder()
    finished = perform(run, place_in(tmp_path), recorder)
    assert len(set(accuracies_of(recorder).values())) == 1
    assert values(finished)[BEST_STEP] == 2


def test_a_few_shot_watch_knows_the_best_by_its_largest_number_of_shots(tmp_path: Path) -> None:
    recorder = Recorder()
    run = watching(restless(10), fewshot_watch(every=1, keep="best"))
    finished = perform(run, place_in(tmp_path), recorder)
    found = accuracies_of(recorder, fewshot_accuracy(5))
    assert values(finished)[fewshot_accuracy(5)] == max(found.values())
    assert values(finished)[BEST_STEP] == min(found, key=lambda step: (-found[step], step))


@pytest.mark.parametrize("recipe", [{}, {"polyak": 0.5, "dropout": 0.2}], ids=["plain", "average and dropout"])
def test_a_watched_training_stopped_at_any_step_goes_on_to_the_same_bits_and_the_same_best(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    quick = {"data": DIGITS.take("test", 100)}
    run = watching(
        restless(10, **recipe), split_watch(every=2, keep="best", **quick), fewshot_watch(every=3, shots=(2,), **quick)
    )
    whole = Recorder()
    unbroken = perform(run, place_in(tmp_path / "unbroken"), whole)
    best_step = values(unbroken)[BEST_STEP]
    assert best_step is not None
    stops = (1, 4, 7, 8, 9)
    assert 4 < best_step < 9, "the test needs a best step with stops before and behind it"
    for at in stops:
        folder, first = broken(run, at, tmp_path / f"first{at}")
        second = Recorder()
        resumed = perform(run, place_in(tmp_path / f"second{at}", resume=folder), second)
        assert bits_of(resumed) == bits_of(unbroken)
        assert resumed.values == unbroken.values
        assert first.measured | second.measured == whole.measured


# ------------------------------------------------------------------------------------------------------------ wishes


class Counter(Recorder):
    """Wishes something once it has been asked so many times."""

    def __init__(self, wish: Wish, questions: int) -> None:
        super().__init__()
        self.later, self.questions = wish, questions

    def reached(self, step: int) -> Wish:
        super().reached(step)
        return self.later if len(self.steps) > self.questions else Wish.CONTINUE


def test_a_watch_speaks_of_the_step_after_which_it_looks(tmp_path: Path) -> None:
    recorder = Recorder()
    perform(watching(training_of(4), split_watch(every=2)), place_in(tmp_path), recorder)
    assert recorder.steps == [1, 2, 2, 2, 3, 4, 4, 4]  # two batches each


def test_a_wish_to_yield_waits_until_a_watch_is_over(tmp_path: Path) -> None:
    run = watching(training_of(4), split_watch(every=2))
    unbroken = perform(run, place_in(tmp_path / "unbroken"), Recorder())
    folder, first = broken(run, 2, tmp_path / "first")
    assert folder.name == "step-00000002"
    assert watched(ACCURACY, "digits", "test") in first.measured[2]
    second = Recorder()
    assert bits_of(perform(run, place_in(tmp_path / "second", resume=folder), second)) == bits_of(unbroken)
    assert list(second.measured) == [3, 4]


def test_a_wish_to_stop_is_granted_in_the_middle_of_a_watch(tmp_path: Path) -> None:
    recorder = Counter(Wish.STOP, questions=2)
    with pytest.raises(Stopped):
        perform(watching(training_of(4), split_watch(every=2)), place_in(tmp_path), recorder)
    assert recorder.steps == [1, 2, 2]
    assert watched(ACCURACY, "digits", "test") not in recorder.measured[2]


# --------------------------------------------------------------------------------------------------------- refusals


def test_weights_that_are_broken_at_a_watched_step_end_the_training_there(tmp_path: Path) -> None:
    # Losses are measured at each third step, so the watch is first.
    run = restless(101, lr_peak=1e30)
    for attempt in ("a", "b"):
        with pytest.raises(NotFinite, match="the weights after step 2 of 101 are not finite"):
            perform(watching(run, fewshot_watch(every=2)), place_in(tmp_path / attempt), Recorder())


@pytest.mark.parametrize(
    ("model", "watch", "error", "message"),
    [
        (
            MaskedPatch(vit=VIT.model_copy(update={"head": "token"})),
            split_watch(),
            ValueError,
            "a masked-patch model classifies nothing: on the way only few-shot evaluations are possible",
        ),
        (VIT, split_watch(mapping=(0, 1, -1)), ValueError, "a mapping of 3 classes is none of a network of 10"),
        (VIT, split_watch(image_size=9), ValueError, "patches of 4 pixels do not divide the image of 9 pixels"),
        (
            VIT.model_copy(update={"position": "relative"}),
            split_watch(image_size=16),
            ValueError,
            "relative positions for images of 8 cannot see 16",
        ),
        (
            VIT,
            split_watch(data=DIGITS.take("test").model_copy(update={"channels": 3})),
            ValueError,
            "1 channels cannot see images of 3",
        ),
        (
            VIT,
            split_watch(data=DIGITS.take("test").model_copy(update={"classes": 5})),
            ValueError,
            "a network of 10 classes cannot be measured on 5",
        ),
        (VIT, fewshot_watch(shots=(40,)), DataError, "fewer than 40 shots"),
        (VIT, split_watch(data=DIGITS.take("test").model_copy(update={"name": "none"})), DataError, "none"),
    ],
)
def test_a_watch_that_cannot_be_is_refused_before_the_first_step(
    model: Any, watch: SplitWatch | FewShotWatch, error: type[Exception], message: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    with pytest.raises(error, match=message):
        perform(watching(training_of(5, model=model), watch), place_in(tmp_path), recorder)
    assert recorder.steps == []


def test_a_training_that_keeps_the_best_is_watched_without_a_change_to_its_state() -> None:
    plain = training_of(3)
    CPU.use()
    one, other = Training(plain, CPU), Training(watching(plain, split_watch(keep="best")), CPU)
    added = other.state().keys() - one.state().keys()
    assert {"best.accuracy", "best.step"} < added
    assert all(name.startswith("best.") for name in added)
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name])
    assert other.is_finite()  # although nothing was measured yet
    assert float(other.state()["best.accuracy"]) == -math.inf
