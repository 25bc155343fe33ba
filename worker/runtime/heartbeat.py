"""A lease is kept alive, and progress told, by a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import leases
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.jobs.state import LeaseLost
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import previews
from udig_recon.worker.storage.base import Storage

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
Given = TypeVar("Given")


class ProgressReport(NamedTuple):
    """What the computing thread tells: how far it is, and what there is to see, if the file is to be replaced."""

    point: Point
    preview: SliceResult | None = None


class LeaseKeeper:
    """Beats for one claim until it is closed, fenced off or the job is cancelled."""

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, settings: Settings, storage: Storage) -> None:
        self.claim = claim
        self.cancelled = False
        self.yield_requested = self.out_of_time = False  # as the last beat heard
        self.activity = 0  # of life, by the computing thread
        self.waiting_for_database = False  # the computing thread waits for the database
        self._sessions, self._settings, self._storage = sessions, settings, storage
        self._pending: deque[Point] = deque()
        self._previews: deque[SliceResult] = deque(maxlen=1)  # the newest: a database that is away must not fill memory
        self._write_lock = threading.Lock()
        self._wake, self._closing, self._lost = threading.Event(), threading.Event(), threading.Event()
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """Whether the slice is this worker's no more: stop and write nothing."""
        return self._lost.is_set()

    @property
    def holds_lease(self) -> bool:
        """Whether nobody else can have the slice: the last beat is younger than the lease that it brought."""
        return not self.lost and time.monotonic() - self._renewed_at < self._settings.lease_seconds

    def mark_lost(self) -> None:
        """Note that the slice is this worker's no more."""
        self._lost.set()

    def mark_active(self) -> None:
        """The computing thread gets on: the watchdog need not end it. Costs nothing."""
        self.activity += 1

    def report(self, progress: ProgressReport) -> None:
        """Have a snapshot written, soon and in order."""
        self.mark_active()
        self._pending.append(progress.point)
        if progress.preview is not None:
            self._previews.append(progress.preview)
        self._wake.set()

    def verify_lease(self) -> None:
        """Make sure that the slice is still this worker's. Raises LeaseLost."""
        if self.lost:
            raise LeaseLost
        if not self.holds_lease:
            self.commit(lambda session: leases.heartbeat(session, self.claim, self._settings.lease_seconds))

    def commit(self, change: Callable[[Session], Given]) -> Given:
        """Make a fenced change, after all that was told, and as soon as the database is there. Raises LeaseLost."""

        def report_and_change(session: Session) -> Given:
            self._write_pending()
            return change(session)

        return self.query(report_and_change)

    def query(self, question: Callable[[Session], Given]) -> Given:
        """The answer of the database, as soon as it is there."""
        self.waiting_for_database = True
        try:
            with self._write_lock:
                while True:
                    try:
                        with self._sessions.begin() as session:
                            return question(session)
                    except AWAY as error:
                        log.warning("database.unavailable", extra={"error": type(error).__name__})
                        time.sleep(RETRY_SECONDS)
        finally:
            self.waiting_for_database = False

    def close(self) -> None:
        """Stop beating; the lease lives on until it runs out."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.lost:
            self._wake.wait(self._settings.heartbeat_seconds)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                with self._write_lock:
                    self._renew()
            except LeaseLost:
                self.mark_lost()
            except AWAY as error:
                log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _renew(self) -> None:
        began = time.monotonic()
        with self._sessions.begin() as session:
            reply = leases.heartbeat(session, self.claim, self._settings.lease_seconds)
        self._renewed_at = began
        self.yield_requested, self.out_of_time = reply.yield_requested, reply.out_of_time
        if reply.cancel:
            with self._sessions.begin() as session:
                leases.stop_cancelled(session, self.claim)
            self.cancelled = True
            raise LeaseLost
        self._write_pending()

    def _write_pending(self) -> None:
        while self._pending:
            with self._sessions.begin() as session:
                leases.record(session, self.claim, self._pending[0], self._settings.lease_seconds)
            self._pending.popleft()
        while self._previews:
            self._write_preview(self._previews.pop())

    def _write_preview(self, picture: SliceResult) -> None:
        if not self.holds_lease:
            return
        try:
            previews.save(self._storage, self.claim.job_id, self.claim.slice, picture)
        except OSError as error:
            # A picture less; whether the disk is full or the job was deleted shows where it matters.
            log.warning("preview.write_failed", extra={"error": str(error.strerror)})
