"""Learning rates at named steps, against numbers worked out by hand, and what holds at every step."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from studies.definitions import Recipe
from studies.schedules import Constant, Cosine, Linear, ReciprocalSqrt, Schedule, Steps, lr_at

SCHEDULES: dict[str, Any] = {
    "cosine": Cosine(),
    "linear": Linear(),
    "constant": Constant(),
    "steps": Steps(at=(0.3, 0.6, 0.9)),
    "rsqrt": ReciprocalSqrt(timescale=30, cooldown_steps=40),
}


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        # Shares of the peak, in a training of 200 steps of which the first 20 warm up.
        ("cosine", {20: 1.0, 65: (1 + math.sqrt(0.5)) / 2, 110: 0.5, 155: (1 - math.sqrt(0.5)) / 2, 199: 7.6152e-05}),
        ("linear", {20: 1.0, 65: 0.75, 110: 0.5, 155: 0.25, 199: 1 / 180}),
        ("constant", {20: 1.0, 110: 1.0, 199: 1.0}),
        ("steps", {20: 1.0, 59: 1.0, 60: 0.1, 119: 0.1, 120: 0.01, 179: 0.01, 180: 0.001, 199: 0.001}),
        # 1 / sqrt(1 + 90 / 30) at 110; the last 40 steps go down to zero.
        ("rsqrt", {20: 1.0, 50: math.sqrt(0.5), 110: 0.5, 160: math.sqrt(3 / 17), 180: 0.5 * math.sqrt(3 / 19)}),
    ],
)
def test_each_schedule_has_the_values_of_its_closed_form(name: str, shares: dict[int, float]) -> None:
    warmup = {0: 0.05, 9: 0.5, 19: 1.0}
    for step, share in (warmup | shares).items():
        found = lr_at(step, SCHEDULES[name], lr_peak=0.004, warmup_steps=20, steps=200)
        assert found == pytest.approx(0.004 * share, rel=1e-4), step


def test_the_second_paper_s_schedule_is_cooled_down_over_its_last_steps_to_zero() -> None:
    schedule = ReciprocalSqrt(timescale=10_000, cooldown_steps=50_000)
    peak: dict[str, Any] = {"lr_peak": 8e-4, "warmup_steps": 10_000}
    assert lr_at(9_999, schedule, **peak, steps=500_000) == 8e-4
    assert lr_at(20_000, schedule, **peak, steps=500_000) == pytest.approx(8e-4 / math.sqrt(2))
    assert lr_at(450_000, schedule, **peak, steps=500_000) == pytest.approx(8e-4 / math.sqrt(45))
    assert lr_at(475_000, schedule, **peak, steps=500_000) == pytest.approx(8e-4 / math.sqrt(47.5) / 2)
    last = lr_at(499_999, schedule, **peak, steps=500_000)
    assert last == pytest.approx(8e-4 / math.sqrt(49.9999) / 50_000)


def test_a_cooldown_of_no_steps_leaves_the_trunk_as_it_is() -> None:
    trunk = ReciprocalSqrt(timescale=10, cooldown_steps=0)
    assert lr_at(39, trunk, lr_peak=1.0, warmup_steps=9, steps=40) == 0.5


names = st.sampled_from(sorted(SCHEDULES))
peaks = st.floats(1e-6, 10)


@given(name=names, lr_peak=peaks, warmup_steps=st.integers(0, 500), rest=st.integers(1, 10**6), data=st.data())
def test_the_rate_is_positive_at_every_step_and_never_above_its_peak(
    name: str, lr_peak: float, warmup_steps: int, rest: int, data: st.DataObject
) -> None:
    steps = warmup_steps + rest
    step = data.draw(st.integers(0, steps - 1))
    rate = lr_at(step, SCHEDULES[name], lr_peak=lr_peak, warmup_steps=warmup_steps, steps=steps)
    assert 0 < rate <= lr_peak * (1 + 1e-12)


@given(name=names, lr_peak=peaks, warmup_steps=st.integers(1, 500), data=st.data())
def test_the_warm_up_is_a_line_from_above_zero_to_the_peak_in_every_schedule(
    name: str, lr_peak: float, warmup_steps: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, warmup_steps - 1))
    fields: dict[str, Any] = {"lr_peak": lr_peak, "warmup_steps": warmup_steps, "steps": warmup_steps + 50}
    first, rate = (lr_at(each, SCHEDULES[name], **fields) for each in (0, step))
    assert rate == pytest.approx((step + 1) * first)
    assert lr_at(warmup_steps - 1, SCHEDULES[name], **fields) == pytest.approx(lr_peak)


@given(
    warmup_steps=st.integers(0, 100),
    timescale=st.integers(1, 1000),
    cooldown_steps=st.integers(0, 100),
    trunk=st.integers(1, 1000),
    data=st.data(),
)
def test_the_trunk_is_the_same_number_for_number_whatever_the_length_until_the_cooldown(
    warmup_steps: int, timescale: int, cooldown_steps: int, trunk: int, data: st.DataObject
) -> None:
    schedule = ReciprocalSqrt(timescale=timescale, cooldown_steps=cooldown_steps)
    shorter = warmup_steps + trunk + cooldown_steps
    longer = shorter + data.draw(st.integers(1, 1000))
    step = data.draw(st.integers(0, shorter - max(1, cooldown_steps)))
    fields: dict[str, Any] = {"lr_peak": 0.1, "warmup_steps": warmup_steps}
    assert lr_at(step, schedule, **fields, steps=shorter) == lr_at(step, schedule, **fields, steps=longer)
    if cooldown_steps > 1:
        step = shorter - data.draw(st.integers(1, cooldown_steps - 1))
        assert lr_at(step, schedule, **fields, steps=shorter) < lr_at(step, schedule, **fields, steps=longer)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_falls_at_every_step_after_the_warm_up(schedule: str) -> None:
    recipe = Recipe.model_validate(
        {"schedule": schedule, "lr_peak": 0.01, "warmup_steps": 4, "weight_decay": 0.0, "batch": 1}
    )
    rates = [recipe.lr_at(step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert sorted(rates[4:], reverse=True) == rates[4:]
    assert len(set(rates[4:])) == 16


def test_a_schedule_without_fields_goes_by_its_name_and_others_by_their_kind() -> None:
    def schedule_of(value: Any) -> Schedule:
        fields = {"lr_peak": 0.01, "warmup_steps": 4, "weight_decay": 0.0, "batch": 1}
        return Recipe.model_validate({**fields, "schedule": value}).schedule

    assert schedule_of("constant") == Constant()
    assert schedule_of({"kind": "steps", "at": [0.3, 0.6, 0.9]}) == SCHEDULES["steps"]
    with pytest.raises(ValidationError, match="cosine"):
        schedule_of("exponential")
