"""Heartbeats: a thread of its own renews the lease of a claim and writes progress while the slice is computed."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import leases
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.jobs.leases import HeartbeatReply, Point
from udig_recon.worker.jobs.state import LeaseLost
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import previews
from udig_recon.worker.storage.base import Storage

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0  # between two attempts to reach a database that does not answer
Answer = TypeVar("Answer")


class ProgressReport(NamedTuple):
    """Progress of a slice, and the preview that is to replace the last one."""

    point: Point
    preview: SliceResult | None = None


class LeaseKeeper:
    """Keeps the lease of one claim until it is closed, the lease is lost or the job is cancelled.

    Two threads write for the claim: this one's, and that which computes (`commit`, `query`) or ends the process. Each
    write takes `_write_lock`, so that what was reported before a commit is in the database before it.
    """

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, settings: Settings, storage: Storage) -> None:
        self.claim = claim
        self.cancelled = False
        self.yield_requested = self.out_of_time = False  # by the answer to the last heartbeat
        self.activity = 0  # signs of life of the computing thread, for the watchdog
        self.waiting_for_database = False  # the computing thread does
        self._sessions, self._settings, self._storage = sessions, settings, storage
        self._pending: deque[Point] = deque()
        # Only the newest: while the database is unavailable, previews must not fill the memory.
        self._previews: deque[SliceResult] = deque(maxlen=1)
        self._write_lock = threading.Lock()
        self._wake, self._closing, self._lost = threading.Event(), threading.Event(), threading.Event()
        self._renewed_at = time.monotonic()
        self._next_preview_at = 0.0
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
        """Whether another attempt has the slice or its job has ended: stop and write nothing."""
        return self._lost.is_set()

    @property
    def holds_lease(self) -> bool:
        """Whether no other worker can have the slice: the lease of the last heartbeat has not run out."""
        return not self.lost and time.monotonic() - self._renewed_at < self._settings.lease_seconds

    def mark_lost(self) -> None:
        """Note that the lease is lost."""
        self._lost.set()

    def mark_active(self) -> None:
        """Note that the computing thread advances, so that the watchdog does not end it. Costs nothing."""
        self.activity += 1

    def report(self, progress: ProgressReport) -> None:
        """Have a snapshot written, soon and in order. Returns at once."""
        self.mark_active()
        self._pending.append(progress.point)
        if progress.preview is not None:
            self._previews.append(progress.preview)
        self._wake.set()

    def verify_lease(self) -> None:
        """Make sure that the slice is still this worker's, asking the database where in doubt. Raises LeaseLost."""
        if self.lost:
            raise LeaseLost
        if not self.holds_lease:
            self.commit(lambda session: leases.heartbeat(session, self.claim, self._settings.lease_seconds))

    def commit(self, change: Callable[[Session], Answer]) -> Answer:
        """Make a fenced change after the pending reports, as soon as the database answers. Raises LeaseLost."""
        return self._run_until_answered(change, reports_first=True)

    def query(self, question: Callable[[Session], Answer]) -> Answer:
        """Read from the database, as soon as it answers."""
        return self._run_until_answered(question, reports_first=False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the computing thread waits for something far away, which the watchdog takes for no hang."""
        self.waiting_for_database = True
        try:
            yield
        finally:
            self.waiting_for_database = False

    def close(self) -> None:
        """Stop the heartbeats; the lease runs out by itself."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _run_until_answered(self, statements: Callable[[Session], Answer], *, reports_first: bool) -> Answer:
        self.waiting_for_database = True
        try:
            with self._write_lock:
                while True:
                    try:
                        if reports_first:
                            self._write_pending()
                        with self._sessions.begin() as session:
                            return statements(session)
                    except AWAY as error:
                        log.warning("database.unavailable", extra={"error": type(error).__name__})
                        time.sleep(RETRY_SECONDS)
        finally:
            self.waiting_for_database = False

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
        reply = self._write_first_point() if self._pending else self._beat()
        self._renewed_at = began
        self.yield_requested, self.out_of_time = reply.yield_requested, reply.out_of_time
        if reply.cancel:
            with self._sessions.begin() as session:
                leases.stop_cancelled(session, self.claim)
            self.cancelled = True
            raise LeaseLost
        self._write_pending()

    def _beat(self) -> HeartbeatReply:
        with self._sessions.begin() as session:
            return leases.heartbeat(session, self.claim, self._settings.lease_seconds)

    def _write_first_point(self) -> HeartbeatReply:
        """Write the oldest report, which renews the lease too."""
        with self._sessions.begin() as session:
            reply = leases.record(session, self.claim, self._pending[0], self._settings.lease_seconds)
        self._pending.popleft()
        return reply

    def _write_pending(self) -> None:
        while self._pending:
            self._write_first_point()
        if self._previews and time.monotonic() >= self._next_preview_at:
            self._write_preview(self._previews.pop())
            self._next_preview_at = time.monotonic() + previews.pause_seconds(self._storage)

    def _write_preview(self, preview: SliceResult) -> None:
        if not self.holds_lease:
            return
        try:
            previews.save(self._sessions, self._storage, self.claim.job_id, self.claim.slice, preview)
        except OSError as error:
            # A full disk or a deleted job shows where it matters; a preview may be missing.
            log.warning("preview.write_failed", extra={"error": str(error.strerror)})


def waiting_for(storage: Storage, lease: LeaseKeeper) -> AbstractContextManager[None]:
    """While the computing thread asks a storage, which may take long where that is not a disk."""
    return lease.waiting() if storage.local_scratch else nullcontext()
