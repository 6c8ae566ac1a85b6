"""Many processes at one ledger: no run is lost and none is claimed twice."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import text

from db.store import Store
from tests import builders
from tests.builders import training

CLAIMER = """
import random, sys, time
from db.store import Store
from tests import builders
store = Store.open(sys.argv[1])
with store.read() as c:
    pass
print("here", flush=True)
sys.stdin.readline()
mine = []
while True:
    with store.begin() as c:
        claimed = builders.try_claim(c, owner=sys.argv[2])
    if claimed is None:
        break
    mine.append(f"{claimed.key} {claimed.fence}")
    time.sleep(random.uniform(0, 0.01))  # without any work between, SQLite lets the process that has it go on
print("\\n".join(mine))
"""


def claim_all(store: Store, url: str, *, processes: int, runs: int) -> list[str]:
    """What each process claimed, as "key fence", after all had started and were let go together."""
    with store.begin() as c:
        builders.submit(c, [training(seed=n) for n in range(runs)])
    root = Path(__file__).parents[1]
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, url, str(n)], stdin=-1, stdout=-1, stderr=-1, text=True, cwd=root
        )
        for n in range(processes)
    ]
    for process in crowd:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    claims: list[str] = []
    working = 0
    for process in crowd:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        claims += out.split("\n")[:-1] if out.strip() else []
        working += bool(out.strip())
    assert working > 1, "one process claimed everything: they did not meet"
    return claims


@pytest.mark.parametrize(
    ("processes", "runs"), [(4, 200), pytest.param(32, 2000, marks=pytest.mark.slow, id="32 processes, 2000 runs")]
)
def test_processes_that_claim_at_once_lose_no_run_and_get_none_twice(
    store: Store, store_url: str, processes: int, runs: int
) -> None:
    claims = claim_all(store, store_url, processes=processes, runs=runs)
    expected = {f"{training(seed=n).key} 1" for n in range(runs)}
    assert Counter(claims) == dict.fromkeys(expected, 1)
    with store.read() as c:
        states = c.execute(text("SELECT state, fence, count(*) FROM run GROUP BY state, fence")).all()
        attempts = c.execute(text("SELECT count(*) FROM attempt")).scalar()
    assert [tuple(row) for row in states] == [("running", 1, runs)]
    assert attempts == runs
