"""Trunks: a training that starts from a shorter one without a cooldown has the bits of one that starts alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studies.augmentations import AUGMENTATIONS
from studies.datasets import DIGITS
from studies.definitions import Adafactor, AdamW, Evaluate, FineTune, SplitWatch, Train, key_of
from studies.metrics import TRAIN_LOSS
from studies.models import fine_tuned
from tests.small_trainings import CPU, FAMILIES, VIT, Recorder, bits_of, broken, place_in, training_of
from workers.checkpoints import load, save
from workers.perform import perform
from workers.supervision import CheckpointError, Finished, OtherNumerics

DEEP = VIT.model_copy(update={"patch": 2, "depth": 2})


def trunk_of(steps: int, cooldown_steps: int = 0, *, timescale: int = 3, **fields: Any) -> Train:
    schedule = {"kind": "rsqrt", "timescale": timescale, "cooldown_steps": cooldown_steps}
    return training_of(steps, schedule=schedule, **fields)


def watched_by(run: Train, **fields: Any) -> Train:
    watch = SplitWatch.model_validate({"data": DIGITS.take("test", 100), "image_size": 8, **fields})
    return Train.model_validate({**run.model_dump(), "watches": (watch,)})


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return final_of(perform(trunk_of(4), place_in(tmp_path_factory.mktemp("trunk")), Recorder()))


def final_of(finished: Finished) -> Path:
    assert finished.checkpoint is not None
    return finished.checkpoint


@pytest.mark.parametrize(
    "fields",
    [
        {"model": DEEP, "dropout": 0.2, "stochastic_depth": 0.1, "augmentation": AUGMENTATIONS["strong2"]},
        {"optimizer": Adafactor(factored_from=8), "loss": "sigmoid", "head_bias": -10.0, "head_weight_decay": 3.0},
        {"polyak": 0.9, "dropout": 0.2, "optimizer": AdamW(momentum_precision="bf16")},
        {"polyak": 0.5, "optimizer": Adafactor(), "precision": "bf16", "model": FAMILIES["hybrid"]},
    ],
    ids=["adamw and dropout", "adafactor", "polyak", "adafactor, polyak and bf16"],
)
def test_branches_have_the_bits_of_trainings_that_start_alone_and_so_has_a_longer_trunk(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    current: Path | None = None
    for trunk_steps, cooldowns in ((4, (2, 5)), (7, (2,)), (9, (1, 3))):
        longer, heard = trunk_of(trunk_steps, **fields), Recorder()
        alone = perform(longer, place_in(tmp_path / f"{trunk_steps}alone"), Recorder())
        chained = perform(longer, place_in(tmp_path / f"{trunk_steps}", upstream=current), heard)
        assert bits_of(chained) == bits_of(alone)
        assert chained.values == alone.values
        assert len(heard.steps) < trunk_steps or current is None
        current = final_of(chained)
        for cooldown in cooldowns:
            branch, whole, recorder = trunk_of(trunk_steps + cooldown, cooldown, **fields), Recorder(), Recorder()
            name = f"{trunk_steps}+{cooldown}"
            expected = perform(branch, place_in(tmp_path / f"{name}alone"), whole)
            found = perform(branch, place_in(tmp_path / name, upstream=current), recorder)
            assert bits_of(found) == bits_of(expected)
            assert found.values == expected.values
            assert recorder.steps == list(range(trunk_steps + 1, branch.steps + 1))
            assert recorder.measured == {step: whole.measured[step] for step in recorder.steps}
            assert all(name.startswith("model.") for name in load(final_of(found))[0])


def test_a_branch_that_is_stopped_goes_on_without_its_trunk_to_the_same_bits(trunk: Path, tmp_path: Path) -> None:
    run = trunk_of(7, 3)
    alone = perform(run, place_in(tmp_path / "alone"), Recorder())
    folder, recorder = broken(run, 6, tmp_path / "first", upstream=trunk)
    assert recorder.steps == [5, 6]
    resumed = perform(run, place_in(tmp_path / "second", resume=folder, upstream=tmp_path / "gone"), Recorder())
    assert bits_of(resumed) == bits_of(alone)


def test_a_trunk_may_be_shorter_than_the_part_that_is_shared(trunk: Path, tmp_path: Path) -> None:
    run, recorder = trunk_of(9, 2), Recorder()
    found = perform(run, place_in(tmp_path / "branch", upstream=trunk), recorder)
    assert recorder.steps == [5, 6, 7, 8, 9]
    assert bits_of(found) == bits_of(perform(run, place_in(tmp_path / "alone"), Recorder()))


def test_watches_go_along_with_the_trunk_and_change_no_bit(tmp_path: Path) -> None:
    shared = perform(watched_by(trunk_of(4), every=2), place_in(tmp_path / "trunk"), Recorder())
    run, recorder, whole = watched_by(trunk_of(6, 2), every=2), Recorder(), Recorder()
    found = perform(run, place_in(tmp_path / "branch", upstream=shared.checkpoint), recorder)
    alone = perform(run, place_in(tmp_path / "alone"), whole)
    assert bits_of(found) == bits_of(alone)
    assert found.values == alone.values
    assert recorder.measured == {step: whole.measured[step] for step in (5, 6)}


@pytest.mark.parametrize("polyak", [None, 0.5])
def test_a_trunk_is_evaluated_and_fine_tuned_like_any_training(polyak: float | None, tmp_path: Path) -> None:
    run = trunk_of(6, polyak=polyak)
    # Of two trainings of the same steps, the one that keeps the best of its last step alone leaves weights alone.
    plain = watched_by(run, keep="best")
    trunk, other = (perform(each, place_in(tmp_path / f"{each is run}"), Recorder()) for each in (run, plain))
    names = {name.partition(".")[0] for name in load(final_of(trunk))[0]}
    assert names == ({"model", "optimizer"} if polyak is None else {"model", "optimizer", "last"})
    assert {name.partition(".")[0] for name in load(final_of(other))[0]} == {"model"}
    found = []
    for training, finished in ((run, trunk), (plain, other)):
        evaluation = Evaluate(upstream=key_of(training), data=DIGITS.take("test", 100), image_size=8)
        tuning = FineTune(
            upstream=key_of(training),
            model=fine_tuned(training.model),
            data=DIGITS.take("validation", 60),
            image_size=8,
            recipe=training_of(3).recipe,
            examples=60,
            seed=0,
        )
        place = place_in(tmp_path / f"{training.watches == ()}", upstream=finished.checkpoint)
        found.append((perform(evaluation, place, Recorder()).values, bits_of(perform(tuning, place, Recorder()))))
    assert found[0] == found[1]


# --------------------------------------------------------------------------------------------------------- refusals


def test_what_is_no_trunk_of_the_run_is_refused(trunk: Path, tmp_path: Path) -> None:
    place = place_in(tmp_path / "a", upstream=trunk)
    for run in (
        trunk_of(7, 3, lr_peak=2e-2),
        trunk_of(7, 3, seed=1),
        trunk_of(7, 3, timescale=5),
        trunk_of(7, 3, rows=40),
    ):
        with pytest.raises(CheckpointError, match=r"is no trunk of the run .*: more than the length differs"):
            perform(run, place, Recorder())
    for run in (training_of(7), watched_by(trunk_of(7, 3), keep="best", every=1)):
        with pytest.raises(CheckpointError, match="shares its first steps with no other"):
            perform(run, place, Recorder())
    for run in (trunk_of(7, 4), trunk_of(4), trunk_of(3)):
        with pytest.raises(CheckpointError, match=r"is at step 4, and of the . steps of the run only the first . are"):
            perform(run, place, Recorder())
    cooled = perform(trunk_of(4, 1), place_in(tmp_path / "cooled"), Recorder())
    with pytest.raises(CheckpointError, match="is no trunk of the run"):
        perform(trunk_of(7, 3), place_in(tmp_path / "b", upstream=cooled.checkpoint), Recorder())


def test_a_trunk_that_is_not_whole_is_refused(trunk: Path, tmp_path: Path) -> None:
    tensors, facts = load(trunk)
    save(tmp_path / "weights", {name: each for name, each in tensors.items() if name.startswith("model.")}, facts)
    save(tmp_path / "early", tensors, facts.model_copy(update={"step": 3}))
    for name, message in (("weights", "other names or shapes"), ("early", "not at the end"), ("gone", "no checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            perform(trunk_of(7, 3), place_in(tmp_path / "a", upstream=tmp_path / name), Recorder())


def test_a_trunk_of_another_numerics_class_is_gone_on_from_only_when_asked_to(trunk: Path, tmp_path: Path) -> None:
    run, device = trunk_of(7, 3), replace(CPU, threads=2)
    place = replace(place_in(tmp_path / "a", upstream=trunk), device=device)
    with pytest.raises(OtherNumerics, match=r"threads=1 .* this place is .* threads=2"):
        perform(run, place, Recorder())
    with pytest.raises(OtherNumerics, match="micro-batch=10"):
        perform(run, replace(place, device=CPU, micro_batch=10), Recorder())
    finished = perform(run, replace(place, any_numerics=True), Recorder())
    assert finished.mixed_numerics
    assert {value.metric for value in finished.values} == {TRAIN_LOSS}
