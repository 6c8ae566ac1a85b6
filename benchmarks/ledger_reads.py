"""What `status` and its neighbours ask of a store with 10,000 runs, half of them done.

python -m benchmarks.ledger_reads
"""

from collections.abc import Callable
from functools import partial

from sqlalchemy import text

from benchmarks.databases import fresh_urls, median_milliseconds, print_table
from db import answers, frontiers
from db.store import Store
from tests.builders import evaluation, submit, training

RUNS = 10_000
REPEATS = 9


def fill(store: Store) -> int:
    trainings = [training(seed=n) for n in range(RUNS // 2)]
    with store.begin() as c:
        study = submit(c, [run for first in trainings for run in (first, evaluation(first))])
        done = "SELECT run_id FROM study_run WHERE position < :half"
        c.execute(
            text(f"UPDATE run SET state = 'done', step = steps, seconds = 1, fence = 1 WHERE id IN ({done})"),
            {"half": RUNS // 2},
        )
        c.execute(
            text(
                "INSERT INTO result (run_id, metric, dataset, split, image_size, value) "
                f"SELECT id, 'accuracy', 'digits', 'test', 8, 0.5 FROM run WHERE kind = 'evaluate' AND id IN ({done})"
            ),
            {"half": RUNS // 2},
        )
        submit(c, [run for first in trainings for run in (first, evaluation(first))])
    with store.begin() as c:
        c.execute(text("ANALYZE"))
    return study


def open_and_close(url: str) -> None:
    Store.open(url).dispose()


def main() -> None:
    table = []
    with fresh_urls() as urls:
        for dialect, url in urls.items():
            store = Store.open(url)
            study = fill(store)
            with store.read() as c:
                keys = [run.key for run in answers.runs_of(c, study)]
                (series,) = frontiers.series_of(c, study)
                questions: dict[str, tuple[Callable[[], object], int]] = {
                    "totals of the store": (partial(answers.totals, c), 100),
                    "totals of a study": (partial(answers.totals, c, study), 100),
                    "studies": (partial(answers.studies, c), 100),
                    "known, all keys": (partial(answers.known, c, keys), 500),
                    "runs_of": (partial(answers.runs_of, c, study), 1000),
                    "results_of": (partial(answers.results_of, c, study), 500),
                    "excluded": (partial(frontiers.excluded, c, series), 500),
                }
                for name, (question, goal) in questions.items():
                    least, median, most = median_milliseconds(question, REPEATS)
                    said = "met" if median < goal else "MISSED"
                    table.append((name, dialect, least, median, most, median / goal, f"{goal} ms: {said}"))
            store.dispose()
            least, median, most = median_milliseconds(partial(open_and_close, url), REPEATS)
            table.append(("open", dialect, least, median, most, median / 150, "150 ms"))
    print(f"a store of {RUNS:,} runs, median of {REPEATS} [ms]")
    print_table(("question", "database", "least", "median", "most", "of goal", "goal"), table)


if __name__ == "__main__":
    main()
