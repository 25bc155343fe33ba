"""The last resort: a worker that computes what nobody waits for, or gets on no more, ends itself to be started anew."""

import logging
import os
import threading
from collections.abc import Callable

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import sweep
from udig_recon.worker.runtime.heartbeat import LeaseKeeper
from udig_recon.worker.runtime.process import WorkerProcess

log = logging.getLogger(__name__)
TICK_SECONDS = 1.0
LOST_TICKS = 10  # that a worker may go on with a slice which is its own no more
PACES = 20  # so many times its longest silence so far may a computation be silent
STATUS = 70
DEREGISTER_SECONDS = 2.0


class Watchdog:
    """Looks at the computing thread every second.

    Looks are counted, not seconds: a process that was stopped and goes on has had no time to do anything.
    """

    def __init__(self, process: WorkerProcess, end: Callable[[int], object] = os._exit) -> None:
        self._process, self._end = process, end
        self._lease: LeaseKeeper | None = None
        self._lost = self._silent = self._longest = self._activity = 0

    def watch(self) -> None:
        """Look on until the worker is to end; then the attendant sees to it."""
        while not self._process.shutdown.wait(TICK_SECONDS):
            self.look()

    def look(self) -> None:
        """Once."""
        lease = self._process.lease
        if lease is None or lease is not self._lease:
            self._lease, self._lost, self._silent, self._longest = lease, 0, 0, 0
            self._activity = 0 if lease is None else lease.activity
            return
        if lease.waiting_for_database:
            # It waits for the database, and need not be ended for that.
            self._lost = self._silent = 0
            return
        self._lost = self._lost + 1 if lease.lost else 0
        if lease.activity == self._activity:
            self._silent += 1
        else:
            self._longest, self._silent = max(self._longest, self._silent), 0
            self._activity = lease.activity
        if self._lost >= LOST_TICKS:
            self._leave("it computes a slice that is its own no more")
        elif self._silent * TICK_SECONDS >= max(self._process.settings.stall_seconds, PACES * self._longest):
            self._leave("its computation gets on no more")

    def _leave(self, reason: str) -> None:
        log.error("worker.stuck", extra={"reason": reason})
        # A slice that is still its own lost its worker, which counts as a crash.
        goodbye = threading.Thread(target=self._deregister, name="deregister", daemon=True)
        goodbye.start()
        goodbye.join(DEREGISTER_SECONDS)
        self._end(STATUS)

    def _deregister(self) -> None:
        try:
            with self._process.sessions.begin() as session:
                sweep.deregister(session, self._process.name)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})
