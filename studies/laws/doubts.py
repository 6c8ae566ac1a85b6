"""What is doubtful about a fit that was possible: which sentences of sentences.py it deserves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from studies.laws import sentences
from studies.laws.forms import Form
from studies.laws.intervals import FEWEST_REPLICATES
from studies.laws.minimum import FEW_STARTS, Problem, free, minimum, noise_delta, slopes
from studies.laws.points import CALLED, Floats, Points

if TYPE_CHECKING:
    from studies.laws.fits import Fit

SEPARATE = 1e-5
"""The least singular value of the slopes, each of length 1, at which parameters still count as told apart."""
HARDLY = 0.1
"""A fit to a frontier beyond so many of its replicates is off the law."""
PART = 0.1
"""A parameter belongs to a direction that the points do not see when this much of the direction is its own."""


def not_separate(problem: Problem, theta_1P: Floats) -> tuple[str, ...]:
    """The parameters of one fit that many values fit equally well: those of directions which leave the law as it is.

    Parameters at a bound are known to be there, and are not counted.
    """
    low, high = problem.box()
    gradient = slopes(problem, theta_1P)[1]
    may_move = free(theta_1P, gradient, low, high)[0]
    # A coordinate at its bound with no pull either way holds nothing in place: it counts as free.
    slope_PR = problem.form.logs(theta_1P, problem.log_input_IR, problem.scale)[1][0] * np.sqrt(problem.weight_KR[0])
    length_P = np.sqrt((slope_PR**2).sum(axis=1))
    unseen = {p for p in np.flatnonzero(may_move) if length_P[p] <= SEPARATE}
    moving = [p for p in np.flatnonzero(may_move) if p not in unseen]
    if moving:
        _, size, direction = np.linalg.svd((slope_PR[moving] / length_P[moving, None]).T, full_matrices=True)
        size = np.concatenate([size, np.zeros(len(direction) - len(size))])
        for row in np.flatnonzero(size < SEPARATE):
            unseen |= {moving[column] for column in np.flatnonzero(np.abs(direction[row]) > PART)}
    return tuple(problem.form.parameters[p] for p in sorted(unseen))


def doubts(
    answer: Fit, form: Form, problem: Problem, taken: Points, apart: Sequence[str], rejected: int, asked: int
) -> tuple[str, ...]:
    """All of them, the gravest first."""
    return (
        *_of_points(form, taken),
        *_of_parameters(answer, form, taken, apart),
        *_of_the_minimum(answer),
        *_of_replicates(answer, form, rejected, asked),
        *_of_the_frontier(answer, form, taken),
        *_of_the_form(answer, form, problem),
    )


def _of_points(form: Form, taken: Points) -> list[str]:
    parameters, used = len(form.parameters), len(taken)
    found = []
    if used == parameters:
        found.append(sentences.no_interval(used, parameters))
    elif used <= parameters + 2:
        found.append(sentences.few(used, parameters))
    different = len(np.unique(taken.inputs(form.inputs), axis=1).T)
    if form.floor is not None and different < 5:
        found.append(sentences.few_for_floor(different))
    for name in form.inputs:
        values = taken.input(name)
        factor = values.max() / values.min()
        if factor < 10 and name != "data_rows":
            found.append(sentences.narrow(CALLED[name], factor))
    whole = [key for key, error in zip(taken.keys, taken.error, strict=True) if error == 1]
    if whole:
        found.append(sentences.whole_error(whole))
    return found


def _of_parameters(answer: Fit, form: Form, taken: Points, apart: Sequence[str]) -> list[str]:
    least, most = taken.error.min(), taken.error.max()
    if most - least <= 1e-12 * most:
        return [sentences.constant()]
    found = []
    exponent = answer.parameters.get("b")
    if form.inputs == ("cost",) and exponent is not None and exponent.value == 0:
        found.append(sentences.rising())
    if apart:
        found.append(sentences.not_separate(apart))
    if form.floor is not None and form.floor not in apart:
        found += _of_the_floor(answer, form.floor, float(least))
    for name, estimate in answer.parameters.items():
        if name not in apart and answer.replicates and (estimate.low is None or estimate.high is None):
            found.append(sentences.open_end(name, estimate.value))
    return found


def _of_the_floor(answer: Fit, name: str, least: float) -> list[str]:
    floor = answer.parameters[name]
    if floor.value <= 1e-9 * least:
        return [sentences.floor_at_zero(name, floor.high)]
    found = []
    if floor.value >= least * (1 - 1e-9):
        found.append(sentences.floor_at_least_error(name))
    if floor.low is not None and floor.low <= 1e-9 * least:
        found.append(sentences.floor_open(name, floor.high))
    return found


def _of_the_minimum(answer: Fit) -> list[str]:
    found = []
    if answer.agreeing < 2:
        found.append(sentences.lonely(answer.agreeing, answer.starts))
    if answer.gradient_norm > 1e-6 * max(np.sqrt(answer.objective), 1e-6):
        found.append(sentences.not_at_rest(answer.gradient_norm))
    return found


def _of_replicates(answer: Fit, form: Form, rejected: int, asked: int) -> list[str]:
    if len(answer.used) == len(form.parameters):
        return []
    if asked < FEWEST_REPLICATES:
        return [sentences.few_replicates(asked, FEWEST_REPLICATES)]
    if not answer.replicates:
        return [sentences.no_replicates()]
    if rejected > 0.1 * (rejected + answer.replicates):
        return [sentences.many_rejected(rejected, rejected + answer.replicates)]
    return []


def _of_the_frontier(answer: Fit, form: Form, taken: Points) -> list[str]:
    """Whether a fit to a frontier is where the law itself hardly is, at the dearest of its points."""
    if not (answer.on_frontier and answer.replicates):
        return []
    place_I1 = taken.inputs(form.inputs)[:, -1:]
    off_B = np.log(answer.error_at(place_I1)) - form.log_at(answer.draws, place_I1)[:, 0]
    if HARDLY < np.mean(off_B < 0) < 1 - HARDLY:
        return []
    return [sentences.off_the_law(100 * np.expm1(np.median(off_B)), answer.luck is not None)]


def _of_the_form(answer: Fit, form: Form, problem: Problem) -> list[str]:
    """Whether the simpler form does as well on the same points."""
    from studies.laws.fits import aicc, form_of

    if form.simpler is None or answer.aicc is None:
        return []
    simpler = form_of(form.simpler)
    columns = [form.inputs.index(name) for name in simpler.inputs]
    scale = replace(problem.scale, input_unit=problem.scale.input_unit[columns], span=problem.scale.span[columns])
    other = replace(problem, form=simpler, scale=scale, log_input_IR=problem.log_input_IR[columns])
    other = replace(other, delta=noise_delta(other))
    log_R = simpler.logs(minimum(other, kept=FEW_STARTS).theta, other.log_input_IR, scale)[0][0]
    residual_R = (problem.log_error_KR[0] - log_R)[problem.weight_KR[0] > 0]
    score = aicc(residual_R, len(simpler.parameters))
    if score is None or score >= answer.aicc:
        return []
    return [sentences.simpler_is_enough(form.name, answer.aicc, simpler.name, score)]
