"""Units that published results are given in, and their numbers, kept to the last digit of the text.

A number is read as a decimal and scaled as one; only what comes out is rounded, once, to float64.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal

from studies.architectures import nearest

_PRECISION = Context(prec=60, traps=[])
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?")
_MISSING = {"", "-", "–", "—", "nan", "na", "n/a", "none", "null"}
_INFINITE = {"inf", "infinity"}
_PREFIXES = (
    ("", "", 0), ("kilo", "k", 3), ("mega", "m", 6), ("giga", "g", 9), ("tera", "t", 12), ("peta", "p", 15),
    ("exa", "e", 18), ("zetta", "z", 21), ("yotta", "y", 24),
)  # fmt: skip
_COUNTS = (("", 0), ("thousand", 3), ("million", 6), ("billion", 9))
_TIMES = (("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86_400))


@dataclass(frozen=True)
class Unit:
    """What a number of 1 stands for."""

    name: str
    axis: str
    """The cost axis that it measures; empty for what is no cost."""
    size: Decimal


def _cost_units() -> Iterator[Unit]:
    for long, short, power in _PREFIXES:
        ten = Decimal(1).scaleb(power)
        for prefix in dict.fromkeys((long, short)):
            yield Unit(f"{prefix}flops", "flops", ten)
            yield Unit(f"{prefix}flops-forward", "forward-flops", ten)
            # A multiply-add is two operations, although many papers call their number FLOPs.
            yield Unit(f"{prefix}macs", "flops", 2 * ten)
            yield Unit(f"{prefix}macs-forward", "forward-flops", 2 * ten)
    yield Unit("pfs-days", "flops", Decimal(86_400).scaleb(15))
    for time, seconds in _TIMES:
        yield Unit(time, "device-seconds", Decimal(seconds))
        for device in ("device", "core", "chip", "gpu", "tpu"):
            yield Unit(f"{device}-{time}", "device-seconds", Decimal(seconds))
    for axis in ("images", "parameters"):
        for word, power in _COUNTS:
            yield Unit(f"{word}-{axis}" if word else axis, axis, Decimal(1).scaleb(power))
    yield Unit("usd", "money", Decimal(1))
    yield Unit("money", "money", Decimal(1))


COST_UNITS: Mapping[str, Unit] = {unit.name: unit for unit in _cost_units()}
"""Units of cost by name. A core, chip, GPU or TPU counts as one device; no axis converts one kind into another."""
COUNT_UNITS: Mapping[str, Unit] = {
    word or "ones": Unit(word or "ones", "", Decimal(1).scaleb(power)) for word, power in _COUNTS
}
"""Units of numbers of parameters and of images."""
ONES = "ones"
QUALITY_UNITS = ("fraction", "percent", "error", "error-percent", "loss")
"""`error` is 1 - accuracy, `error-percent` 100 times that."""


def unit_named(name: str, units: Mapping[str, Unit]) -> Unit:
    """A unit, whatever its capitals: exaFLOPs, PFS-days, core_days. Raises ValueError with the nearest one."""
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    for spelled in (plain, plain + "s"):
        if spelled in units:
            return units[spelled]
    offered = nearest(plain, list(units)) or "; as in exaflops, gpu-hours, images, parameters, gflops-forward, usd"
    raise ValueError(f"'{name}' is no unit{offered}")


def number(text: str, *, decimal_comma: bool = False) -> Decimal | None:
    """The number that a cell holds; None where it is missing or not a number (NaN, a dash), infinities as such.

    decimal_comma: `84,15` is a number, as where a semicolon divides the cells.
    Raises ValueError for any other text.
    """
    plain = text.strip().replace("−", "-").lower()
    if plain in _MISSING:
        return None
    if plain.lstrip("+-") in _INFINITE:
        return Decimal("-Infinity" if plain.startswith("-") else "Infinity")
    if decimal_comma and plain.count(",") == 1 and "." not in plain:
        plain = plain.replace(",", ".")
    if not _NUMBER.fullmatch(plain):
        cure = ": write it without blanks between its digits" if "," not in plain else ": write it without commas"
        raise ValueError(f"'{text.strip()}' is no number{cure if re.search(r'[0-9][ ,]', plain) else ''}")
    return _PRECISION.create_decimal(plain)


def scaled(value: Decimal, size: Decimal) -> Decimal:
    """A value in our units: exact for all that people write."""
    return _PRECISION.multiply(value, size)


def accuracy(value: Decimal, unit: str) -> Decimal:
    """The fraction that is right, from one of the first four of `QUALITY_UNITS`."""
    share = value.scaleb(-2, _PRECISION) if unit.endswith("percent") else value
    return _PRECISION.subtract(Decimal(1), share) if unit.startswith("error") else share
