"""A child process that is started again when it ends, the sooner it ends the later."""

import logging
import subprocess
import time
from collections.abc import Mapping, Sequence

from udig_recon.worker.standalone import processes

log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0
STEADY_SECONDS = 60.0  # a child that lived for so long is started again after the first pause


class Child:
    """One process under supervision."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._command, self._environment = command, environment
        self._pause = FIRST_PAUSE_SECONDS
        self._started_at = self._due_at = 0.0

    def start_when_due(self) -> None:
        """Start it unless it runs or its pause is not over."""
        if self.process is None and time.monotonic() >= self._due_at:
            self.process = processes.start(self._command, environment=self._environment)
            self._started_at = time.monotonic()

    def kill(self) -> None:
        """End a process that does not answer; one that is stopped too."""
        if self.process is not None and self.process.poll() is None:
            log.error("process.hung", extra={"child": self.name, "pid": self.process.pid})
            self.process.kill()
            self.process.wait()

    def ended(self) -> int | None:
        """Process id of a child that has ended since this was asked last."""
        if self.process is None or self.process.poll() is None:
            return None
        now = time.monotonic()
        if now - self._started_at > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        log.error("process.exited", extra={"child": self.name, "status": self.process.returncode, "pause": self._pause})
        self._due_at, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        pid, self.process = self.process.pid, None
        return pid
