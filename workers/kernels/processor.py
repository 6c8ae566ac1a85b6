"""Facts of the CPU that this process runs on."""

import functools
import re
from pathlib import Path


@functools.cache
def maker() -> str | None:
    """Who made it, as it says itself: `AuthenticAMD`, `GenuineIntel`; None where it cannot be asked."""
    return fact("vendor_id")


@functools.cache
def fact(name: str) -> str | None:
    """A line of Linux's account of the first core, by its name; None where there is no such line."""
    try:
        account = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return None
    line = re.search(rf"^{re.escape(name)}\s*:\s*(.*?)\s*$", account, re.MULTILINE)
    return line[1] if line else None
