"""Work on the files of a data set, spread over this machine as Ray tasks. It knows no store: files say what is done."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator import cluster, processes, wording
from orchestrator.progress import LINE_SECONDS, WINDOW_SECONDS
from orchestrator.screen import MESSAGES, say

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 2
"""Tasks that a CPU has: one at work and one that waits, so that no CPU waits for us."""
RETRIES = 1
"""How often a task is tried again whose process died. An exception is no death: it comes home at once."""
LOOK_SECONDS = 0.5
"""Between looks at the tasks, so that the progress moves and Ctrl-C is heard."""
PARAGRAPH_SECONDS = 1.0
"""Within which Ray has told of a death."""
_LONGEST_NAME = 200


class TaskDied(Exception):
    """The process of a task died, again after a second try: out of memory, or a crash in a library."""


def spread(
    task: Callable[[T], R],
    items: Sequence[T],
    *,
    cpus: int | None = None,
    label: str,
    died: Callable[[T], R] | None = None,
) -> Generator[tuple[T, R], None, None]:
    """Each item with what the task made of it, in the order in which tasks finish. The first `next` starts the work.

    task: runs in another process, so it and what it returns must be picklable. It is sent once, an item with each call.
    cpus: all that this process may use when None. label: what the progress on stderr begins with, as `importing`.
    died: the result of an item whose process died twice; without it that is an error.
    A Ray that this process is part of already is used, else one is started and ended. Who may leave early wraps it in
    `contextlib.closing`: the tasks still at work are then ended, as they are by Ctrl-C.

    Raises the exception of a task as itself, with a note that names the item, and TaskDied.
    """
    if not items:
        return
    with _ray(cpus), _Shown(label, len(items)) as shown:
        import ray  # not before: it reads its environment then

        sent: Any = ray.put(task)

        def called(task: Callable[[T], R], item: T) -> R:  # sent by value: a task's process need not import this file
            return task(item)

        call: Any = ray.remote(called).options(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)
        wanted = iter(items)
        working: dict[Any, T] = {}
        try:
            _fill(working, call, sent, wanted, _in_flight())
            while working:
                for done in _finished(list(working)):
                    item = working.pop(done)
                    _fill(working, call, sent, wanted, _in_flight())
                    yield item, _result(done, item, died)
                    shown.one_more()
                shown.show()
        finally:
            for reference in working:
                ray.cancel(reference, force=True)


def _fill(working: dict[Any, T], call: Any, sent: Any, wanted: Iterator[T], most: int) -> None:
    """Send tasks until so many are under way."""
    while len(working) < most:
        try:
            item = next(wanted)
        except StopIteration:
            return
        working[call.remote(sent, item)] = item


def _in_flight() -> int:
    return IN_FLIGHT * max(cluster.capacity().cpus, 1)


def _finished(references: list[Any]) -> list[Any]:
    import ray

    with _ray_unheard():
        ready, _ = ray.wait(references, num_returns=1, timeout=LOOK_SECONDS)
    return list(ready)


def _result(done: Any, item: T, died: Callable[[T], R] | None) -> R:
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        result: R = ray.get(done)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        cause.add_note(f"in the task for {_named(item)}")
        raise cause from None
    except (WorkerCrashedError, OutOfMemoryError):
        with _ray_unheard():
            time.sleep(PARAGRAPH_SECONDS)
        if died is None:
            raise TaskDied(
                f"the process that worked on {_named(item)} died twice: it ran out of memory, or a library crashed"
            ) from None
        result = died(item)
    return result


@contextmanager
def _ray_unheard() -> Iterator[None]:
    """Ray prints a paragraph to stdout about each worker that dies, whatever it is told. Ours is one sentence."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _named(item: object) -> str:
    text = str(item)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


@contextmanager
def _ray(cpus: int | None) -> Iterator[None]:
    # Ray reads its environment when it is imported, and `local_cluster` prepares that: it is not imported to be asked.
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
    else:
        started = ExitStack()
        started.enter_context(cluster.local_cluster(cpus or processes.usable_cpus()))
        try:
            yield
        finally:
            with _ray_unheard():
                started.close()


class _Shown:
    """Shows how many items are done: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, items: int) -> None:
        self.label = label
        self.items = items
        self.done = 0
        self.readings: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self.line_at = time.monotonic()  # short work says nothing
        self.live = Live(console=MESSAGES, refresh_per_second=4, transient=True) if MESSAGES.is_terminal else None

    def __enter__(self) -> "_Shown":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def one_more(self) -> None:
        """An item is done."""
        self.done += 1

    def show(self) -> None:
        """Show where we are."""
        now = time.monotonic()
        self.readings.append((now, self.done))
        while now - self.readings[0][0] > WINDOW_SECONDS:
            self.readings.popleft()
        if self.live:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(ProgressBar(total=self.items, completed=self.done, width=40), Text(self.line()))
            self.live.update(grid)
        elif now - self.line_at >= LINE_SECONDS:
            self.line_at = now
            say(self.line())

    def line(self) -> str:
        """Items done of all, and about how long the rest takes."""
        (then, before), (now, done) = self.readings[0], self.readings[-1]
        line = f"{self.label}: {self.done:,} of {self.items:,}"
        if done > before and self.done < self.items:
            line += f", about {wording.seconds((now - then) / (done - before) * (self.items - done))} left"
        return line
