"""Watchdog: ends a worker process that hangs or computes a slice of another worker; its supervisor restarts it."""

import logging
import os
from collections.abc import Callable

from udig_recon.worker.runtime.heartbeat import LeaseKeeper
from udig_recon.worker.runtime.process import WorkerProcess, exit_after

log = logging.getLogger(__name__)
TICK_SECONDS = 1.0
LOST_TICKS = 10  # that a worker may compute a slice whose lease it has lost
PACES = 20  # a computation may be silent for so many times its longest silence before
STATUS = 70  # of the exit


class Watchdog:
    """Checks the computing thread every second.

    It counts checks instead of seconds: a process that was stopped and continued had no time to do anything.
    """

    def __init__(self, process: WorkerProcess, end: Callable[[int], object] = os._exit) -> None:
        self._process, self._end = process, end
        self._lease: LeaseKeeper | None = None
        self._lost = self._silent = self._longest = self._activity = 0

    def watch(self) -> None:
        """Check until the worker is to end; from then on `Maintenance.stop` bounds its time."""
        while not self._process.shutdown.wait(TICK_SECONDS):
            self.look()

    def look(self) -> None:
        """Check once."""
        lease = self._process.lease
        if lease is None or lease is not self._lease:
            self._lease, self._lost, self._silent, self._longest = lease, 0, 0, 0
            self._activity = 0 if lease is None else lease.activity
            return
        if lease.waiting_for_database:
            # Waiting for the database is no hang.
            self._lost = self._silent = 0
            return
        self._lost = self._lost + 1 if lease.lost else 0
        if lease.activity == self._activity:
            self._silent += 1
        else:
            self._longest, self._silent = max(self._longest, self._silent), 0
            self._activity = lease.activity
        if self._lost >= LOST_TICKS:
            self._end_process("it computes a slice whose lease it has lost")
        elif self._silent * TICK_SECONDS >= max(self._process.settings.stall_seconds, PACES * self._longest):
            self._end_process("its computation does not advance")

    def _end_process(self, reason: str) -> None:
        log.error("worker.stuck", extra={"reason": reason})
        # A slice that still is this worker's has lost its worker, which counts as a crash.
        exit_after(self._process.deregister, STATUS, self._end)
