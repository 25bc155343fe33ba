"""Pool of fork servers: each forks one sandboxed process for each file that is read."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from udig_recon.core.extensions import BrokenExtension
from udig_recon.core.formats.sandbox.isolation import MissingParts

Order = dict[str, Any]
"""What a process is to do with its file, as JSON; `seconds` is how long it may take."""

_ROOT = Path(__file__).parents[4]  # the folder that udig_recon is in
_MOST_TRIES = 3
COMMAND = (sys.executable, "-s", "-B", "-m", "udig_recon.core.formats.sandbox.server")


class ReaderLost(Exception):
    """The processes that read scans were killed from outside again and again; it says nothing of the file."""


class Answer(NamedTuple):
    """What a sandboxed process said, if it ended in time, and its exit status."""

    said: str | None
    status: int


class ReaderPool:
    """Fork servers that wait for orders; several threads may share a pool.

    A server has loaded the readers and never opens a file itself: to start an interpreter takes far longer than to look
    at a small scan.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._idle: list[_ForkServer] = []

    def prepare(self, servers: int) -> None:
        """Start so many servers ahead, which load the readers by themselves: the first files need not wait for it."""
        self._idle += [_ForkServer(self._command) for _ in range(servers)]

    def run(self, order: Order, descriptors: Sequence[int]) -> Answer:
        """Have an order carried out in a new process with these descriptors.

        A server that was killed is replaced. Raises ReaderLost when that happens again and again, and BrokenExtension
        where an installed input format cannot be loaded.
        """
        for attempt in range(_MOST_TRIES):
            # All idle servers may have been killed: the last attempt takes a new one.
            server = self._take() if attempt < _MOST_TRIES - 1 else _ForkServer(self._command)
            try:
                answer = server.run(order, descriptors)
            except BrokenExtension:
                server.end()
                raise
            except (OSError, EOFError):
                server.end()
            else:
                self._idle.append(server)
                # No file can make its reader end by SIGKILL: its own limits end it in other ways.
                if answer.said is None or answer.status != -signal.SIGKILL:
                    return answer
        raise ReaderLost

    def missing_parts(self) -> MissingParts:
        """Parts of the sandbox that this machine does not give. Raises ReaderLost and BrokenExtension."""
        server = self._take()
        try:
            missing = server.missing_parts()
        except BrokenExtension:
            server.end()
            raise
        except (OSError, EOFError):
            server.end()
            raise ReaderLost from None
        self._idle.append(server)
        return missing

    def close(self) -> None:
        """End the servers."""
        while self._idle:
            self._idle.pop().end()

    def _take(self) -> "_ForkServer":
        with suppress(IndexError):
            return self._idle.pop()
        return _ForkServer(self._command)


class _ForkServer:
    """`python -m udig_recon.core.formats.sandbox.server`; it ends with its standard input, thus with this process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            list(command),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        theirs.close()
        self._answers = self._socket.makefile("rb")
        self._missing_parts: MissingParts | None = None

    def missing_parts(self) -> MissingParts:
        """The server's first answer. Raises OSError or EOFError when the server is gone."""
        if self._missing_parts is None:
            answer = self._answer()
            if "broken" in answer:
                raise BrokenExtension(answer["broken"])
            self._missing_parts = dict(answer["missing_parts"])
        return self._missing_parts

    def run(self, order: Order, descriptors: Sequence[int]) -> Answer:
        """Carry out an order. Raises OSError or EOFError when the server is gone."""
        self.missing_parts()
        socket.send_fds(self._socket, [json.dumps(order).encode() + b"\n"], descriptors)
        answer = self._answer()
        return Answer(answer["said"], answer["status"])

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Close the socket, and wait until the process has ended."""
        self._answers.close()
        self._socket.close()
        self._process.wait()


def _environment() -> dict[str, str]:
    """The environment of a server: where this process finds its modules, and nothing else of its own.

    Its own environment holds passwords. No threads, because they reserve memory; no plugins for HDF5.
    """
    folders = [str(_ROOT), *(folder for folder in sys.path if folder)]
    return {
        "PYTHONPATH": os.pathsep.join(folders),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HDF5_PLUGIN_PRELOAD": "::",
    }
