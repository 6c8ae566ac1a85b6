"""A worker: one process that takes run after run from the store. It is a Ray actor, kept warm across runs."""

import logging
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from db import ledger
from db.store import Connection, Store, StoreUnreachable, retrying
from orchestrator import processes
from orchestrator.attempt import COMMIT_SECONDS, Attempt
from orchestrator.outcomes import one_line, outcome_of
from orchestrator.settings import Settings
from studies.definitions import RUN, AnyRun, Train
from studies.registry import load_registry
from workers.supervision import CheckpointError, Finished, LeaseLost, Place, Stopped, Supervisor, Wish, Yielded

if TYPE_CHECKING:
    pass

Perform = Callable[[AnyRun, Place, Supervisor], Finished]
log = logging.getLogger("vitscale")

IDLE_SECONDS = (0.02, 0.5)
"""Shortest and longest pause of a worker that finds nothing ready."""


class Worker:
    """Takes runs of one shape (CPUs, GPUs) until it is told to stop.

    Two threads: `work` works, and `ask` is answered beside it.
    """

    def __init__(
        self, settings: Settings, cpus: int, gpus: int, perform: Perform | None, driver: tuple[str, int, float | None]
    ) -> None:
        """What the worker has and for whom it works.

        perform: what does a run; `workers.perform.perform` when None, imported here so that torch loads once.
        driver: host, pid and starting time of the process that hired it.
        """
        from workers.devices import Device

        if perform is None:
            from workers.perform import perform as perform_run

            perform = perform_run
        self.settings = settings
        self.cpus, self.gpus = cpus, gpus
        self.driver = driver
        self.perform = perform
        kind = "cpu" if settings.device == "auto" and not gpus else settings.device  # without a GPU granted, use none
        self.device: Device = Device.named(kind, threads=cpus)
        self.pid, self.process_started = processes.own()
        self.owner = f"{processes.HOST}:{self.pid}"
        self.wish = Wish.CONTINUE
        self.attempt: Attempt | None = None
        self.runs = 0
        self.asked = threading.Event()

    def identity(self) -> tuple[str, int]:
        """Host and pid."""
        return processes.HOST, self.pid

    def ask(self, wish: str) -> None:
        """Make the current run yield or stop, and take no other."""
        self.wish = Wish(wish)
        if self.attempt is not None:
            self.attempt.ask(self.wish)
        self.asked.set()

    def work(self, study_id: int | None) -> int:
        """Take runs until asked to stop. Answers how many this call has ended, in whatever way."""
        self.device.use()
        store = Store.open(self.settings.store_url, create=False)
        try:
            pause = IDLE_SECONDS[0]
            while self.wish is Wish.CONTINUE and not self._is_orphan():
                claim = self._claim(store, study_id)
                if claim is None:
                    self.asked.wait(pause)
                    pause = min(2 * pause, IDLE_SECONDS[1])
                else:
                    self._do(store, claim)
                    self.runs += 1
                    pause = IDLE_SECONDS[0]
        finally:
            store.dispose()
        return self.runs

    def _is_orphan(self) -> bool:
        """The driver was killed, as far as this host can tell. Ray takes some seconds to end its workers."""
        host, pid, started = self.driver
        return host == processes.HOST and not processes.is_alive(pid, started)

    def _claim(self, store: Store, study_id: int | None) -> ledger.Claim | None:
        try:
            with store.begin() as connection:
                return ledger.claim(
                    connection,
                    owner=self.owner,
                    host=processes.HOST,
                    pid=self.pid,
                    process_started=self.process_started,
                    lease_seconds=self.settings.lease_seconds,
                    cpus=self.cpus,
                    gpus=self.gpus,
                    study_id=study_id,
                    device=self.device.kind,
                    numerics=self.device.numerics,
                )
        except StoreUnreachable as error:
            log.warning("no run could be claimed: %s", error)
            return None

    def _do(self, store: Store, claim: ledger.Claim) -> None:
        """One attempt, from claim to commit. Whatever goes wrong inside ends up in the store, not here."""
        with self._log_of(claim), Attempt(store, claim, self.settings) as attempt:
            self.attempt = attempt
            attempt.ask(self.wish)
            try:
                ended = self._commit(store, attempt, self._perform(claim, attempt))
            except Yielded:
                ended = self._release(store, attempt)
            except Stopped:
                ended = "lost" if attempt.lost else self._release(store, attempt)
            except LeaseLost:
                ended = "lost"
            except StoreUnreachable as error:
                ended = f"left to its lease: {error}"
            except Exception as error:  # the one place that catches everything: it goes into the store
                log.exception("run %s failed", claim.key[:12])
                ended = self._fail(store, attempt, error)
            finally:
                self.attempt = None
            log.info("run %s: %s", claim.key[:12], ended)

    def _perform(self, claim: ledger.Claim, attempt: Attempt) -> Finished:
        return self._perform_at(self._place(claim), RUN.validate_json(claim.definition), attempt)

    def _perform_at(self, place: Place, run: AnyRun, attempt: Attempt) -> Finished:
        """Without what turns out to be broken: the same bits come out; to stop would lose the run for a broken file."""
        try:
            return self.perform(run, place, attempt)
        except CheckpointError as error:
            if place.resume is not None:
                log.warning("%s: the run begins anew", error)
                place = replace(place, resume=None)
            elif place.upstream is not None and isinstance(run, Train):
                log.warning("%s: the training does without its trunk, from the first step on", error)
                place = replace(place, upstream=None)
            else:
                raise
        return self._perform_at(place, run, attempt)

    def _place(self, claim: ledger.Claim) -> Place:
        root = self.settings.checkpoints
        return Place(
            device=self.device,
            folder=root / claim.key[:2] / claim.key / f"attempt-{claim.fence}",
            registry=load_registry(self.settings.datasets),
            resume=root / claim.checkpoint if claim.checkpoint else None,
            upstream=root / claim.upstream_checkpoint if claim.upstream_checkpoint else None,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            any_numerics=self.settings.any_numerics,
            micro_batch=claim.micro_batch,
        )

    def _commit(self, store: Store, attempt: Attempt, finished: Finished) -> str:
        def commit(connection: Connection) -> bool:
            return ledger.commit(
                connection,
                run_id=attempt.claim.run_id,
                fence=attempt.claim.fence,
                values=finished.values,
                checkpoint=attempt.relative(finished.checkpoint) if finished.checkpoint else None,
                step=attempt.step,
                mixed_numerics=finished.mixed_numerics,
                data_digest=finished.certificate.digest if finished.certificate else None,
                data_skipped=finished.certificate.skipped if finished.certificate else None,
                measurements=attempt.unsent(),
            )

        if not retrying(store, commit, seconds=COMMIT_SECONDS):
            return "refused: the run was taken by another"
        if finished.checkpoint is not None:
            _forget_all_but(finished.checkpoint)
        return "done"

    def _release(self, store: Store, attempt: Attempt) -> str:
        """Give the run back. The ledger knows whether it was cancelled or shall go on elsewhere."""

        def release(connection: Connection) -> None:
            ledger.release(connection, run_id=attempt.claim.run_id, fence=attempt.claim.fence, step=attempt.step)

        return self._told(store, release, "given back")

    def _fail(self, store: Store, attempt: Attempt, error: Exception) -> str:
        text = "".join(traceback.format_exception(error))

        def fail(connection: Connection) -> None:
            ledger.fail(
                connection,
                run_id=attempt.claim.run_id,
                fence=attempt.claim.fence,
                outcome=outcome_of(error),
                error=one_line(error),
                traceback=text,
                step=attempt.step,
                measurements=attempt.unsent(),
            )

        return self._told(store, fail, f"{outcome_of(error)}: {one_line(error)}")

    def _told(self, store: Store, tell: Callable[[Connection], None], ended: str) -> str:
        try:
            retrying(store, tell, seconds=self.settings.lease_seconds)
        except StoreUnreachable as error:
            return f"{ended}; the store does not know: {error}"
        return ended

    @contextmanager
    def _log_of(self, claim: ledger.Claim) -> Iterator[None]:
        """Write the log of one attempt to its own file."""
        path = log_path(self.settings.logs, claim.key, claim.fence)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.info("run %s, attempt %d on %s, %s", claim.key, claim.fence, self.owner, self.device.numerics)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()


def _forget_all_but(final: Path) -> None:
    """Delete the checkpoints of a finished run that nobody will go on from: of this attempt and of those before it."""
    own = final.parent
    for folder in [*own.iterdir(), *(attempt for attempt in own.parent.iterdir() if attempt != own)]:
        if folder != final:
            shutil.rmtree(folder, ignore_errors=True)


def log_path(logs: Path, key: str, fence: int) -> Path:
    """The log file of an attempt. No folder for each run: making one costs more than all else around a short run."""
    return logs / key[:2] / f"{key}-{fence}.log"
