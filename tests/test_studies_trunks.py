"""Trunks: which trainings share their first steps, what that saves, and that nobody's identity changes."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from studies.datasets import DIGITS
from studies.definitions import Recipe, SplitWatch, Train
from studies.models import ViT
from studies.planned import PlannedRun
from studies.schedules import Cosine, ReciprocalSqrt, Schedule
from studies.trunks import branch_point, trunk_of, with_trunks

BATCH, WARMUP = 20, 5
Length = tuple[int, int]
"""Steps, and those of the cooldown."""

LENGTHS = st.lists(
    st.integers(1, 60).flatmap(lambda cooldown: st.tuples(st.integers(WARMUP + cooldown + 1, 400), st.just(cooldown))),
    min_size=1,
    max_size=6,
    unique=True,
)
"""Of trainings with a cooldown."""


def planned(
    length: Length,
    *,
    schedule: Schedule | None = None,
    seed: int = 0,
    lr_peak: float = 1e-3,
    watches: Sequence[SplitWatch] = (),
) -> PlannedRun:
    steps, cooldown = length
    run = Train(
        model=ViT(patch=4, width=8, depth=1, mlp=8, heads=1),
        data=DIGITS.take("train"),
        image_size=8,
        recipe=Recipe(
            lr_peak=lr_peak,
            schedule=schedule or ReciprocalSqrt(timescale=10, cooldown_steps=cooldown),
            warmup_steps=WARMUP,
            weight_decay=0.1,
            batch=BATCH,
        ),
        examples=steps * BATCH,
        seed=seed,
        watches=tuple(watches),
    )
    return PlannedRun(run, run, "ViT-t/4", "ViT", run.examples / run.data.rows)


def watch(every: int, keep: str = "last") -> SplitWatch:
    return SplitWatch.model_validate({"data": DIGITS.take("test"), "image_size": 8, "every": every, "keep": keep})


def steps_alone(each: PlannedRun) -> int:
    """Steps that the run itself does."""
    return each.steps - (each.trunk.steps if each.trunk else 0)


def flops(runs: Sequence[PlannedRun]) -> float:
    return sum(each.flops for each in runs)


def test_trainings_of_three_lengths_share_two_trunks_in_a_chain() -> None:
    made = with_trunks([planned((400, 50)), planned((100, 10)), planned((200, 50))])
    assert [(each.steps, each.role, each.trunk and each.trunk.steps) for each in made] == [
        (90, "trunk", None),
        (100, None, 90),
        (150, "trunk", 90),
        (200, None, 150),
        (400, None, 150),
    ]
    assert [steps_alone(each) for each in made] == [90, 10, 60, 50, 250]


def test_a_training_without_a_cooldown_is_the_trunk_of_others() -> None:
    made = with_trunks([planned((100, 0)), planned((110, 10)), planned((300, 10))])
    assert [(each.steps, each.role, each.trunk and each.trunk.steps) for each in made] == [
        (100, None, None),
        (110, None, 100),
        (300, None, 100),
    ]
    longest = with_trunks([planned((60, 20)), planned((100, 0))])
    assert [(each.steps, each.trunk and each.trunk.steps) for each in longest] == [(40, None), (60, 40), (100, 40)]


def test_branches_of_one_point_share_a_trunk_that_ends_there() -> None:
    made = with_trunks([planned((100, 10)), planned((110, 20))])
    assert [(each.steps, each.role) for each in made] == [(90, "trunk"), (100, None), (110, None)]


def test_a_trunk_that_would_end_within_the_warm_up_is_not_made() -> None:
    alone = [planned((WARMUP + 10, 10)), planned((WARMUP + 12, 12))]
    assert with_trunks(alone) == alone
    mixed = with_trunks([*alone, planned((100, 10)), planned((200, 10))])
    assert [(each.steps, each.trunk and each.trunk.steps) for each in mixed] == [
        (WARMUP + 10, None),
        (WARMUP + 12, None),
        (90, None),
        (100, 90),
        (200, 90),
    ]


def test_what_differs_in_more_than_its_length_shares_nothing() -> None:
    apart = [
        planned((100, 10)),
        planned((200, 10), seed=1),
        planned((300, 10), lr_peak=2e-3),
        planned((310, 10), watches=[watch(10)]),
        planned((320, 10), watches=[watch(20)]),
        planned((330, 0), schedule=Cosine()),
        planned((340, 0), schedule=Cosine()),
        planned((350, 10), schedule=ReciprocalSqrt(timescale=11, cooldown_steps=10)),
    ]
    assert with_trunks(apart) == apart


def test_trainings_that_keep_their_best_weights_stay_alone() -> None:
    alone = [planned((100, 10), watches=[watch(10, "best")]), planned((200, 10), watches=[watch(10, "best")])]
    assert with_trunks(alone) == alone


def test_a_trunk_measures_what_its_branches_do() -> None:
    first, *_ = with_trunks([planned((100, 10), watches=[watch(30)]), planned((200, 10), watches=[watch(30)])])
    assert first.role == "trunk"
    assert first.training.watches == (watch(30),)


def test_what_is_measured_before_the_branch_point_is_paid_once() -> None:
    trunk, short, long = with_trunks([planned((100, 10), watches=[watch(30)]), planned((200, 10), watches=[watch(30)])])
    images = [each.images - steps_alone(each) * BATCH for each in (trunk, short, long)]
    assert images == [1500, 500, 2000]


def test_a_trunk_whose_evaluation_costs_more_than_it_saves_is_not_made() -> None:
    short = [planned((WARMUP + 2, 1), watches=[watch(500)]), planned((WARMUP + 4, 1), watches=[watch(500)])]
    assert with_trunks(short) == short, (
        "500 images at its end against 6 steps of 20, which cost three times as much each"
    )


@given(LENGTHS)
def test_trunks_and_branches_do_each_step_once(lengths: list[Length]) -> None:
    trainings = [planned(length) for length in lengths]
    made = with_trunks(trainings)
    # Before its cooldown a training is at places of the one trunk, in it at places of its own.
    trunk = max(branch_point(each.root) for each in trainings)
    shared = {step for each in trainings for step in range(branch_point(each.root))}
    cooldowns = sum(each.steps - branch_point(each.root) for each in trainings)
    assert len(shared) == trunk
    most = sum(each.steps for each in trainings)
    done = sum(map(steps_alone, made))
    assert trunk + cooldowns <= done <= most
    assert flops(made) == sum(map(steps_alone, made)) * made[0].flops / steps_alone(made[0])
    if min(branch_point(each.root) for each in trainings) > WARMUP:
        assert done == trunk + cooldowns


@given(LENGTHS, st.integers(0, 3))
def test_identities_stay_and_a_run_comes_after_what_it_starts_from(lengths: list[Length], wholes: int) -> None:
    more = [(steps, 0) for steps in (50, 200, 300)[:wholes]]
    trainings = [planned(length) for length in {*lengths, *more}]
    made = with_trunks(trainings)
    assert {each.key for each in made if each.role is None} == {each.key for each in trainings}
    assert len({each.key for each in made}) == len(made)
    assert flops(made) <= flops(trainings)
    seen: set[str] = set()
    for each in made:
        assert each.upstream is None or each.upstream in seen
        seen.add(each.key)
    for each in made:
        used = sum(other.upstream == each.key for other in made)
        assert each.role is None or used > 1, "a trunk that one run starts from saves nothing"


@given(st.integers(WARMUP + 1, 200), st.integers(1, 60))
def test_a_trunk_has_the_learning_rates_of_its_branch(before: int, cooldown: int) -> None:
    branch = planned((before + cooldown, cooldown)).root
    trunk = trunk_of(branch)
    assert trunk.steps == before
    rates = [trunk.recipe.lr_at(step, trunk.steps) for step in range(before)]
    assert rates == [branch.recipe.lr_at(step, branch.steps) for step in range(before)]
