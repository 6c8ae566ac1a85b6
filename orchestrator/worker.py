"""A worker: one process that takes run after run from the store. It is a Ray actor, kept warm across runs."""

import logging
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db import claiming, ledger
from db.store import Connection, Store, StoreUnreachable, retrying
from orchestrator import processes, stacking
from orchestrator.attempt import COMMIT_SECONDS, Attempt
from orchestrator.outcomes import one_line, outcome_of
from orchestrator.settings import Settings
from studies.definitions import RUN, AnyRun, FineTune, Train
from studies.registry import load_registry
from workers.supervision import (
    CheckpointError,
    Finished,
    LeaseLost,
    OtherNumerics,
    Place,
    Stopped,
    Supervisor,
    Wish,
    Yielded,
)

if TYPE_CHECKING:
    from workers.stacked import Outcome

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

        self.stacks = perform is None
        """Whoever brings another way to do a run has none to do several together."""
        if perform is None:
            import workers.stacked  # noqa: F401 - here, and not first when a claim is under way
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
        self.attempts: list[Attempt] = []
        """Those under way: several where trials are trained together."""
        self.runs = 0
        self.dismissed = False
        self.asked = threading.Event()

    def identity(self) -> tuple[str, int]:
        """Host and pid."""
        return processes.HOST, self.pid

    def ask(self, wish: str) -> None:
        """Make the current run yield or stop, and take no other."""
        self.wish = Wish(wish)
        for attempt in list(self.attempts):
            attempt.ask(self.wish)
        self.asked.set()

    def dismiss(self) -> None:
        """Leave as soon as nothing is ready. A run that was claimed meanwhile goes on: there was work after all."""
        self.dismissed = True
        self.asked.set()

    def work(self, study_id: int | None) -> int:
        """Take runs until asked to stop, or dismissed. Answers how many this call has ended, in whatever way."""
        self.device.use()
        store = Store.open(self.settings.store_url, create=False)
        try:
            pause = IDLE_SECONDS[0]
            while self.wish is Wish.CONTINUE and not self._is_orphan():
                claims = self._claim(store, study_id)
                if claims:
                    self._do(store, claims)
                    self.runs += len(claims)
                    self.dismissed = False
                    self.asked.clear()
                    pause = IDLE_SECONDS[0]
                elif self.dismissed:
                    break
                else:
                    self.asked.wait(pause)
                    pause = min(2 * pause, IDLE_SECONDS[1])
        finally:
            store.dispose()
        return self.runs

    def _is_orphan(self) -> bool:
        """The driver was killed, as far as this host can tell. Ray takes some seconds to end its workers."""
        host, pid, started = self.driver
        return host == processes.HOST and not processes.is_alive(pid, started)

    def _claim(self, store: Store, study_id: int | None) -> list[claiming.Claim]:
        """Take a run, and the trials that are trained together with it; nothing when nothing is ready."""
        process: dict[str, Any] = {
            "owner": self.owner,
            "host": processes.HOST,
            "pid": self.pid,
            "process_started": self.process_started,
            "lease_seconds": self.settings.lease_seconds,
        }
        place: dict[str, Any] = {"cpus": self.cpus, "gpus": self.gpus, "study_id": study_id}
        device = self.device
        try:
            with store.begin() as connection:
                claim = claiming.claim(connection, **process, **place, device=device.kind, numerics=device.numerics)
                if claim is None or not self.stacks:
                    return [] if claim is None else [claim]
                return stacking.claim_others(connection, claim, device, **place, process=process)
        except StoreUnreachable as error:
            log.warning("no run could be claimed: %s", error)
            return []

    def _do(self, store: Store, claims: Sequence[claiming.Claim]) -> None:
        """One attempt at each run, from claim to commit. What goes wrong inside ends up in the store, not here."""
        with ExitStack() as contexts:
            under_way = {}
            for claim in claims:
                context = contexts.enter_context(ExitStack())
                under_way[context.enter_context(self._attempt(store, claim))] = context
            for attempt, outcome in self._outcomes(list(under_way)):
                self._end(store, attempt, outcome)
                under_way[attempt].close()

    @contextmanager
    def _attempt(self, store: Store, claim: claiming.Claim) -> Iterator[Attempt]:
        with self._log_of(claim), Attempt(store, claim, self.settings) as attempt:
            self.attempts.append(attempt)
            attempt.ask(self.wish)
            try:
                yield attempt
            finally:
                self.attempts.remove(attempt)

    def _outcomes(self, attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, Finished | Exception]]:
        """Do the runs, and say of each as soon as it is over how it ended: by what it hands back, or by an error."""
        going = list(attempts)
        try:
            if self._is_seated(attempts[0].claim):
                for index, outcome in self._train_together(attempts):
                    going.remove(attempts[index])
                    yield attempts[index], outcome
            else:
                (attempt,) = attempts
                finished = self._perform(attempt.claim, attempt)
                going.remove(attempt)
                yield attempt, finished
        except Exception as error:  # the one place that catches everything: it goes into the store
            for attempt in going:
                yield attempt, error

    def _end(self, store: Store, attempt: Attempt, outcome: Finished | Exception) -> None:
        """Tell the store how an attempt ended."""
        try:
            match outcome:
                case Finished():
                    ended = self._commit(store, attempt, outcome)
                case Yielded():
                    ended = self._release(store, attempt)
                case Stopped():
                    ended = "lost" if attempt.lost else self._release(store, attempt)
                case LeaseLost():
                    ended = "lost"
                case StoreUnreachable():
                    ended = f"left to its lease: {outcome}"
                case _:
                    ended = self._fail(store, attempt, outcome)
        except StoreUnreachable as error:
            ended = f"left to its lease: {error}"
        except Exception as error:
            ended = self._fail(store, attempt, error)
        log.info("run %s: %s", attempt.claim.key[:12], ended, extra=_of(attempt.claim))

    def _is_seated(self, claim: claiming.Claim) -> bool:
        """The run is one of several that are trained together, or what is left of them."""
        if not self.stacks or claim.kind != "finetune":
            return False
        from workers.stacked import seat_in

        return seat_in(claim.numerics, self.device.numerics) is not None

    def _train_together(self, attempts: Sequence[Attempt]) -> "Iterator[tuple[int, Outcome]]":
        from workers.stacked import seat_in, train_together

        claims = [attempt.claim for attempt in attempts]
        runs = [RUN.validate_json(claim.definition) for claim in claims]
        trainings = [run for run in runs if isinstance(run, FineTune)]
        seats = [seat for claim in claims if (seat := seat_in(claim.numerics, self.device.numerics)) is not None]
        log.info("trained together: %d runs as one program", len(claims))
        return train_together(trainings, [self._place(claim) for claim in claims], attempts, seats)

    def _perform(self, claim: claiming.Claim, attempt: Attempt) -> Finished:
        return self._perform_at(self._place(claim), RUN.validate_json(claim.definition), attempt)

    def _perform_at(self, place: Place, run: AnyRun, attempt: Attempt) -> Finished:
        """Without what turns out to be broken: the same bits come out; to stop would lose the run for a broken file."""
        try:
            return self.perform(run, place, attempt)
        except (CheckpointError, OtherNumerics) as error:
            if place.resume is not None and isinstance(error, CheckpointError):
                log.warning("%s: the run begins anew", error)
                place = replace(place, resume=None)
            elif place.resume is None and place.upstream is not None and isinstance(run, Train):
                log.warning("%s: the training does without its trunk, from the first step on", error)
                place = replace(place, upstream=None)
            else:
                raise
        return self._perform_at(place, run, attempt)

    def _place(self, claim: claiming.Claim) -> Place:
        root = self.settings.checkpoints
        upstream = root / claim.upstream_checkpoint if claim.upstream_checkpoint else None
        if upstream is not None and claim.kind != "train" and not upstream.is_dir():
            # A training that was imported, for one: capsules hold results and no weights.
            raise CheckpointError(
                f"the weights of its training are not here: copy {upstream} from where it was trained"
            )
        return Place(
            device=self.device,
            folder=root / claim.key[:2] / claim.key / f"attempt-{claim.fence}",
            registry=load_registry(self.settings.datasets),
            resume=root / claim.checkpoint if claim.checkpoint else None,
            upstream=upstream,
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
                sharers=attempt.claim.sharers,
            )

        if not retrying(store, commit, seconds=COMMIT_SECONDS):
            return "refused: the run was taken by another"
        if finished.checkpoint is not None:
            _forget_all_but(finished.checkpoint)
        return "done"

    def _release(self, store: Store, attempt: Attempt) -> str:
        """Give the run back. The ledger knows whether it was cancelled or shall go on elsewhere."""

        def release(connection: Connection) -> None:
            claim = attempt.claim
            ledger.release(connection, run_id=claim.run_id, fence=claim.fence, step=attempt.step, sharers=claim.sharers)

        return self._told(store, release, "given back")

    def _fail(self, store: Store, attempt: Attempt, error: Exception) -> str:
        log.error("run %s failed", attempt.claim.key[:12], exc_info=error, extra=_of(attempt.claim))
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
                sharers=attempt.claim.sharers,
            )

        return self._told(store, fail, f"{outcome_of(error)}: {one_line(error)}")

    def _told(self, store: Store, tell: Callable[[Connection], None], ended: str) -> str:
        try:
            retrying(store, tell, seconds=self.settings.lease_seconds)
        except StoreUnreachable as error:
            return f"{ended}; the store does not know: {error}"
        return ended

    @contextmanager
    def _log_of(self, claim: claiming.Claim) -> Iterator[None]:
        """Write the log of one attempt to its own file, without what is said of others alone."""
        path = log_path(self.settings.logs, claim.key, claim.fence)
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.addFilter(lambda record: getattr(record, "run", claim.key) == claim.key)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        numerics = claim.numerics if self._is_seated(claim) else self.device.numerics
        log.info("run %s, attempt %d on %s, %s", claim.key, claim.fence, self.owner, numerics, extra=_of(claim))
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()


def _of(claim: claiming.Claim) -> dict[str, str]:
    """Marks a line of the log as one of this run alone."""
    return {"run": claim.key}


def _forget_all_but(final: Path) -> None:
    """Delete the checkpoints of a finished run that nobody will go on from: of this attempt and of those before it."""
    own = final.parent
    for folder in [*own.iterdir(), *(attempt for attempt in own.parent.iterdir() if attempt != own)]:
        if folder != final:
            shutil.rmtree(folder, ignore_errors=True)


def log_path(logs: Path, key: str, fence: int) -> Path:
    """The log file of an attempt. No folder for each run: making one costs more than all else around a short run."""
    return logs / key[:2] / f"{key}-{fence}.log"
