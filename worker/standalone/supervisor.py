"""Supervision of one child process: restart with exponential back-off."""

import logging
import subprocess
import time
from collections.abc import Mapping, Sequence

from udig_recon.worker.standalone import processes

log = logging.getLogger(__name__)
MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 30.0
STABLE_SECONDS = 60.0  # a process that ran for this long is restarted after the shortest pause


class SupervisedProcess:
    """A process that is restarted when it ends; each restart after a short run doubles the pause before the next."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._command, self._environment = command, environment
        self._pause = MIN_PAUSE_SECONDS
        self._started_at = self._due_at = 0.0

    def start_when_due(self) -> None:
        """Start the process, unless it runs or its pause is not over."""
        if self.process is None and time.monotonic() >= self._due_at:
            self.process = processes.start(self._command, environment=self._environment)
            self._started_at = time.monotonic()

    def kill(self) -> None:
        """Kill a process that does not answer, even one that is stopped (SIGSTOP)."""
        if self.process is not None and self.process.poll() is None:
            log.error("process.hung", extra={"process_name": self.name, "pid": self.process.pid})
            self.process.kill()
            self.process.wait()

    def reap(self) -> int | None:
        """The process id of a process that has ended since the last call; None where none has."""
        if self.process is None or self.process.poll() is None:
            return None
        now = time.monotonic()
        if now - self._started_at > STABLE_SECONDS:
            self._pause = MIN_PAUSE_SECONDS
        log.error(
            "process.exited", extra={"process_name": self.name, "status": self.process.returncode, "pause": self._pause}
        )
        self._due_at, self._pause = now + self._pause, min(2 * self._pause, MAX_PAUSE_SECONDS)
        pid, self.process = self.process.pid, None
        return pid
