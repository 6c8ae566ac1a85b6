"""Numbers as people read them: FLOPs, times, shares."""

_PREFIXES = (("exa", 1e18), ("peta", 1e15), ("tera", 1e12), ("giga", 1e9), ("mega", 1e6))


def flops(value: float) -> str:
    """`224 exaFLOP`, `0.214 teraFLOP`: three digits and the prefix that fits."""
    for prefix, size in _PREFIXES:
        if value >= 0.1 * size:
            return f"{three_digits(value / size)} {prefix}FLOP"
    return f"{value:.0f} FLOP"


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 1,567 and 224 and 55.9 and 0.0123."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


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


def percent(share: float) -> str:
    """A share in [0, 1] as percent with two decimals."""
    return f"{100 * share:.2f} %"
