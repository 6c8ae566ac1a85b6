"""One attempt at a run: keeps its lease, buffers its measurements, and says how it ended. Runs inside a worker."""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from db import claiming, ledger
from db.store import Connection, Store, StoreUnreachable, retrying
from orchestrator.settings import Settings
from workers.supervision import LeaseLost, Wish

log = logging.getLogger("vitscale.attempt")

RENEWALS_PER_LEASE = 3
COMMIT_SECONDS = 600.0
"""How long a finished run waits for its store. Its lease may end meanwhile; the fence then decides."""


class Attempt:
    """The supervisor of one claimed run. A thread renews the lease while the run works.

    When the lease cannot be renewed, the run is stopped before the lease ends, so that no two work on it.
    """

    def __init__(self, store: Store, claim: claiming.Claim, settings: Settings) -> None:
        self.store = store
        self.claim = claim
        self.settings = settings
        self.step = claim.checkpoint_step
        self._wish = Wish.CONTINUE
        self._lost = False
        self._unsent: list[tuple[int, str, float]] = []
        self._unsent_lock = threading.Lock()
        self._ended = threading.Event()
        self._lease_end = time.monotonic() + settings.lease_seconds
        self._keeper = threading.Thread(target=self._keep_lease, name="lease", daemon=True)

    def __enter__(self) -> "Attempt":
        self._keeper.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._keeper.join()

    # ------------------------------------------------------------------------------- what workers.Supervisor asks

    def reached(self, step: int) -> Wish:
        """Called after every step."""
        self.step = step
        return self._wish

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep measurements until the next renewal or the commit."""
        with self._unsent_lock:
            self._unsent.extend((step, metric, value) for metric, value in metrics.items())

    def checkpointed(self, folder: Path, step: int) -> None:
        """Make a checkpoint the run's current one. Raises LeaseLost when the run is somebody else's by now."""
        relative = self.relative(folder)

        def record(connection: Connection) -> bool:
            return ledger.record_checkpoint(
                connection,
                run_id=self.claim.run_id,
                fence=self.claim.fence,
                checkpoint=relative,
                step=step,
            )

        if not retrying(self.store, record, seconds=max(1.0, self._lease_end - time.monotonic())):
            raise LeaseLost(f"run {self.claim.key[:12]} was taken by another worker")

    # -------------------------------------------------------------------------------------- what the worker asks

    def ask(self, wish: Wish) -> None:
        """Tell the run what is wanted of it from now on."""
        if self._wish is not Wish.STOP:
            self._wish = wish

    @property
    def lost(self) -> bool:
        """The run belongs to somebody else by now."""
        return self._lost

    def unsent(self) -> list[tuple[int, str, float]]:
        """Measurements that no renewal has carried yet."""
        with self._unsent_lock:
            return list(self._unsent)

    def relative(self, folder: Path) -> str:
        """A checkpoint folder as the store names it."""
        return str(folder.relative_to(self.settings.checkpoints))

    # ------------------------------------------------------------------------------------------------- the lease

    def _keep_lease(self) -> None:
        pause = self.settings.lease_seconds / RENEWALS_PER_LEASE
        while not self._ended.wait(pause):
            pause = self.settings.lease_seconds / RENEWALS_PER_LEASE if self._renew() else min(pause, 1.0)

    def _renew(self) -> bool:
        """Prolong the lease once; False when the store did not answer. Stops the run when its time is over."""
        unsent = self.unsent()
        asked_at = time.monotonic()
        try:
            with self.store.begin() as connection:
                answer = ledger.renew(
                    connection,
                    run_id=self.claim.run_id,
                    fence=self.claim.fence,
                    lease_seconds=self.settings.lease_seconds,
                    step=self.step,
                    measurements=unsent,
                )
        except StoreUnreachable as error:
            log.warning("the lease could not be renewed: %s", error)
            if time.monotonic() > self._lease_end - self.settings.lease_seconds / RENEWALS_PER_LEASE / 2:
                self.ask(Wish.STOP)
            return False
        self._lease_end = asked_at + self.settings.lease_seconds
        with self._unsent_lock:
            del self._unsent[: len(unsent)]
        if answer == "lost":
            self._lost = True
            self.ask(Wish.STOP)
        elif answer == "prune":  # to the run the same as being cancelled; the ledger knows which it was
            self.ask(Wish.STOP)
        elif answer != "continue":
            self.ask(Wish(answer))
        return True
