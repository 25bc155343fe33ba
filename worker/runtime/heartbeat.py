"""A lease is kept alive, and progress told, by a thread of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import leases
from udig_recon.worker.jobs.leases import Claim, Fenced, Point
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.local import preview_owner

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 1.0
Given = TypeVar("Given")


class Beat(NamedTuple):
    """What the computing thread tells: how far it is, and what there is to see, if the file is to be replaced."""

    point: Point
    preview: SliceResult | None = None


class Heart:
    """Beats for one claim until it is closed, fenced off or the job is cancelled."""

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, settings: Settings, preview: Path) -> None:
        self.claim = claim
        self.cancelled = False
        self.give_way = self.out_of_time = False  # as the last beat heard
        self.signs = 0  # of life, by the computing thread
        self.asking = False  # the computing thread waits for the database
        self._sessions, self._settings, self._preview = sessions, settings, preview
        self._told: deque[Point] = deque()
        self._pictures: deque[SliceResult] = deque(maxlen=1)  # the newest: a database that is away must not fill memory
        self._writing = threading.Lock()
        self._wake, self._closing, self._lost = threading.Event(), threading.Event(), threading.Event()
        self._beaten_at = time.monotonic()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="heart", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """Whether the chunk is this worker's no more: stop and write nothing."""
        return self._lost.is_set()

    @property
    def surely_mine(self) -> bool:
        """Whether nobody else can have the chunk: the last beat is younger than the lease that it brought."""
        return not self.lost and time.monotonic() - self._beaten_at < self._settings.lease_seconds

    def show_life(self) -> None:
        """The computing thread gets on: the watchdog need not end it. Costs nothing."""
        self.signs += 1

    def tell(self, beat: Beat) -> None:
        """Have a snapshot written, soon and in order."""
        self.show_life()
        self._told.append(beat.point)
        if beat.preview is not None:
            self._pictures.append(beat.preview)
        self._wake.set()

    def confirm(self) -> None:
        """Make sure that the chunk is still this worker's. Raises Fenced."""
        if self.lost:
            raise Fenced
        if not self.surely_mine:
            self.settle(lambda session: leases.heartbeat(session, self.claim, self._settings.lease_seconds))

    def settle(self, change: Callable[[Session], Given]) -> Given:
        """Make a fenced change, after all that was told, and as soon as the database is there. Raises Fenced."""

        def told_and_changed(session: Session) -> Given:
            self._write_told()
            return change(session)

        return self.ask(told_and_changed)

    def ask(self, question: Callable[[Session], Given]) -> Given:
        """The answer of the database, as soon as it is there."""
        self.asking = True
        try:
            with self._writing:
                while True:
                    try:
                        with self._sessions.begin() as session:
                            return question(session)
                    except AWAY as error:
                        log.warning("database.unavailable", extra={"error": type(error).__name__})
                        time.sleep(PATIENCE_SECONDS)
        finally:
            self.asking = False

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
                with self._writing:
                    self._beat()
            except Fenced:
                self._lost.set()
            except AWAY as error:
                log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _beat(self) -> None:
        began = time.monotonic()
        with self._sessions.begin() as session:
            told = leases.heartbeat(session, self.claim, self._settings.lease_seconds)
        self._beaten_at = began
        self.give_way, self.out_of_time = told.give_way, told.out_of_time
        if told.cancel:
            with self._sessions.begin() as session:
                leases.stop_cancelled(session, self.claim)
            self.cancelled = True
            raise Fenced
        self._write_told()

    def _write_told(self) -> None:
        while self._told:
            with self._sessions.begin() as session:
                leases.record(session, self.claim, self._told[0], self._settings.lease_seconds)
            self._told.popleft()
        while self._pictures:
            self._show(self._pictures.pop())

    def _show(self, picture: SliceResult) -> None:
        if not self.surely_mine:
            return
        try:
            picture.save(self._preview, preview_owner(self.claim.job_id, self.claim.slice))
        except OSError as error:
            # A picture less; whether the disk is full or the job was deleted shows where it matters.
            log.warning("preview.write_failed", extra={"error": str(error.strerror)})
