"""The sentences of a fit: what is doubtful about a law, and why none could be fitted; no numbers are computed here."""

from __future__ import annotations

from collections.abc import Sequence

from studies.laws.points import Dropped

TITLES = {"power": "power law", "saturating": "saturating law", "double-saturating": "doubly saturating law"}
TITLES |= {"surface": "surface L(N, D)", "repeated-surface": "surface of repeated data", "m4": "learning curve M4"}


def title(form: str) -> str:
    """What the form is called in a sentence."""
    return TITLES.get(form, form)


def too_few(form: str, used: int, different: int, parameters: int, dropped: Dropped) -> str:
    """Why no law goes through so few points."""
    have = f"{_count(used, 'point')}"
    if different < used:
        have += f" at {different} different places"
    left = "; ".join(f"{len(keys)} left out: {reason}" for reason, keys in dropped)
    why = f" ({left})" if left else ""
    return (
        f"a {title(form)} has {parameters} parameters and there are {have}{why}: train more, or ask for a simpler form"
    )


def one_value(form: str, called: str, used: int) -> str:
    """Why no law is fitted to points that do not differ."""
    return f"all {used} points have the same {called}, so a {title(form)} cannot be fitted: add points where it differs"


def no_interval(used: int, parameters: int) -> str:
    """With as many points as parameters."""
    have = f"{_count(used, 'point')} for {parameters} parameters"
    return f"{have}: the law goes through every one, so nothing tests it and there is no interval."


def few(used: int, parameters: int) -> str:
    """With hardly more points than parameters."""
    spare = _count(used - parameters, "residual")
    return f"Only {_count(used, 'point')} for {parameters} parameters: the interval rests on {spare}."


def few_for_floor(different: int) -> str:
    """With fewer than five distinct costs."""
    return f"Only {different} distinct costs: a floor is not identified with fewer than 5."


def narrow(called: str, factor: float) -> str:
    """Of a range below a decade."""
    spans = f"The {called} spans a factor of {factor:.3g} only"
    return f"{spans}: an exponent from less than a factor of 10 says little beyond it."


def constant() -> str:
    """Of errors that are all equal."""
    return "All errors are equal: there is nothing to fit, and the exponent means nothing."


def rising() -> str:
    """Of errors that do not fall."""
    return "The error does not fall along these points: the exponent is at its bound, 0."


def whole_error(keys: Sequence[str]) -> str:
    """Of errors of 1."""
    where = ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")
    return f"An error of 1 (nothing right) at {where}: is that run sound?"


def floor_at_zero(name: str, high: float | None) -> str:
    """Of a floor whose best value is 0."""
    upto = "" if high is None else f"; anything up to {high:.4g} fits as well"
    return f"The floor {name} is at its bound, 0{upto}: these points show no floor."


def floor_open(name: str, high: float | None) -> str:
    """Of a floor whose interval reaches 0."""
    upto = "" if high is None else f" to {high:.4g}"
    return f"The floor {name} is not identified: its interval reaches from 0{upto}, so do not extrapolate with it."


def floor_at_least_error(name: str) -> str:
    """Of a floor at the least error measured."""
    return f"The floor {name} is the least error measured: the law expects nothing from more."


def open_end(name: str, value: float) -> str:
    """Of a parameter at the end of what is sought."""
    return f"{name} is not identified: its interval is open, and its estimate is {value:.4g}."


def not_separate(names: Sequence[str]) -> str:
    """Of parameters that only count together."""
    if len(names) == 1:
        return f"These points do not identify {names[0]}: any value of it fits equally well, and it has no interval."
    apart = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"These points do not tell {apart} apart: many values of them fit equally well, and none has an interval."


def lonely(agreeing: int, starts: int) -> str:
    """Of few starts that reached the minimum."""
    return f"Only {agreeing} of {starts} starts reached this minimum."


def not_at_rest(norm: float) -> str:
    """Of a gradient that is not zero."""
    return f"The descent did not come to rest (norm of the gradient {norm:.2g}): do not use the last digits."


def simpler_is_enough(form: str, own: float, simpler: str, other: float) -> str:
    """Of an AICc that the simpler form beats."""
    scores = f"AICc {other:.1f} against {own:.1f} of the {title(form)}"
    return f"A {title(simpler)} explains these points better for its size ({scores})."


def many_rejected(rejected: int, drawn: int) -> str:
    """Of resamples that no law could be fitted to."""
    share = f"{rejected} of {drawn} resamples"
    return f"{share} had too few different points for a fit and were drawn anew: the interval is rough."


def no_replicates() -> str:
    """Of resamples of which almost none could be fitted."""
    return "Almost no resample had enough different points for a fit: there is no interval."


def few_replicates(replicates: int, needed: int) -> str:
    """Of too few replicates for an interval."""
    return f"{_count(replicates, 'replicate')}: an interval needs at least {needed}."


def off_the_law(percent: float, by_seeds: bool) -> str:
    """Of a fit to a frontier that lies at an end of its own interval."""
    cure = "quote the interval"
    if percent < 0 and not by_seeds:
        cure += "; several seeds of a configuration would tell how much is luck"
    where, as_where = ("above", "most runs fall short") if percent > 0 else ("below", "lucky runs are on the frontier")
    off = (
        f"At its largest cost this fit is {abs(percent):.2g} % {where} the middle of its interval, as where {as_where}"
    )
    return f"{off}: {cure}."


def resampling(on_frontier: bool, by_seeds: bool) -> str:
    """How replicates are made, and in how many simulated studies such 95 % intervals held the law (`intervals.py`)."""
    if not on_frontier:
        return "deviations of configurations drawn anew; such intervals held in 93 to 97 % of simulated studies"
    drawn = "configurations drawn anew and the frontier of each draw; a frontier picks lucky runs"
    if by_seeds:
        return (
            f"{drawn}, and seeds say how much is luck: such intervals held the law of frontiers without luck in 91 to "
            "100 % of simulated studies"
        )
    return (
        f"{drawn} and keeps poor ones, which the interval allows for: such intervals held the law of runs at their "
        "best in 88 to 98 % of simulated studies whose runs scatter alike at all costs"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
