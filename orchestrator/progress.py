"""Live progress of a driver, from the store's totals: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from db.answers import Totals
from orchestrator import wording
from orchestrator.screen import MESSAGES, say

LINE_SECONDS = 10.0
WINDOW_SECONDS = 30.0
"""Rates are of the last so many seconds."""


class Progress:
    """Shows totals as they come. Use as a context; call it with each new reading."""

    def __init__(self) -> None:
        self.readings: deque[tuple[float, Totals]] = deque()
        self.line_at = 0.0
        self.live = Live(console=MESSAGES, refresh_per_second=4, transient=True) if MESSAGES.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, totals: Totals) -> None:
        """Take a new reading and show it."""
        now = time.monotonic()
        self.readings.append((now, totals))
        while now - self.readings[0][0] > WINDOW_SECONDS:
            self.readings.popleft()
        if self.live:
            bar = ProgressBar(total=max(totals.flops, 1.0), completed=totals.flops_done, width=40)
            grid = Table.grid(padding=(0, 1))
            grid.add_row(bar, Text(share(totals)))
            self.live.update(Group(grid, Text(self.line())))
        elif now - self.line_at >= LINE_SECONDS:
            self.line_at = now
            say(f"{share(totals)}; {self.line()}")

    def line(self) -> str:
        """Runs by state, and the rates of the last seconds."""
        (then, before), (now, totals) = self.readings[0], self.readings[-1]
        states = totals.states
        parts = [f"{states['done']:,} done", f"{states['running']:,} running"]
        parts += [f"{states[name]:,} {name}" for name in ("failed", "blocked", "cancelled", "pruned") if states[name]]
        parts.append(f"{states['ready'] + states['waiting']:,} to come")
        took = now - then
        if took > 1:
            images = (totals.images_done - before.images_done) / took
            speed = (totals.flops_done - before.flops_done) / took
            parts.append(f"{max(images, 0):,.0f} images/s")
            left = totals.flops - totals.flops_done
            if speed > 0:
                parts.append(f"about {wording.seconds(left / speed)} left")
        return ", ".join(parts)


def share(totals: Totals) -> str:
    """FLOPs done of total."""
    if not totals.flops:
        return "nothing to do"
    searches = f"{totals.searches_open:,} search{'' if totals.searches_open == 1 else 'es'}"
    more = f" and what {searches} will add" if totals.searches_open else ""
    return f"{100 * totals.flops_done / totals.flops:5.1f} % of {wording.flops(totals.flops)}{more}"
