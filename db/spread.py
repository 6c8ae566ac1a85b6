"""How far a mean over data sets spreads from seed to seed: of one data set the points themselves say it."""

import math
from collections import defaultdict
from typing import NamedTuple

from sqlalchemy import Connection

from db.points import mean_and_sd, values_of
from db.series import Series


class Spread(NamedTuple):
    """Sample standard deviation over so many seeds of the pre-training, two or more."""

    sd: float
    seeds: int


def spread_of(connection: Connection, series: Series) -> dict[str, Spread]:
    """Of a mean, for each pre-training with several seeds, each of which has a result on all data sets.

    A seed's value is the mean over the data sets, and on each of them over whatever was measured after this seed: so
    data sets that are good together with one seed count as what they are, and not as independent.
    """
    number = {_fields(part): place for place, part in enumerate(series.parts)}
    found: dict[str, dict[tuple[int | None, int], list[list[float]]]] = defaultdict(dict)
    for row in values_of(connection, series.study_id):
        place = number.get(_fields(row))
        if place is None or row.value is None:
            continue
        seed = (row.pretraining_id, row.seed if row.external else 0)
        found[row.pretraining].setdefault(seed, [[] for _ in series.parts])[place].append(row.value)
    return {
        name: Spread(sd, len(means))
        for name, seeds in found.items()
        if all(all(values) for values in seeds.values())
        for means in [[math.fsum(mean_and_sd(each)[0] for each in values) / len(values) for values in seeds.values()]]
        if (sd := mean_and_sd(means)[1]) is not None
    }


def _fields(of: object) -> tuple[object, ...]:
    return tuple(getattr(of, name) for name in ("kind", "metric", "dataset", "split", "image_size"))
