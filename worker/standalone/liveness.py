"""Whether the API and the workers of this machine answer: what is hung is no less dead than what has ended."""

import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.database.worker_names import name_prefix
from udig_recon.worker.standalone.supervisor import Child

log = logging.getLogger(__name__)
STARTING_SECONDS = 300.0  # until the first answer: PyTorch takes its time on a busy machine
LEAST_ASKED = 3  # times in vain; whoever asks may have been stopped too


@dataclass
class _Silence:
    """How long one process has not answered, by the clock of whoever asks."""

    pid: int
    since: float = field(default_factory=time.monotonic)
    asked: int = 0
    answered: bool = False
    seen_at: datetime | None = None

    def end(self) -> None:
        """It answers."""
        self.since, self.asked, self.answered = time.monotonic(), 0, True

    def excuse(self) -> None:
        """Nobody could have answered."""
        self.since, self.asked = time.monotonic(), 0


class Liveness(threading.Thread):
    """Asks the API for /healthz and the database when each worker was seen last, again and again."""

    def __init__(
        self, api: Child, workers: Sequence[Child], url: str, sessions: sessionmaker[Session], hung_seconds: float
    ) -> None:
        super().__init__(name="liveness", daemon=True)
        self._api, self._workers, self._url, self._sessions, self._hung = api, workers, url, sessions, hung_seconds
        self._silences: dict[str, _Silence] = {}
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask until told to stop."""
        while not self._ending.wait(min(5.0, self._hung / 6)):
            self._ask_api()
            self._ask_workers()

    def stop(self) -> None:
        """Ask no more."""
        self._ending.set()

    def is_hung(self, child: Child) -> bool:
        """Whether the process of a child has not answered for too long, though it was asked."""
        silence = self._silences.get(child.name)
        if silence is None or child.process is None or child.process.pid != silence.pid:
            return False
        most = self._hung if silence.answered else max(self._hung, STARTING_SECONDS)
        return silence.asked >= LEAST_ASKED and time.monotonic() - silence.since > most

    def _silence(self, child: Child) -> _Silence | None:
        """Of the process that the child has now."""
        process = child.process
        if process is None:
            return None
        known = self._silences.get(child.name)
        if known is None or known.pid != process.pid:
            known = self._silences[child.name] = _Silence(process.pid)
        return known

    def _ask_api(self) -> None:
        if (silence := self._silence(self._api)) is None:
            return
        try:
            with urllib.request.urlopen(f"{self._url}/healthz", timeout=min(20.0, self._hung / 3)):  # noqa: S310
                silence.end()
        except urllib.error.HTTPError:
            silence.end()
        except OSError:
            silence.asked += 1

    def _ask_workers(self) -> None:
        silences = [silence for child in self._workers if (silence := self._silence(child)) is not None]
        try:
            with self._sessions() as session:
                seen = {row.name: row.seen_at for row in session.execute(select(Worker.name, Worker.seen_at))}
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            for silence in silences:
                silence.excuse()
            return
        for silence in silences:
            prefix = name_prefix(silence.pid)
            at = max((at for name, at in seen.items() if name.startswith(prefix)), default=None)
            if at is not None and at != silence.seen_at:
                silence.seen_at = at
                silence.end()
            else:
                silence.asked += 1
