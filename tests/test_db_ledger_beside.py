"""Claims beside a claim: which trials may be trained together, and that nobody else gets one of them too."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from db import answers, claiming, ledger, searches, studies
from db.beside import Waiting, trials_beside
from db.claiming import Claim
from db.searches import HeldSearch
from db.store import Connection, Store
from studies.searches import PlannedSearch
from tests import builders
from tests.builders import training

LRS = (1e-3, 3e-3, 1e-2, 3e-2)
PROCESS: dict[str, Any] = {"owner": "a", "host": "here", "pid": 1, "process_started": 0.0, "lease_seconds": 60.0}


def submit(connection: Connection, *found: PlannedSearch, together: bool = True, name: str = "tiny") -> int:
    return studies.submit(
        connection,
        name=name,
        title="A tiny study",
        source="tests",
        shows="nothing",
        text=f"name: {name}",
        file=f"studies/{name}.yaml",
        planned=[training()],
        searches=found,
        cpus=1,
        gpus=0,
        priority=0,
        together=together,
    ).study_id


def opened(connection: Connection, *found: PlannedSearch, together: bool = True) -> list[HeldSearch]:
    """A study of these searches, whose trials are ready."""
    study = submit(connection, *found, together=together)
    builders.commit(connection, builders.claim(connection))
    held = searches.undecided(connection, study)
    for each in held:
        add_trials(connection, each)
    return held


def add_trials(connection: Connection, held: HeldSearch, lrs: Sequence[float] = LRS) -> None:
    searches.add_runs(connection, held.id, [run for lr in lrs for run in held.planned.trial_runs({"lr_peak": lr})])


def beside(connection: Connection, claimed: Claim, cpus: int = 2, study_id: int | None = None) -> Sequence[Waiting]:
    return trials_beside(connection, claimed.run_id, cpus=cpus, gpus=0, study_id=study_id)


def claim_beside(connection: Connection, run_id: int, numerics: str = "cpu stacked=1/2") -> Claim | None:
    return claiming.claim_beside(connection, run_id, **PROCESS, device="cpu", numerics=numerics)


def test_beside_a_claimed_trial_are_the_ready_ones_of_its_search_in_their_order(store: Store) -> None:
    with store.begin() as c:
        (held,) = opened(c, builders.search(training(), LRS))
        claimed = builders.claim(c)
        found = beside(c, claimed)
        runs = [run for lr in LRS for run in held.planned.trial_runs({"lr_peak": lr})]
        assert [each.definition for each in found] == [run.definition for run in runs]
        assert found[0] == Waiting(claimed.run_id, claimed.definition, 0, None, None)
        second = builders.claim(c)
        builders.fail(c, second)
        assert [each.last_numerics for each in beside(c, claimed)] == [None, "cpu-avx2-1", None, None]


def test_a_search_that_does_not_ask_for_it_has_nothing_beside(store: Store) -> None:
    with store.begin() as c:
        opened(c, builders.search(training(), LRS), together=False)
        assert beside(c, builders.claim(c)) == []
        submit(c, builders.search(training(), LRS), together=True)
        assert len(beside(c, builders.claim(c))) == 3
        submit(c, builders.search(training(), LRS), together=False)
        assert beside(c, builders.claim(c)) == []


def test_trials_of_other_searches_data_and_lengths_are_not_beside(store: Store) -> None:
    with store.begin() as c:
        several = builders.search(training(), LRS, tasks=2)
        opened(c, several, builders.search(training(), LRS, transfer="other", seed=1))
        claimed = builders.claim(c)
        found = beside(c, claimed)
        assert len(found) == 4
        assert len({(each.run_id, claimed.steps) for each in found}) == 4
        assert {f'"examples":{50 * claimed.steps},' in each.definition for each in found} == {True}


def test_a_run_that_is_no_trial_has_nothing_beside(store: Store) -> None:
    with store.begin() as c:
        submit(c, builders.search(training(), LRS))
        assert beside(c, builders.claim(c)) == []


def test_trials_that_the_place_is_too_small_for_are_not_beside(store: Store) -> None:
    with store.begin() as c:
        opened(c, builders.search(training(), LRS))
        claimed = builders.claim(c)
        c.execute(text("UPDATE run SET cpus = 3 WHERE state = 'ready'"))
        assert [each.run_id for each in beside(c, claimed)] == [claimed.run_id]
        assert len(beside(c, claimed, cpus=4)) == 4


def test_a_worker_of_one_study_takes_no_trials_that_only_another_asks_for_together(store: Store) -> None:
    with store.begin() as c:
        (held,) = opened(c, builders.search(training(), LRS))
        other = submit(c, builders.search(training(), LRS), name="other", together=False)
        (its,) = searches.undecided(c, other)
        add_trials(c, its)
        claimed = builders.claim(c, study=other)
        assert beside(c, claimed, study_id=other) == []
        assert len(beside(c, claimed, study_id=held.study_id)) == 4
        assert len(beside(c, claimed)) == 4, "each once"


def test_a_trial_that_somebody_else_took_meanwhile_is_not_taken_again(store: Store) -> None:
    with store.begin() as c:
        opened(c, builders.search(training(), LRS))
        found = beside(c, builders.claim(c))
        taken = claim_beside(c, found[1].run_id)
        assert taken is not None
        assert claim_beside(c, found[1].run_id) is None
        assert (taken.run_id, taken.fence, taken.numerics) == (found[1].run_id, 1, "cpu stacked=1/2")
        assert taken.upstream_checkpoint is not None
        (attempt,) = answers.attempts_of(c, taken.run_id)
        assert (attempt.owner, attempt.numerics, attempt.ended_at) == ("a", "cpu stacked=1/2", None)
        assert builders.commit(c, taken, accuracy=0.5)


def test_a_claimed_run_takes_the_class_of_its_seat_before_it_begins_and_keeps_that_of_step_0_later(
    store: Store,
) -> None:
    with store.begin() as c:
        opened(c, builders.search(training(), LRS))
        claimed = claiming.compute_in(c, builders.claim(c), "cpu stacked=0/4")
        assert claimed.numerics == "cpu stacked=0/4"
        ledger.record_checkpoint(c, run_id=claimed.run_id, fence=1, checkpoint="here", step=7)
        ledger.release(c, run_id=claimed.run_id, fence=1, step=7)
        again = builders.claim(c)
        assert (again.run_id, again.numerics) == (claimed.run_id, "cpu stacked=0/4")
        assert claiming.compute_in(c, again, "gpu") == again
        assert [each.numerics for each in answers.attempts_of(c, again.run_id)] == ["cpu stacked=0/4", "gpu"]


@pytest.mark.parametrize("end", ["commit", "fail", "release"])
def test_runs_that_were_done_at_the_same_time_share_it(store: Store, end: str) -> None:
    with store.begin() as c:
        opened(c, builders.search(training(), LRS))
        claimed = builders.claim(c)
        c.execute(text("UPDATE attempt SET started_at = started_at - 400"))
        of: dict[str, Any] = {"run_id": claimed.run_id, "fence": 1, "step": 1, "sharers": 4}
        if end == "commit":
            ledger.commit(c, **of, values=[], checkpoint=None)
        elif end == "fail":
            ledger.fail(c, **of, outcome="unknown", error="boom", traceback=None)
        else:
            ledger.release(c, **of)
        (run,) = answers.run_named(c, claimed.key)
        assert run.seconds == pytest.approx(100, abs=5)


def test_workers_that_claim_beside_each_other_at_once_get_no_trial_twice(store: Store) -> None:
    with store.begin() as c:
        (held,) = opened(c, builders.search(training(), LRS))
        add_trials(c, held, [0.1 + n for n in range(20)])
    taken: list[int] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        while True:
            with store.begin() as c:
                claimed = builders.try_claim(c)
                if claimed is None:
                    return
                others = [each.run_id for each in beside(c, claimed) if each.run_id != claimed.run_id][:3]
                claims = [claimed, *(claim_beside(c, run_id) for run_id in others)]
            assert None not in claims, "it was locked"
            taken.extend(each.run_id for each in claims if each is not None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Counter(taken).values()) == {1}
    assert len(taken) == 24
    with store.read() as c:
        assert c.execute(text("SELECT count(*) FROM attempt WHERE ended_at IS NULL")).scalar() == 24
