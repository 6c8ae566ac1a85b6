"""Stacks: each run learns as alone whatever becomes of the others, and goes on to the same bits; who may be in one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.architectures import named
from studies.augmentations import AUGMENTATIONS
from studies.datasets import DIGITS
from studies.definitions import SGD, AnyTraining, FineTune, Recipe, SplitWatch, Train, key_of
from studies.metrics import ACCURACY
from studies.models import Hybrid, ResNet, ViT, fine_tuned
from studies.schedules import Cosine
from workers.checkpoints import load, load_facts
from workers.devices import Device
from workers.stack import Stack
from workers.stacked import Outcome, Seat, numerics_in, pays, seat_in, train_together, why_apart
from workers.supervision import (
    Finished,
    LeaseLost,
    NotFinite,
    OtherNumerics,
    Place,
    Stopped,
    Wish,
    Yielded,
)
from workers.training import Training, train

CPU = Device.named("cpu")
VIT = ViT(patch=4, width=16, depth=2, mlp=32, heads=2)
RESNET = ResNet(blocks=(1, 1), width=8, root="3x3", groups=4)
FAMILIES = {
    "vit": VIT,
    "vit token": VIT.model_copy(update={"head": "token"}),
    "vit gap": VIT.model_copy(update={"head": "gap"}),
    "vit sincos": VIT.model_copy(update={"head": "gap", "position": "sincos-2d"}),
    "vit with a table in each layer": VIT.model_copy(update={"position_at": "layers"}),
    "vit with one table in all layers": VIT.model_copy(update={"position_at": "shared"}),
    "vit axial": VIT.model_copy(update={"head": "gap", "attention": "axial", "position": "none"}),
    "resnet": RESNET,
    "resnet 7x7": RESNET.model_copy(update={"root": "7x7"}),
    "hybrid": Hybrid(body=RESNET, vit=VIT.model_copy(update={"patch": 2})),
}
RECIPE = Recipe(lr_peak=1e-2, schedule=Cosine(), warmup_steps=2, weight_decay=0.1, batch=20, clip_norm=1.0)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
DIVERGING = 1e25
WATCH = SplitWatch(data=DIGITS.take("validation"), image_size=8, every=2)


def run_of(steps: int = 8, *, model: Any = VIT, watches: Any = (), **recipe: Any) -> Train:
    changed = Recipe.model_validate({**RECIPE.model_dump(), **recipe})
    data = DIGITS.take("train", 50)
    return Train(
        model=model,
        data=data,
        image_size=8,
        recipe=changed,
        examples=steps * changed.batch,
        seed=0,
        watches=watches,
    )


def runs_of(rates: Sequence[float] = RATES, steps: int = 8, **fields: Any) -> list[Train]:
    return [run_of(steps, lr_peak=rate, **fields) for rate in rates]


class Recorder:
    """Keeps what it hears, wishes what it was told to from a step on, and may find its lease lost."""

    def __init__(self, wish: Wish = Wish.CONTINUE, at: int = 0, *, loses: bool = False) -> None:
        self.wish, self.at, self.loses = wish, at, loses
        self.measured: dict[int, dict[str, float]] = {}
        self.steps: list[int] = []
        self.current: Path | None = None

    def reached(self, step: int) -> Wish:
        self.steps.append(step)
        return self.wish if step >= self.at else Wish.CONTINUE

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        self.measured[step] = dict(metrics)

    def checkpointed(self, folder: Path, step: int) -> None:
        assert load_facts(folder).step == step
        if self.loses:
            raise LeaseLost
        self.current = folder


def ended(
    runs: Sequence[AnyTraining],
    places: Sequence[Place],
    supervisors: Sequence[Recorder],
    seats: Sequence[Seat] | None = None,
) -> list[Outcome]:
    """How each ended, in the order of the runs."""
    outcomes = dict(train_together(runs, places, supervisors, seats))
    return [outcomes[index] for index in range(len(runs))]


def together(
    runs: Sequence[Train],
    folder: Path,
    supervisors: Sequence[Recorder],
    resume: Sequence[Path | None] | None = None,
    seats: Sequence[Seat] | None = None,
) -> list[Outcome]:
    places = [
        Place(device=CPU, folder=folder / str(index), resume=saved)
        for index, saved in enumerate(resume or [None] * len(runs))
    ]
    return ended(runs, places, supervisors, seats)


def recorders(count: int = len(RATES)) -> list[Recorder]:
    return [Recorder() for _ in range(count)]


def weights_of(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Finished)
    assert outcome.checkpoint is not None
    return (outcome.checkpoint / "state.safetensors").read_bytes()


def assert_each_is_as_alone(runs: Sequence[Train], *, steps: int, most: float) -> None:
    CPU.use()
    stack = Stack(runs, Training(runs[0], CPU))
    for _ in range(steps):
        stack.update()
    for seat, run in enumerate(runs):
        alone = Training(run, CPU)
        first = {name: tensor.clone() for name, tensor in alone.state().items()}
        loss = [alone.update() for _ in range(steps)][-1]
        assert stack.losses()[seat] == pytest.approx(float(loss), rel=most)
        state = stack.state_of(seat)
        assert state.keys() == first.keys()
        # Of all parameters: a few have no gradient but rounding, of which Adam makes whole steps.
        moved, apart = (
            torch.cat([(tensor - others[name]).flatten() for name, tensor in alone.state().items()]).norm()
            for others in (first, state)
        )
        assert float(apart) <= most * float(moved)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_run_of_a_stack_learns_as_alone(family: str) -> None:
    runs = runs_of((0.01, 0.1), model=FAMILIES[family], optimizer={"kind": "sgd"}, clip_norm=None)
    assert why_apart(runs, CPU) is None
    assert_each_is_as_alone(runs, steps=4, most=2e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": {"kind": "adamw"}},
        {"optimizer": {"kind": "sgd"}, "polyak": 0.5, "head_weight_decay": 3.0},
        {"optimizer": {"kind": "sgd", "momentum": 0.0}, "clip_norm": 0.01},
        {"loss": "sigmoid", "label_smoothing": 0.1, "head_bias": -2.0, "augmentation": AUGMENTATIONS["shift"]},
        {"augmentation": {"mixup": 0.5}},
    ],
    ids=["adamw", "sgd, polyak and head decay", "sgd without momentum", "sigmoid", "mixup"],
)
def test_each_recipe_does_in_a_stack_what_it_does_alone(recipe: dict[str, Any]) -> None:
    assert_each_is_as_alone(runs_of((1e-3, 1e-2), **recipe), steps=3, most=5e-3)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_autocast_works_in_a_stack(family: str) -> None:
    runs = runs_of((0.01, 0.1), model=FAMILIES[family], optimizer={"kind": "sgd"}, precision="bf16")
    assert_each_is_as_alone(runs, steps=3, most=0.05)


def test_decay_clipping_and_schedule_may_differ_from_run_to_run() -> None:
    sgd: dict[str, Any] = {"optimizer": {"kind": "sgd"}}
    runs = [
        run_of(weight_decay=0.0, clip_norm=0.5, **sgd),
        run_of(weight_decay=5.0, clip_norm=0.05, **sgd),
        run_of(schedule="linear", warmup_steps=0, **sgd),
    ]
    assert why_apart(runs, CPU) is None
    assert_each_is_as_alone(runs, steps=4, most=2e-5)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_diverging_run_leaves_the_bits_of_the_others_as_they_are(family: str) -> None:
    CPU.use()
    calm, disturbed = (runs_of((1e-3, rate, 1e-2), model=FAMILIES[family]) for rate in (3e-3, DIVERGING))
    stacks = [Stack(runs, Training(runs[0], CPU)) for runs in (calm, disturbed)]
    for _ in range(6):
        for stack in stacks:
            stack.update()
    assert stacks[0].are_finite() == [True, True, True]
    assert stacks[1].are_finite() == [True, False, True]
    for seat in (0, 2):
        for name, tensor in stacks[0].state_of(seat).items():
            assert torch.equal(tensor, stacks[1].state_of(seat)[name]), name


def test_a_run_that_diverges_fails_and_the_others_finish(tmp_path: Path) -> None:
    heard = recorders(3)
    outcomes = together(runs_of((1e-3, DIVERGING, 1e-2)), tmp_path, heard)
    assert [type(outcome) for outcome in outcomes] == [Finished, NotFinite, Finished]
    assert "the training loss at step" in str(outcomes[1])
    assert max(heard[0].steps) == 8 > max(heard[1].steps)


def test_each_run_of_a_stack_leaves_what_it_leaves_alone(tmp_path: Path) -> None:
    runs, heard = runs_of(polyak=0.5), recorders()
    outcomes = together(runs, tmp_path / "stack", heard)
    for index, (run, outcome) in enumerate(zip(runs, outcomes, strict=True)):
        recorder = Recorder()
        alone = train(run, Place(device=CPU, folder=tmp_path / f"alone{index}"), recorder)
        assert isinstance(outcome, Finished)
        assert outcome.checkpoint is not None
        assert alone.checkpoint is not None
        (tensors, facts), (expected, expected_facts) = load(outcome.checkpoint), load(alone.checkpoint)
        assert facts == expected_facts.model_copy(update={"numerics": f"{CPU.numerics} stacked={index}/4"})
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            name: tensor.shape for name, tensor in expected.items()
        }
        assert outcome.values[0].value == pytest.approx(alone.values[0].value, rel=1e-2)
        assert outcome.certificate == alone.certificate
        assert heard[index].steps == recorder.steps
        assert heard[index].measured.keys() == recorder.measured.keys()
        assert [each["lr"] for each in heard[index].measured.values()] == [
            each["lr"] for each in recorder.measured.values()
        ]


def test_a_stack_of_fine_tunings_starts_from_the_trained_network_and_is_watched_at_its_end(tmp_path: Path) -> None:
    pretraining = run_of(60)
    place = Place(device=CPU, folder=tmp_path / "pretrained")
    upstream = train(pretraining, place, Recorder()).checkpoint
    watch = SplitWatch(data=DIGITS.take("validation"), image_size=8)
    runs = [
        FineTune(
            upstream=key_of(pretraining),
            model=fine_tuned(pretraining.model),
            data=DIGITS.take("train", 100),
            image_size=8,
            recipe=RECIPE.model_copy(update={"optimizer": SGD(), "weight_decay": 0.0, "lr_peak": rate}),
            examples=60 * RECIPE.batch,
            seed=0,
            watches=(watch,),
        )
        for rate in (0.01, 0.03)
    ]
    places = [Place(device=CPU, folder=tmp_path / str(index), upstream=upstream) for index in range(2)]
    heard = recorders(2)
    outcomes = ended(runs, places, heard)
    for run, outcome, recorder in zip(runs, outcomes, heard, strict=True):
        lone = Recorder()
        place = Place(device=CPU, folder=tmp_path / f"alone {run.recipe.lr_peak}", upstream=upstream)
        alone = train(run, place, lone)
        assert isinstance(outcome, Finished)
        assert [replace(value, value=None) for value in outcome.values] == [
            replace(value, value=None) for value in alone.values
        ]
        (accuracy,) = [each.value for each in outcome.values if each.metric == ACCURACY]
        (expected,) = [each.value for each in alone.values if each.metric == ACCURACY]
        assert accuracy == pytest.approx(expected, abs=0.02)
        assert accuracy is not None
        assert accuracy > 0.2
        assert recorder.measured.keys() == lone.measured.keys()
        assert recorder.measured[run.steps].keys() == lone.measured[run.steps].keys()


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stack_that_yielded_goes_on_to_the_bits_of_an_unbroken_one(stop: int, tmp_path: Path) -> None:
    runs = runs_of(polyak=0.5)
    unbroken = together(runs, tmp_path / "unbroken", recorders())
    first = [Recorder(Wish.YIELD, at=stop), *recorders(3)]
    assert all(isinstance(outcome, Yielded) for outcome in together(runs, tmp_path / "first", first))
    second = recorders()
    resumed = together(runs, tmp_path / "second", second, [recorder.current for recorder in first])
    assert list(map(weights_of, resumed)) == list(map(weights_of, unbroken))
    assert [recorder.steps[0] for recorder in second] == [stop + 1] * 4


def test_a_stack_goes_on_to_the_same_bits_without_the_runs_that_are_over(tmp_path: Path) -> None:
    runs = runs_of()
    unbroken = together(runs, tmp_path / "unbroken", recorders())
    first = [Recorder(Wish.YIELD, at=4), Recorder(Wish.STOP, at=2), *recorders(2)]
    outcomes = together(runs, tmp_path / "first", first)
    assert [type(outcome) for outcome in outcomes] == [Yielded, Stopped, Yielded, Yielded]
    left = [3, 0, 2]
    second, seats = recorders(3), [Seat(i, 4) for i in left]
    resumed = together([runs[i] for i in left], tmp_path / "second", second, [first[i].current for i in left], seats)
    assert list(map(weights_of, resumed)) == [weights_of(unbroken[i]) for i in left]
    assert [recorder.steps[0] for recorder in second] == [5] * 3


@pytest.mark.parametrize("left", [[2], [3, 1]])
def test_what_is_left_of_a_stack_without_checkpoints_begins_anew_to_the_same_bits(
    left: list[int], tmp_path: Path
) -> None:
    runs = runs_of()
    unbroken = together(runs, tmp_path / "unbroken", recorders())
    seats = [Seat(i, 4) for i in left]
    anew = together([runs[i] for i in left], tmp_path / "anew", recorders(len(left)), seats=seats)
    assert list(map(weights_of, anew)) == [weights_of(unbroken[i]) for i in left]


def test_each_run_is_told_of_as_soon_as_it_is_over(tmp_path: Path) -> None:
    heard = [Recorder(), Recorder(Wish.STOP, at=3), Recorder()]
    places = [Place(device=CPU, folder=tmp_path / str(index)) for index in range(3)]
    reached = []
    for index, _ in train_together(runs_of((1e-3, 3e-3, 1e-2)), places, heard):
        reached.append((index, heard[0].steps[-1]))
    assert reached == [(1, 3), (0, 8), (2, 8)]


def test_a_numerics_class_tells_the_seat_at_a_place_of_the_same_class() -> None:
    assert seat_in(numerics_in(Seat(2, 16), CPU.numerics), CPU.numerics) == Seat(2, 16)
    assert seat_in(numerics_in(Seat(2, 16), "cuda"), CPU.numerics) is None
    assert seat_in(CPU.numerics, CPU.numerics) is None
    assert seat_in(None, CPU.numerics) is None


def test_a_stack_begins_anew_when_its_checkpoints_are_not_of_one(tmp_path: Path) -> None:
    runs = runs_of((1e-3, 1e-2))
    unbroken = list(map(weights_of, together(runs, tmp_path / "unbroken", recorders(2))))
    saved = {}
    for step in (2, 4):
        heard = [Recorder(Wish.YIELD, at=step), Recorder()]
        together(runs, tmp_path / f"until{step}", heard)
        saved[step] = [recorder.current for recorder in heard]
    lone = Recorder(Wish.YIELD, at=2)
    with pytest.raises(Yielded):
        train(runs[1], Place(device=CPU, folder=tmp_path / "lone"), lone)
    for index, other in enumerate((None, saved[4][1], saved[2][0], lone.current)):
        heard = recorders(2)
        begun = together(runs, tmp_path / f"anew{index}", heard, [saved[2][0], other])
        assert list(map(weights_of, begun)) == unbroken
        assert heard[0].steps[0] == 1


def test_a_lone_training_does_not_go_on_from_a_stack(tmp_path: Path) -> None:
    runs = runs_of((1e-3, 1e-2))
    heard = [Recorder(Wish.YIELD, at=2), Recorder()]
    together(runs, tmp_path / "stack", heard)
    with pytest.raises(OtherNumerics, match="stacked=0/2"):
        train(runs[0], Place(device=CPU, folder=tmp_path / "lone", resume=heard[0].current), Recorder())


def test_a_run_whose_lease_was_lost_leaves_and_the_others_go_on(tmp_path: Path) -> None:
    heard = [Recorder(), Recorder(loses=True)]
    places = [Place(device=CPU, folder=tmp_path / str(index), checkpoint_seconds=0.0) for index in range(2)]
    outcomes = ended(runs_of((1e-3, 1e-2)), places, heard)
    assert [type(outcome) for outcome in outcomes] == [Finished, LeaseLost]
    assert heard[1].steps == [1]


def test_a_broken_state_is_not_saved(tmp_path: Path) -> None:
    # Losses are measured every third step, and after one step at this rate there is nothing finite left.
    heard = [Recorder(Wish.STOP, at=6), Recorder()]
    places = [Place(device=CPU, folder=tmp_path / str(index), checkpoint_seconds=0.0) for index in range(2)]
    runs = runs_of((1e-3, 1e38), steps=150, warmup_steps=0)
    outcomes = ended(runs, places, heard)
    assert [type(outcome) for outcome in outcomes] == [Stopped, NotFinite]
    assert heard[1].steps == [1, 2]
    assert heard[1].current is None
    assert heard[0].current is not None
    assert load_facts(heard[0].current).step == 5


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({}, {"batch": 40, "steps": 4}, "they differ in batch"),
        ({}, {"model": RESNET}, "they differ in model"),
        ({}, {"clip_norm": None}, "they differ in whether gradients are clipped"),
        ({"watches": [WATCH]}, {"watches": [WATCH]}, "measured on the way"),
        ({"dropout": 0.1}, {"dropout": 0.1}, "dropout and stochastic depth"),
        ({"optimizer": {"kind": "adafactor"}}, {"optimizer": {"kind": "adafactor"}}, "AdamW or SGD"),
        ({"model": VIT.model_copy(update={"head": "map"})}, {"model": VIT.model_copy(update={"head": "map"})}, "probe"),
        (
            {"model": VIT.model_copy(update={"position": "relative"})},
            {"model": VIT.model_copy(update={"position": "relative"})},
            "Block.offset_OD",
        ),
    ],
)
def test_runs_that_cannot_be_together_are_refused(
    one: dict[str, Any], other: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        together([run_of(**one), run_of(**other, lr_peak=0.1)], tmp_path, recorders(2))


def test_a_stack_takes_no_micro_batches(tmp_path: Path) -> None:
    place = Place(device=CPU, folder=tmp_path, micro_batch=10)
    with pytest.raises(ValueError, match="train these runs one after the other"):
        ended([run_of()], [place], recorders(1))


def test_micro_batches_of_a_whole_batch_are_none(tmp_path: Path) -> None:
    places = [Place(device=CPU, folder=tmp_path / str(index), micro_batch=20 + index) for index in range(2)]
    outcomes = ended(runs_of((1e-3, 1e-2), steps=3), places, recorders(2))
    assert [type(outcome) for outcome in outcomes] == [Finished] * 2


def test_a_stack_pays_for_four_or_more_small_networks() -> None:
    small = run_of(model=VIT)
    large = run_of(batch=100, model=named("ViT-S/4", "gap"))
    assert [pays(small, count, CPU) for count in (1, 3, 4, 8)] == [False, False, True, True]
    assert not pays(large, 8, CPU)
