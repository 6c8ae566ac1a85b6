"""Handing a study to a cluster: a driver is started there as an actor that outlives the command."""

import logging
import os
import time
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock
from typing import Any

from db import answers
from db.answers import Totals
from db.store import Store, StoreError
from orchestrator import cluster
from orchestrator.driver import CannotWork, drive, no_place
from orchestrator.settings import Settings

log = logging.getLogger("vitscale.driver")

DRIVER_SECONDS = 120
"""How long a cluster has to start a driver; its first one unpacks our code there."""
LOG_SECONDS = 10.0
"""A driver on a cluster logs its progress so often."""


def hand_over(store: Store, settings: Settings, study_id: int | None, address: str) -> None:
    """Start a driver on a cluster, which stays there until nothing is left, and return.

    A second driver for the same work does no harm: leases arbitrate.
    Raises ClusterUnreachable; and CannotWork for a SQLite store that several hosts would have to share, or when the
    driver finds an obstacle.
    """
    with cluster.remote_cluster(address):
        others = cluster.other_hosts()
        if store.dialect == "sqlite" and others:
            raise CannotWork(
                f"a SQLite store serves one host, and the cluster has others: {', '.join(others[:3])}; "
                "use PostgreSQL, as in --store postgresql://user@host/database"
            )
        _start_driver(settings, study_id)


def _start_driver(settings: Settings, study_id: int | None) -> None:
    """Start a driver as a detached actor; where one for the same study is at work, it takes note and goes on.

    Raises CannotWork when it cannot work there: a store out of its reach, or runs that find no place.
    """
    import ray
    from ray.exceptions import RayError

    store = sha256(settings.store_url.encode()).hexdigest()[:8]  # another store's studies have the same numbers
    name = f"driver-{store}-{'all' if study_id is None else study_id}"
    driver: Any = (
        ray.remote(RemoteDriver)
        # One thread works, one is free to answer.
        .options(name=name, lifetime="detached", get_if_exists=True, num_cpus=0, max_concurrency=2)
        .remote(settings, study_id)
    )
    try:
        obstacle = ray.get(driver.obstacle.remote(), timeout=DRIVER_SECONDS)
    except (RayError, TimeoutError) as error:
        ray.kill(driver)
        raise CannotWork(f"the driver does not start on the cluster: {cluster.short(error)}") from None
    if obstacle is not None:
        ray.kill(driver)
        raise CannotWork(obstacle)
    driver.run.remote()


def driver_log(settings: Settings, study_id: int | None) -> Path:
    """Where a driver on a cluster writes what it does."""
    return settings.logs / f"driver-{'all' if study_id is None else study_id}.log"


class RemoteDriver:
    """The driver as an actor that outlives the command which started it."""

    def __init__(self, settings: Settings, study_id: int | None) -> None:
        self.settings = settings
        self.study_id = study_id
        self.at_work = Lock()
        self.asked_again = Event()

    def obstacle(self) -> str | None:
        """Why it cannot work from where it is, in one sentence; None when it can."""
        try:
            driver_log(self.settings, self.study_id).parent.mkdir(parents=True, exist_ok=True)
            store = Store.open(self.settings.store_url, create=False)
        except (StoreError, OSError) as error:
            return f"the cluster does not reach what it needs: {error}"
        try:
            with store.read() as connection:
                demand = answers.demand(connection, self.study_id)
        except StoreError as error:
            return f"the cluster does not reach what it needs: {error}"
        finally:
            store.dispose()
        room = cluster.capacity()
        for row in demand:
            if row.cpus > room.cpus or row.gpus > room.gpus:
                return no_place(cluster.Shape(row.cpus, row.gpus), room)
        return None

    def run(self) -> None:
        """Work until nothing is left, then leave the cluster. Asked while at work, look once more at the end."""
        import ray

        self.asked_again.set()
        if not self.at_work.acquire(blocking=False):
            return
        handler = logging.FileHandler(driver_log(self.settings, self.study_id))
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            while self.asked_again.is_set():
                self.asked_again.clear()
                self._work()
        except Exception:  # nobody waits for this actor: the log is where its end can be read
            log.exception("the driver ends")
        finally:
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _work(self) -> None:
        log.info("driver of %s, pid %d", "all studies" if self.study_id is None else self.study_id, os.getpid())
        store = Store.open(self.settings.store_url, create=False)
        try:
            ended = drive(store, self.settings, self.study_id, stopping=Event(), progress=_LoggedProgress())
        finally:
            store.dispose()
        log.info("nothing is left: %s", _counts(ended.totals))


class _LoggedProgress:
    """Writes totals into the log, when they change and not more often than every few seconds."""

    def __init__(self) -> None:
        self.written = ""
        self.at = -LOG_SECONDS

    def __call__(self, totals: Totals) -> None:
        counts, now = _counts(totals), time.monotonic()
        if counts != self.written and now - self.at >= LOG_SECONDS:
            self.written, self.at = counts, now
            log.info("%s", counts)


def _counts(totals: Totals) -> str:
    return ", ".join(f"{runs:,} {state}" for state, runs in totals.states.items() if runs)
