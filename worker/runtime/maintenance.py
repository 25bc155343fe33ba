"""Maintenance threads of a worker: registration, sweep, orphan cleanup, scrub, and an orderly shutdown."""

import logging
import os
import signal
import threading
import time

from sqlalchemy import func, select

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.jobs import queue, ratings, retention, scheduling, sweep, turns
from udig_recon.worker.runtime.health import was_seen_recently
from udig_recon.worker.runtime.idle import IdleWatch
from udig_recon.worker.runtime.process import WorkerProcess, exit_after
from udig_recon.worker.runtime.tasks import give_back
from udig_recon.worker.runtime.watchdog import Watchdog
from udig_recon.worker.storage import accounting, data_folder
from udig_recon.worker.storage.orphans import delete_leftovers, delete_orphans
from udig_recon.worker.storage.scrubbing import Scrub, Stopped

log = logging.getLogger(__name__)
SHUTDOWN_SECONDS = 7.0  # from SIGTERM until the process ends, whatever step it is in
STALLED_SECONDS = 30.0  # without a message, though some wait, until the connection to the queue counts as dead
GRACE_HEARTBEATS = 3  # after which every living worker has reached a database that answers again


class Maintenance:
    """The threads of a worker beside the one that computes."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self._stalled_seconds, self._messages_received = 0.0, -1
        self._answered_since: float | None = None

    def start(self, **_: object) -> None:
        """Start the threads, once the worker listens to the queue."""
        loops = {
            "register": self._register_loop,
            "watchdog": Watchdog(self._process).watch,
            "orphans": self._clean_up_loop,
            "sweep": self._sweep_loop,
        }
        if self._process.settings.idle_seconds:
            loops["idle"] = IdleWatch(self._process).watch
        if self._process.settings.scrub_bytes_per_second:
            loops["scrub"] = self._scrub_loop
        for name, loop in loops.items():
            threading.Thread(target=loop, name=name, daemon=True).start()

    def stop(self, **_: object) -> None:
        """End the worker: the computation stops at its next iterate, and no step delays that for SHUTDOWN_SECONDS."""
        if not self._process.shutting_down:
            self._process.shutdown.set()
            threading.Thread(target=self._force_shutdown, name="shutdown", daemon=True).start()

    def _force_shutdown(self) -> None:
        threading.Event().wait(SHUTDOWN_SECONDS)
        log.warning("worker.stopping", extra={"reason": "the current step takes too long to wait for it"})
        exit_after(self._give_back, 0)

    def _give_back(self) -> None:
        """Give back the slice from this thread, as the one that computes does not get to it: see `LeaseKeeper`."""
        if (lease := self._process.lease) is not None:
            give_back(lease)
        self._process.deregister()

    def _register_loop(self) -> None:
        """Register apart from the sweep, which waits for the queue: a worker that registers does not hang."""
        while not self._process.shutting_down:
            self.register()
            self._process.shutdown.wait(self._process.settings.sweep_seconds)

    def register(self) -> None:
        """Renew this worker's row, by which others see that it is alive."""
        process = self._process
        try:
            with process.sessions.begin() as session:
                sweep.register(
                    session, process.name, process.device_name, memory_bytes=process.memory_bytes, **process.gpu()
                )
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _sweep_loop(self) -> None:
        try:
            while not self._process.shutting_down:
                self.sweep()
                self._process.shutdown.wait(self._process.settings.sweep_seconds)
        finally:
            # A worker without its sweep is not reliable: its supervisor starts another.
            if not self._process.shutting_down:
                os.kill(os.getpid(), signal.SIGTERM)

    def sweep(self) -> None:
        """Sweep once: expired leases, requests to yield, messages, retention, a queue that fell silent.

        All but the last is done by one worker for all of them.
        """
        process, settings = self._process, self._process.settings
        messages = queue.waiting_messages()
        try:
            with process.sessions.begin() as session:
                crashes = settings.max_crashes if self._leases_are_meaningful() else None
                mine = turns.take(session, Lock.SWEEP, settings.sweep_seconds / 2)
                waiting = sweep.sweep(session, crashes, settings.sweep_seconds, messages) if mine else []
            if mine:
                with process.sessions.begin() as session:
                    scheduling.ask_to_yield(session, settings.alive_seconds)
        except AWAY as error:
            self._answered_since = None
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            return
        if waiting:
            queue.enqueue(waiting)
        if mine:
            self._expire()
        self._check_consumer(messages or 0)

    def _leases_are_meaningful(self) -> bool:
        """Whether an expired lease means that its worker is gone.

        While the database was unavailable no worker could renew its lease. The first one to reach it again must not
        requeue the slices that the others still compute.
        """
        if self._answered_since is None:
            self._answered_since = time.monotonic()
        return time.monotonic() - self._answered_since >= GRACE_HEARTBEATS * self._process.settings.heartbeat_seconds

    def _expire(self) -> None:
        where = self._process.sessions, self._process.storage
        try:
            if deleted := retention.expire(*where, self._process.settings.sweep_seconds):
                log.info("retention.finished", extra={"deleted": deleted})
            accounting.count_ended(*where)
            ratings.rate_ended(self._process.sessions)
        except (*AWAY, OSError) as error:
            log.warning("retention.failed", extra={"error": type(error).__name__})

    def _clean_up_loop(self) -> None:
        process, settings = self._process, self._process.settings
        wait = settings.sweep_seconds
        while not process.shutdown.wait(wait):
            wait = settings.orphan_seconds
            try:
                if not data_folder.is_ours(process.sessions, process.storage):
                    continue
                if self._is_first():
                    removed = delete_orphans(process.sessions, process.storage, settings.orphan_seconds)
                elif process.storage.local_scratch:
                    removed = delete_leftovers(process.sessions, process.storage, settings.orphan_seconds)
                else:
                    continue
            except (*AWAY, OSError) as error:
                log.warning("cleanup.failed", extra={"error": type(error).__name__})
            else:
                if removed:
                    log.info("cleanup.finished", extra={"removed": removed})

    def _scrub_loop(self) -> None:
        process, settings = self._process, self._process.settings
        scrub = Scrub(process.sessions, process.storage, settings.scrub_bytes_per_second, process.shutdown.wait)
        wait = settings.sweep_seconds
        while not process.shutdown.wait(wait):
            wait = min(settings.orphan_seconds, settings.scrub_seconds)
            try:
                # On a share that is not there everything would be missing.
                ours = self._is_first() and data_folder.is_ours(process.sessions, process.storage)
                if ours and scrub.is_due(settings.scrub_seconds):
                    log.info("scrub.finished", extra={"files": scrub.run()})
            except Stopped:
                return
            except (*AWAY, OSError) as error:
                log.warning("scrub.failed", extra={"error": type(error).__name__})

    def _is_first(self) -> bool:
        """Whether this is the first by name of the living workers: one is enough for files."""
        with self._process.sessions() as session:
            living = select(func.min(Worker.name)).where(was_seen_recently(self._process.settings.alive_seconds))
            return session.scalar(living) == self._process.name

    def _check_consumer(self, messages: int) -> None:
        """End a worker that receives nothing while messages wait: its connection to the queue is dead unnoticed."""
        process = self._process
        idle = process.lease is None and process.messages_received == self._messages_received
        self._stalled_seconds = self._stalled_seconds + process.settings.sweep_seconds if idle and messages else 0.0
        self._messages_received = process.messages_received
        if self._stalled_seconds > STALLED_SECONDS:
            log.error("worker.stalled")
            os.kill(os.getpid(), signal.SIGTERM)
