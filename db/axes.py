"""The axes of cost as SQL: the points of a series, or of a mean over data sets, with their cost on one of them."""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Subquery, case, func, literal, null, select
from sqlalchemy.sql import ColumnCollection

from db.series import Series, is_complete
from db.tables import PointRow, table_of

AXES = ("flops", "device-seconds", "images", "parameters", "forward-flops", "money")
"""Names of the axes. What each counts: `PointRow` in `db/tables.py`."""
_COLUMNS = {
    "flops": "cost",
    "device-seconds": "device_seconds",
    "images": "images",
    "parameters": "parameters",
    "forward-flops": "forward_flops",
}
_POINT = table_of(PointRow)
_NOT_COPIED = ("series_id", "leads", "cost")

Prices = Mapping[str, float]
"""Money for a device-hour, by the kind of device; "" is any other kind."""


def points_on(series: Series, axis: str, prices: Prices | None = None) -> Subquery:
    """The points of a series as columns of `PointRow`, `cost` being that on this axis: NULL where it is not known.

    A mean has a point for each pre-training with exactly one point in each of its parts; its columns are those that
    the parts agree on, its `configuration` and `training` are those of the pre-training. Its `sd` is NULL here: it
    follows from the seeds (`db/spread.py`).
    Raises ValueError for an axis that is none, or a price that is no positive number.
    """
    if axis not in AXES:
        raise ValueError(f"'{axis}' is no axis of cost: take one of {', '.join(AXES)}")
    points = _mean(series) if series.parts else select(_POINT).where(_POINT.c.series_id == series.id).subquery()
    cost = _cost(points.c, axis, prices or {})
    # What is not finite, not positive or not known is no cost. Training FLOPs are stored so, and their index is used.
    known = cost if axis == "flops" else case(((cost > 0) & (cost < literal(math.inf)), cost))
    kept = [column for column in points.c if column.name not in _NOT_COPIED]
    return select(*kept, known.label("cost")).subquery()


def _cost(points: ColumnCollection[str, Any], axis: str, prices: Prices) -> ColumnElement[Any]:
    if axis != "money":
        column: ColumnElement[Any] = points[_COLUMNS[axis]]
        return column
    for device, price in prices.items():
        if not (math.isfinite(price) and price > 0):
            raise ValueError(f"the price {price} of {device or 'a device'} is no positive amount of money for an hour")
    return func.coalesce(points["money"], points["device_seconds"] / 3600.0 * _price(points["device"], prices))


def _price(device: ColumnElement[Any], prices: Prices) -> ColumnElement[Any]:
    others = prices.get("")
    named = [(device == kind, literal(price)) for kind, price in prices.items() if kind]
    if not named:
        return null() if others is None else literal(others)
    if others is None:
        return case(*named)
    # Time on several kinds of devices, which the store adds up, has no one price.
    return case(*named, (device.is_not(None), literal(others)))


def _mean(series: Series) -> Subquery:
    """Values are added in the order of the parts: so they have the same bits on every database."""
    ids = [part.id for part in series.parts]

    def of_part(series_id: int) -> ColumnElement[Any]:
        return func.max(case((_POINT.c.series_id == series_id, _POINT.c.value)))

    total = of_part(ids[0])
    for series_id in ids[1:]:
        total = total + of_part(series_id)
    value = total / float(len(ids))
    columns = {
        "configuration": _POINT.c.pretraining,
        "training": _POINT.c.pretraining,
        "pretraining": _POINT.c.pretraining,
        "family": func.min(_POINT.c.family),
        "model": func.min(_POINT.c.model),
        "quality": float(series.direction) * value,
        "value": value,
        "sd": null(),
        "seeds": func.min(_POINT.c.seeds),
        # Each part was measured after the same pre-training, but its seeds may not all be there yet.
        "device_seconds": func.max(_POINT.c.device_seconds),
        "external": func.min(case((_POINT.c.external, 1), else_=0)) == 1,
        "sweep": null(),
        "searched": null(),
    }
    agreed = ("cost", "epochs", "data_rows", "parameters", "images", "forward_flops", "device", "money")
    columns |= {name: _agreed(_POINT.c[name]) for name in agreed}
    return (
        select(*(column.label(name) for name, column in columns.items()))
        .where(_POINT.c.series_id.in_(ids))
        .group_by(_POINT.c.pretraining)
        .having(is_complete(len(ids)))
        .subquery()
    )


def _agreed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The one value of a group, NULL where its rows do not agree."""
    return case(((func.min(column) == func.max(column)) & (func.count(column) == func.count()), func.min(column)))
