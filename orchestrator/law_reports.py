"""Laws of a study: fitted once for the same question, kept in the store with what they stand on, and answered again."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from db import answers, laws
from db.frontiers import Point
from db.series import Series
from db.store import Store, StoreError
from orchestrator.frontier_reports import Frontier, errors_of, excluded_json, header, point_json
from orchestrator.reports import NotFound
from studies.architectures import nearest
from studies.definitions import canonical_json
from studies.laws import fits, isoflop
from studies.laws.allocation import Allocation, allocation, rate
from studies.laws.allocation import as_json as allocation_json
from studies.laws.fits import Fit
from studies.laws.intervals import LEVEL
from studies.laws.isoflop import IsoFlop, Method
from studies.laws.points import Points
from studies.laws.sentences import resampling

REVISION = 4
"""Raised when the code, not a question, changes the digits of laws: those that were kept are then fitted anew."""
FORMS = ("power", "saturating", "double-saturating", "surface", "repeated-surface", "m4", "isoflop")
OF_COST = FORMS[:3]
"""Functions of cost alone."""
SURFACES = ("surface", "repeated-surface")


@dataclass(frozen=True)
class Wish:
    """Which law is wanted, of the points of a series."""

    form: str = "saturating"
    family: str | None = None
    model: str | None = None
    """One network alone, for a learning curve."""
    on_frontier: bool | None = None
    """Fitted on the frontier, or on all points; None: as is usual for the form."""
    method: str = "akima"
    """Of isoFLOP optima."""
    replicates: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """A law and where it is from."""

    law: laws.NewLaw
    answer: dict[str, Any]
    """What is printed."""
    points: Points
    """What it was asked to be fitted on."""
    is_new: bool
    fit: Fit | None
    """None for isoFLOP optima, which are no law of the error."""
    not_kept: str | None = None
    """Why the store did not take it, as where it may not be written."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """What whoever goes by this law has to know: the warnings of the fit."""
        return tuple(self.answer["warnings"])


def fitted(store: Store, found: Frontier, wish: Wish) -> Fitted:
    """The law that is wanted: from the store where the same question was asked of the same results, or fitted now.

    A store that cannot be written keeps no law, which is no reason not to answer.
    Raises ValueError where no such fit is possible, NotFound where the family or the network has no points.
    """
    check_form(wish.form)
    members = _members(found, wish)
    points = points_of(found.series, members)
    digest = laws.points_digest(members)
    key = _key(found, wish, digest)
    with store.read() as connection:
        kept = laws.law_of(connection, found.study.id, key)
    law: laws.NewLaw | None = kept
    not_kept = None
    if law is None:
        law = _new_law(found, wish, key, digest, *_fit(found, wish, members, points, key, digest))
        try:
            with store.begin() as connection:
                law = laws.store(connection, found.study.id, law)
        except StoreError as error:
            not_kept = str(error)
    answer = {**json.loads(law.answer), "excluded": excluded_json(found.excluded)}
    fit = None if wish.form == "isoflop" else _stored_fit(law)
    return Fitted(law, answer, points, kept is None, fit, not_kept)


def check_form(form: str) -> None:
    """Raise ValueError for what is no form of a law."""
    if form not in FORMS:
        raise ValueError(f"'{form}' is no form of a law{nearest(form, list(FORMS))}")


def points_of(series: Series, members: Sequence[Point]) -> Points:
    """The points as laws take them: errors, and NaN for what is not known."""

    def column(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        if all(value is None for value in values):
            return None
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    return Points(
        cost=np.array([point.cost for point in members], dtype=np.float64),
        error=np.array(errors_of(series, [point.value for point in members]), dtype=np.float64),
        keys=tuple(point.configuration for point in members),
        parameters=column([point.parameters for point in members]),
        images=column([point.images for point in members]),
        data_rows=column([point.data_rows for point in members]),
        labels=tuple(point.model for point in members),
        sd=column([point.sd for point in members]),
        seeds=np.array([point.seeds for point in members], dtype=np.float64),
    )


def drawn_laws(store: Store, found: Frontier, form: str) -> tuple[list[tuple[str | None, Fit]], list[str]]:
    """The laws to draw beside a frontier, of each of its families where it is by family; why some have none.

    Raises ValueError where there is none at all.
    """
    check_form(form)
    if form not in OF_COST:
        raise ValueError(f"a {form} law is no line over cost: draw one of {', '.join(OF_COST)}")
    drawn: list[tuple[str | None, Fit]] = []
    missing = []
    for family in dict.fromkeys(point.family for point in found.points) if found.by_family else [None]:
        try:
            law = fitted(store, found, Wish(form, family)).fit
        except ValueError as error:
            missing.append(f"no law for {family}: {error}" if family else str(error))
        else:
            assert law is not None
            drawn.append((family, law))
    if not drawn:
        raise ValueError("; ".join(missing))
    return drawn, missing


# ------------------------------------------------------------------------------------------------------------- fitting


def _members(found: Frontier, wish: Wish) -> list[Point]:
    members = list(found.points)
    for name, value in (("family", wish.family), ("model", wish.model)):
        if value is None:
            continue
        valid = list(dict.fromkeys(getattr(point, name) for point in members))
        members = [point for point in members if getattr(point, name) == value]
        if not members:
            raise NotFound(f"{found.study.name} has no {name} '{value}' here{nearest(value, valid)}")
    if not members:
        raise NotFound(f"{found.study.name} has no point to fit a law on: no configuration has a value and a cost")
    return members


def _key(found: Frontier, wish: Wish, digest: str) -> str:
    asked = {
        "revision": REVISION,
        "series": header(found.study, found.series, found.axis),
        "points": digest,
        **vars(wish),
    }
    del asked["series"]["study"]  # a study may be renamed
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


def _fit(
    found: Frontier, wish: Wish, members: Sequence[Point], points: Points, key: str, digest: str
) -> tuple[dict[str, Any], str]:
    """What is printed, and the replicates as JSON."""
    result: Fit | IsoFlop
    if wish.form == "isoflop":
        result = isoflop.isoflop(points, method=method_named(wish.method), replicates=wish.replicates, seed=wish.seed)
        said = isoflop.as_json(result)
        used = {key for optimum in result.optima for key in optimum.keys}
    else:
        result = fits.fit(points, wish.form, on_frontier=wish.on_frontier, replicates=wish.replicates, seed=wish.seed)
        said = fits.as_json(result)
        said["residuals"] = [{"configuration": name, "log_residual": value} for name, value in result.residuals]
        said["interval"] = {"level": LEVEL, "method": resampling(result.on_frontier, result.luck is not None)}
        said["delta"] = result.delta if math.isfinite(result.delta) else None  # without a scatter there is no bound
        used = set(result.used)
    said["dropped"] = [
        {"reason": reason, "count": len(names), "configurations": list(names)} for reason, names in result.dropped
    ]
    named = {"family": wish.family, "model": wish.model, "law": key, "points_digest": digest}
    answer = {**header(found.study, found.series, found.axis), "direction": found.series.direction, **named, **said}
    answer["points"] = [
        {**point_json(point), "error": error, "used": point.configuration in used}
        for point, error in zip(members, points.error.tolist(), strict=True)
    ]
    # JSON has no infinity: what is not finite goes as text, which float() reads back.
    draws = [[value if math.isfinite(value) else str(value) for value in row] for row in result.draws.tolist()]
    return answer, json.dumps(draws, allow_nan=False)


def method_named(name: str) -> Method:
    """The way to find isoFLOP optima. Raises ValueError for what is none."""
    for method in isoflop.FEWEST_SIZES:
        if name == method:
            return method
    raise ValueError(f"'{name}' is no way to find an isoFLOP optimum; valid: {', '.join(isoflop.FEWEST_SIZES)}")


def _new_law(found: Frontier, wish: Wish, key: str, digest: str, answer: dict[str, Any], draws: str) -> laws.NewLaw:
    series = found.series
    return laws.NewLaw(
        key=key,
        points_digest=digest,
        form=wish.form,
        family=wish.family,
        kind=series.kind,
        metric=series.metric,
        dataset=series.dataset,
        split=series.split,
        image_size=series.image_size,
        answer=json.dumps(answer, allow_nan=False),
        draws=draws,
    )


def _stored_fit(law: laws.NewLaw) -> Fit:
    said = json.loads(law.answer)
    named = {field.name: said[field.name] for field in fields(Fit) if field.name != "draws"}
    named["residuals"] = [(each["configuration"], each["log_residual"]) for each in said["residuals"]]
    named["delta"] = math.inf if said["delta"] is None else said["delta"]
    named["dropped"] = [(each["reason"], each["configurations"]) for each in said["dropped"]]
    draws = np.array([[float(value) for value in row] for row in json.loads(law.draws)], dtype=np.float64)
    return fits.from_json(named, draws.reshape(-1, len(said["parameters"])))


# ---------------------------------------------------------------------------------------------------- what is printed


def split_of(law: Fitted, budget: float) -> Allocation:
    """How a surface splits a budget of FLOPs. Where it knows of repeats, there are no more images than in the study."""
    assert law.fit is not None
    distinct = None
    if law.fit.form == "repeated-surface" and law.points.data_rows is not None:
        distinct = float(np.nanmax(law.points.data_rows))
    return allocation(law.fit, budget, rate(law.points), distinct=distinct)


def as_json(
    fitted: Sequence[Fitted], failed: Sequence[tuple[str, str]], splits: Sequence[Allocation], *, by_family: bool
) -> dict[str, Any]:
    """Laws for programs: one as it is; of families a list, and those that have none."""
    listed = [{**law.answer, "in_store": not law.is_new, "not_kept": law.not_kept} for law in fitted]
    for answer, split in zip(listed, splits, strict=False):
        answer["allocation"] = allocation_json(split)
    if not by_family:
        return listed[0]
    return {"laws": listed, "failed": [{"family": family, "reason": reason} for family, reason in failed]}


def kept(store: Store, study: answers.Study) -> list[laws.Law]:
    """The laws of a study that are in the store, the last fitted first."""
    with store.read() as connection:
        return laws.laws_of(connection, study.id)


def kept_json(found: Sequence[laws.Law]) -> list[dict[str, Any]]:
    """Laws of the store for programs, as `fit` printed them."""
    return [{**json.loads(law.answer), "fitted_at": law.fitted_at} for law in found]
