"""What goes on beside a worker's work: the sweep, the greeting, and the end that was asked for."""

import logging
import os
import signal
import threading
import time

from sqlalchemy import func, select

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.jobs import queue, retention, scheduling
from udig_recon.worker.jobs import sweep as sweeping
from udig_recon.worker.runtime.health import seen_lately
from udig_recon.worker.runtime.process import Place
from udig_recon.worker.runtime.tasks import give_back
from udig_recon.worker.runtime.watchdog import Watchdog
from udig_recon.worker.storage import accounting, data_folder
from udig_recon.worker.storage import orphans as tidying
from udig_recon.worker.storage.scrubbing import Scrub, Stopped

log = logging.getLogger(__name__)
LEAVE_SECONDS = 7.0  # from SIGTERM until a worker goes, whatever step it is in
FAREWELL_SECONDS = 2.0
DEAF_SECONDS = 30.0
PATIENCE_BEATS = 3  # in which every worker that lives has reached a database that is back


class Attendant:
    """Threads beside the one that computes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._deaf_seconds, self._heard = 0.0, -1
        self._answered_since: float | None = None

    def begin(self, **_: object) -> None:
        """The worker listens: sweep and tidy, tell that it is there, and see that the computation gets on."""
        threading.Thread(target=self._greet_on, name="greet", daemon=True).start()
        threading.Thread(target=Watchdog(self._place).watch, name="watchdog", daemon=True).start()
        threading.Thread(target=self._tidy_on, name="tidy", daemon=True).start()
        if self._place.settings.scrub_bytes_per_second:
            threading.Thread(target=self._scrub_on, name="scrub", daemon=True).start()
        threading.Thread(target=self._sweep_on, name="sweep", daemon=True).start()

    def end(self, **_: object) -> None:
        """The worker is to go: the computation stops at its next iterate, and no step holds the process up for long."""
        if not self._place.ending.is_set():
            self._place.ending.set()
            threading.Thread(target=self._leave, name="leave", daemon=True).start()

    def farewell(self) -> None:
        """Nobody need wait for this worker."""
        try:
            with self._place.sessions.begin() as session:
                sweeping.forget(session, self._place.name)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _leave(self) -> None:
        threading.Event().wait(LEAVE_SECONDS)
        log.warning("worker.stopping", extra={"reason": "the step takes too long to be awaited"})
        goodbye = threading.Thread(target=self._give_back, name="goodbye", daemon=True)
        goodbye.start()
        goodbye.join(FAREWELL_SECONDS)
        os._exit(0)

    def _give_back(self) -> None:
        if self._place.heart is not None:
            give_back(self._place.heart)
        self.farewell()

    def _greet_on(self) -> None:
        """Apart from the sweep, which waits for the queue: a worker that greets is not hung."""
        while not self._place.ending.is_set():
            self.greet()
            self._place.ending.wait(self._place.settings.sweep_seconds)

    def greet(self) -> None:
        """Tell that this worker is alive."""
        place = self._place
        try:
            with place.sessions.begin() as session:
                sweeping.greet(session, place.name, place.device_name, memory_bytes=place.memory_bytes, **place.gpu())
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _sweep_on(self) -> None:
        try:
            while not self._place.ending.is_set():
                self.sweep()
                self._place.ending.wait(self._place.settings.sweep_seconds)
        finally:
            # Without its sweep a worker is not to be relied on: let it be started anew.
            if not self._place.ending.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def sweep(self) -> None:
        """Once: take chunks back, ask some to give way, ring, delete what has expired."""
        place, settings = self._place, self._place.settings
        messages = queue.waiting_messages()
        try:
            with place.sessions.begin() as session:
                crashes = settings.max_crashes if self._leases_tell() else None
                waiting = sweeping.sweep(session, crashes, settings.sweep_seconds, messages)
            with place.sessions.begin() as session:
                scheduling.ask_to_yield(session, settings.alive_seconds)
        except AWAY as error:
            self._answered_since = None
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            return
        if waiting:
            queue.ring(waiting)
        self._expire()
        self._check_hearing(messages or 0)

    def _leases_tell(self) -> bool:
        """Whether a lease that ran out means that its worker is gone.

        While the database was away nobody could renew one, and the first who reaches it again must not take what the
        others still work on.
        """
        if self._answered_since is None:
            self._answered_since = time.monotonic()
        return time.monotonic() - self._answered_since >= PATIENCE_BEATS * self._place.settings.heartbeat_seconds

    def _expire(self) -> None:
        try:
            if deleted := retention.expire(self._place.sessions, self._place.storage):
                log.info("retention.finished", extra={"deleted": deleted})
            accounting.count_ended(self._place.sessions, self._place.storage)
        except (*AWAY, OSError) as error:
            log.warning("retention.failed", extra={"error": type(error).__name__})

    def _tidy_on(self) -> None:
        place, settings = self._place, self._place.settings
        wait = settings.sweep_seconds
        while not place.ending.wait(wait):
            wait = settings.orphan_seconds
            try:
                if not self._is_first() or not data_folder.is_ours(place.sessions, place.storage):
                    continue
                removed = tidying.tidy(place.sessions, place.storage, settings.orphan_seconds)
            except (*AWAY, OSError) as error:
                log.warning("cleanup.failed", extra={"error": type(error).__name__})
            else:
                if removed:
                    log.info("cleanup.finished", extra={"removed": removed})

    def _scrub_on(self) -> None:
        place, settings = self._place, self._place.settings
        scrub = Scrub(place.sessions, place.storage, settings.scrub_bytes_per_second, place.ending.wait)
        wait = settings.sweep_seconds
        while not place.ending.wait(wait):
            wait = min(settings.orphan_seconds, settings.scrub_seconds)
            try:
                # On a share that is not there everything would be missing.
                ours = self._is_first() and data_folder.is_ours(place.sessions, place.storage)
                if ours and scrub.is_due(settings.scrub_seconds):
                    log.info("scrub.finished", extra={"files": scrub.run()})
            except Stopped:
                return
            except (*AWAY, OSError) as error:
                log.warning("scrub.failed", extra={"error": type(error).__name__})

    def _is_first(self) -> bool:
        """Whether this is the first by name of the workers that live: one is enough to tidy."""
        with self._place.sessions() as session:
            living = select(func.min(Worker.name)).where(seen_lately(self._place.settings.alive_seconds))
            return session.scalar(living) == self._place.name

    def _check_hearing(self, messages: int) -> None:
        """End a worker that does nothing while messages wait: its connection is dead and does not know."""
        place = self._place
        idle = place.heart is None and place.heard == self._heard
        self._deaf_seconds = self._deaf_seconds + place.settings.sweep_seconds if idle and messages else 0.0
        self._heard = place.heard
        if self._deaf_seconds > DEAF_SECONDS:
            log.error("worker.stalled")
            os.kill(os.getpid(), signal.SIGTERM)
