"""Numbers as people read them: FLOPs, times, memory, shares."""

import re
from collections.abc import Sequence
from math import floor, log10

_PREFIXES = (("exa", 1e18), ("peta", 1e15), ("tera", 1e12), ("giga", 1e9), ("mega", 1e6))


def flops(value: float) -> str:
    """`224 exaFLOP`, `0.214 teraFLOP`: three digits and the prefix that fits."""
    unit, size = _unit(value)
    return f"{three_digits(value / size)} {unit}" if size > 1 else f"{value:,.0f} {unit}"


def flops_column(values: Sequence[float]) -> tuple[str, list[str]]:
    """A unit for all values, for the heading of their column, and each value in it with three digits."""
    known = [value for value in values if value > 0]
    unit, size = _unit((min(known) * max(known)) ** 0.5 if known else 0.0)
    return unit, [three_digits(value / size) for value in values]


def _unit(value: float) -> tuple[str, float]:
    return next(((f"{prefix}FLOP", size) for prefix, size in _PREFIXES if value >= 0.1 * size), ("FLOP", 1.0))


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 1,567 and 224 and 55.9 and 0.0123. From 100 on, all whole ones."""
    if value == 0:
        return "0"
    # The exponent of the rounded value: 99.96 is 100 and 0.9996 is 1.00.
    exponent = floor(log10(abs(float(f"{value:.2e}"))))
    return f"{value:,.{max(0, 2 - exponent)}f}"


def seconds(value: float) -> str:
    """`45 s`, `3 min 20 s`, `5 h 10 min`, `12 d 3 h`."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, "min", 60, "s", 1)
    if whole < 86_400:
        return _two(whole, "h", 3600, "min", 60)
    return _two(whole, "d", 86_400, "h", 3600)


def _two(whole: int, large: str, large_seconds: int, small: str, small_seconds: int) -> str:
    count, rest = divmod(whole, large_seconds)
    fine = rest // small_seconds
    return f"{count:,} {large} {fine} {small}" if fine else f"{count:,} {large}"


def memory(value: float) -> str:
    """`1.20 TiB`, `80.0 GiB`, `412 KiB`: three digits and the binary prefix that fits."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if value >= size:
            return f"{three_digits(value / size)} {unit}"
    return f"{three_digits(value / 2**10)} KiB"


_SIZES = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40
}  # fmt: skip


def read_memory(text: str) -> int:
    """Bytes of `16GiB` or `1.5 TB`. Raises ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)", text)
    if not match or match[2] not in _SIZES or float(match[1]) == 0:
        raise ValueError(f"'{text}' is no amount of memory; write it as in 16GiB, with one of {', '.join(_SIZES)}")
    return int(float(match[1]) * _SIZES[match[2]])


def percent(share: float) -> str:
    """A share in [0, 1] as percent with two decimals."""
    return f"{100 * share:.2f} %"


def counted(number: int, noun: str) -> str:
    """`1 run`, `2,000 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
