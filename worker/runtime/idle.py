"""Idle workers end, so that a batch job or a pod gives its GPU back when there is no work."""

import logging
import os
import signal
import time
from collections.abc import Callable

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import scheduling
from udig_recon.worker.runtime.process import WorkerProcess

log = logging.getLogger(__name__)
LONGEST_TICK_SECONDS = 5.0


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # as if it had been told to: what it holds is given back, exit status 0


class IdleWatch:
    """Ends a worker that has had no slice for IDLE_SECONDS, and for which none waits."""

    def __init__(self, process: WorkerProcess, end: Callable[[], None] = _end) -> None:
        self._process, self._end = process, end
        self._since = time.monotonic()

    def watch(self) -> None:
        """Look until the worker is to end."""
        tick = min(LONGEST_TICK_SECONDS, self._process.settings.idle_seconds / 4)
        while not self._process.shutdown.wait(tick):
            self.look()

    def look(self) -> None:
        """Look once. A database that is away tells nothing: the worker stays."""
        idle = time.monotonic() - max(self._since, self._process.worked_at)
        if self._process.lease is not None or idle < self._process.settings.idle_seconds:
            return
        try:
            with self._process.sessions.begin() as session:
                waits = scheduling.next_slice(session, self._process.skipped_jobs, self._process.room(session))
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            return
        if waits is None and self._process.lease is None:
            log.info("worker.idle", extra={"seconds": round(idle, 1)})
            self._end()
