"""The reconcile loop: read what is wanted, compare it with what runs, act. It keeps no state that it would miss.

Several drivers may work on one store: leases arbitrate. A driver that dies takes nothing with it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event

from db import answers, ledger
from db.store import Connection, Store, StoreUnreachable, retrying
from orchestrator import processes
from orchestrator.cluster import Left, Pool, Shape, capacity
from orchestrator.searching import Searching
from orchestrator.settings import Settings
from orchestrator.worker import Perform

log = logging.getLogger("vitscale.driver")

TICK_SECONDS = 0.5
REAP_SECONDS = 2.0
LOOK_SECONDS = 2.0
"""So often are searches looked at although no run changed its state."""
STORE_PATIENCE_SECONDS = 600.0
"""How long a driver waits for a store that went away."""
IDLE_TICKS = 10
"""So often in a row may nothing be ready or running while something waits."""
DEATHS_BEFORE_WORK = 3
"""So many workers in a row that die before their first run are no accident."""


class CannotWork(Exception):
    """The study cannot be worked on here, whatever is tried."""


def no_place(shape: Shape, room: Shape) -> str:
    """What is said about runs that are larger than all there is."""
    return (
        f"runs that ask for {shape.cpus} CPUs and {shape.gpus} GPUs find no place: "
        f"all there is are {room.cpus} CPUs and {room.gpus} GPUs; change 'resources' in the study"
    )


@dataclass(frozen=True)
class Ended:
    """How a driver came to its end."""

    totals: answers.Totals
    interrupted: bool


def drive(
    store: Store,
    settings: Settings,
    study_id: int | None,
    *,
    stopping: Event,
    progress: Callable[[answers.Totals], None],
    perform: Perform | None = None,
) -> Ended:
    """Work on a study (or on everything, with None) until nothing is left that can be done.

    stopping: when it is set, workers save checkpoints and leave.
    Ray must be connected. Raises CannotWork, and StoreUnreachable when the store stays away.
    """
    return _Driver(store, settings, study_id, stopping, progress, perform).run()


class _Driver:
    def __init__(
        self,
        store: Store,
        settings: Settings,
        study_id: int | None,
        stopping: Event,
        progress: Callable[[answers.Totals], None],
        perform: Perform | None,
    ) -> None:
        self.store = store
        self.study_id = study_id
        self.stopping = stopping
        self.progress = progress
        self.pool = Pool(settings, study_id, perform)
        self.room = capacity()
        self.deaths_before_work = 0
        self.idle_ticks = 0
        self.reaped_at = 0.0
        self.searching = Searching(store, settings, study_id)
        self.searched: tuple[Mapping[str, int], float] | None = None
        """States of all runs, and the time, when searches were last moved on."""

    def run(self) -> Ended:
        while True:
            self.bury_the_dead()
            totals, demand = self.read()
            if self.stopping.is_set():
                self.progress(totals)
                return self.leave(interrupted=True)
            if totals.searches_open and self.move_searches(totals):
                totals, demand = self.read()  # before a worker is let go for whom there is work now
            self.progress(totals)
            if totals.is_over:
                return self.leave(interrupted=False)
            self.check_possible(demand)
            self.match(demand)
            self.wait()

    # ---------------------------------------------------------------------------------------- read, compare, act

    def read(self) -> tuple[answers.Totals, dict[Shape, int]]:
        """What is left to do, and how many runs of each shape could be at work now."""

        def ask(connection: Connection) -> tuple[answers.Totals, dict[Shape, int]]:
            totals = answers.totals(connection, self.study_id)
            rows = answers.demand(connection, self.study_id)
            return totals, {Shape(row.cpus, row.gpus): row.runs for row in rows}

        return retrying(self.store, ask, seconds=STORE_PATIENCE_SECONDS, write=False)

    def check_possible(self, demand: dict[Shape, int]) -> None:
        for shape in demand:
            if shape.cpus > self.room.cpus or shape.gpus > self.room.gpus:
                raise CannotWork(no_place(shape, self.room))
        self.idle_ticks = 0 if demand else self.idle_ticks + 1
        if self.idle_ticks > IDLE_TICKS:
            raise CannotWork(
                "the runs that are left wait for others that were cancelled; `vitscale resume` frees those"
            )

    def move_searches(self, totals: answers.Totals) -> bool:
        """Let trials end and others begin where runs changed since. Answers whether searches move, here or elsewhere.

        A store that does not answer is no reason to stop: the next tick asks again.
        """
        now = time.monotonic()
        if self.searched is not None and not self.searching.watches:
            states, looked_at = self.searched
            if states == totals.states and now - looked_at < LOOK_SECONDS:
                return False
        try:
            moved = self.searching.advance()
        except StoreUnreachable as error:
            log.warning("searches wait: %s", error)
            return False
        self.searched = totals.states, now
        if moved:
            self.idle_ticks = 0
        return moved

    def match(self, demand: dict[Shape, int]) -> None:
        """Hire where there is work and room; let go where there is no work."""
        for worker in list(self.pool.workers):
            if worker.shape not in demand:
                self.pool.dismiss(worker)
        free_cpus = self.room.cpus - sum(worker.shape.cpus for worker in self.pool.workers)
        free_gpus = self.room.gpus - sum(worker.shape.gpus for worker in self.pool.workers)
        for shape, runs in demand.items():
            hired = sum(worker.shape == shape for worker in self.pool.workers)
            while hired < runs and shape.cpus <= free_cpus and shape.gpus <= free_gpus:
                self.pool.hire(shape)
                hired, free_cpus, free_gpus = hired + 1, free_cpus - shape.cpus, free_gpus - shape.gpus

    def wait(self) -> None:
        for left in self.pool.left(TICK_SECONDS):
            self.take_note(left)
        if not self.pool.workers:
            self.stopping.wait(TICK_SECONDS)

    def take_note(self, left: Left) -> None:
        """A worker is gone. Its run is free at once if the substrate says that its process died."""
        who = left.worker.host_and_pid()
        if left.error is not None:
            log.warning("a worker is gone, its run goes on from its checkpoint: %s", left.error)
        if left.died and who is None:
            self.deaths_before_work += 1
            if self.deaths_before_work >= DEATHS_BEFORE_WORK:
                raise CannotWork(f"workers do not start: {left.error}")
        elif left.died and who is not None:
            self.declare_dead(host=who[0], pid=who[1], reason=left.error or "the worker died")
        else:
            self.deaths_before_work = 0

    # ----------------------------------------------------------------------------------------------- the dead

    def bury_the_dead(self) -> None:
        """Free the runs whose lease is over, and those whose process on this host is gone."""
        now = time.monotonic()
        if now - self.reaped_at < REAP_SECONDS:
            return
        self.reaped_at = now
        try:
            with self.store.read() as connection:
                alive = ledger.live_attempts(connection)
            if any(attempt.is_over for attempt in alive):
                retrying(self.store, ledger.reap, seconds=1)
            for attempt in alive:
                if attempt.host == processes.HOST and not processes.is_alive(attempt.pid, attempt.process_started):
                    self.declare_dead(attempt.host, attempt.pid, "its process is gone")
            self.searching.free_those_of_the_dead()
        except StoreUnreachable as error:
            log.warning("%s", error)

    def declare_dead(self, host: str, pid: int, reason: str) -> None:
        def tell(connection: Connection) -> None:
            for attempt in ledger.live_attempts(connection):
                if (attempt.host, attempt.pid) == (host, pid):
                    ledger.declare_dead(connection, run_id=attempt.run_id, fence=attempt.fence, reason=reason)

        retrying(self.store, tell, seconds=STORE_PATIENCE_SECONDS)

    # --------------------------------------------------------------------------------------------------- leaving

    def leave(self, *, interrupted: bool) -> Ended:
        """Ask the workers to save and go, wait until they have, and read the totals once more."""
        self.pool.drop_unplaced()
        self.pool.ask("yield")
        while self.pool.workers:
            for left in self.pool.left(TICK_SECONDS):
                self.take_note(left)
        self.searching.close()
        totals, _ = self.read()
        self.progress(totals)
        return Ended(totals, interrupted)
