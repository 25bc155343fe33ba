"""Liveness checks of supervised processes.

GET /healthz of the API, when each worker last renewed its row, and whether the MRD stream ends a connection that is
closed again.
"""

import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.database.worker_names import name_prefix
from udig_recon.worker.standalone.supervisor import SupervisedProcess

log = logging.getLogger(__name__)
STARTUP_SECONDS = 300.0  # until the first answer: importing PyTorch is slow on a busy machine
MIN_FAILED_CHECKS = 3  # this process may have been stopped too, and the time then means nothing


class StreamAddress(NamedTuple):
    """Where the MRD stream listens."""

    host: str
    port: int


@dataclass
class _Answers:
    """When one process answered last, by the monotonic clock of this process."""

    pid: int
    since: float = field(default_factory=time.monotonic)
    failed_checks: int = 0
    has_answered: bool = False
    seen_at: datetime | None = None

    def note_answer(self) -> None:
        """The process answered just now."""
        self.since, self.failed_checks, self.has_answered = time.monotonic(), 0, True

    def restart_clock(self) -> None:
        """Count from now: no answer could have arrived."""
        self.since, self.failed_checks = time.monotonic(), 0


class LivenessMonitor(threading.Thread):
    """Checks the API by /healthz, each worker by `seen_at` of its row, and the MRD stream by a connection.

    It does so until it is stopped.
    """

    def __init__(
        self,
        api: SupervisedProcess,
        workers: Sequence[SupervisedProcess],
        url: str,
        sessions: sessionmaker[Session],
        hung_seconds: float,
        stream: tuple[SupervisedProcess, StreamAddress] | None = None,
    ) -> None:
        super().__init__(name="liveness", daemon=True)
        self._stream = stream
        self._api, self._workers, self._url, self._sessions, self._hung = api, workers, url, sessions, hung_seconds
        self._answers: dict[str, _Answers] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Check until stopped."""
        while not self._stopping.wait(min(5.0, self._hung / 6)):
            self._check_api()
            self._check_workers()
            self._check_stream()

    def stop(self) -> None:
        """Stop checking."""
        self._stopping.set()

    def is_hung(self, child: SupervisedProcess) -> bool:
        """Whether a process has not answered for too long, in several checks."""
        answers = self._answers.get(child.name)
        if answers is None or child.process is None or child.process.pid != answers.pid:
            return False
        most = self._hung if answers.has_answered else max(self._hung, STARTUP_SECONDS)
        return answers.failed_checks >= MIN_FAILED_CHECKS and time.monotonic() - answers.since > most

    def _answers_of(self, child: SupervisedProcess) -> _Answers | None:
        """Answers of the process that runs now; None where none does."""
        process = child.process
        if process is None:
            return None
        known = self._answers.get(child.name)
        if known is None or known.pid != process.pid:
            known = self._answers[child.name] = _Answers(process.pid)
        return known

    def _check_api(self) -> None:
        if (answers := self._answers_of(self._api)) is None:
            return
        try:
            with urllib.request.urlopen(f"{self._url}/healthz", timeout=min(20.0, self._hung / 3)):  # noqa: S310
                answers.note_answer()
        except urllib.error.HTTPError:
            answers.note_answer()
        except OSError:
            answers.failed_checks += 1

    def _check_stream(self) -> None:
        """Connect, send nothing and close: the server closes too. A stopped process accepts, but never closes."""
        if self._stream is None:
            return
        child, address = self._stream
        if (answers := self._answers_of(child)) is None:
            return
        try:
            with socket.create_connection(address, timeout=min(20.0, self._hung / 3)) as connection:
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            answers.note_answer()
        except ConnectionResetError:
            answers.note_answer()
        except OSError:
            answers.failed_checks += 1

    def _check_workers(self) -> None:
        of_workers = [answers for child in self._workers if (answers := self._answers_of(child)) is not None]
        try:
            with self._sessions() as session:
                seen = {row.name: row.seen_at for row in session.execute(select(Worker.name, Worker.seen_at))}
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            for answers in of_workers:
                answers.restart_clock()
            return
        for answers in of_workers:
            prefix = name_prefix(answers.pid)
            at = max((at for name, at in seen.items() if name.startswith(prefix)), default=None)
            if at is not None and at != answers.seen_at:
                answers.seen_at = at
                answers.note_answer()
            else:
                answers.failed_checks += 1
