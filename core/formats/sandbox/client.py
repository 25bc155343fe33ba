"""A scan from outside is looked at in a sandbox of its own, where it may crash, hang or swell without harm."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits
from udig_recon.core.formats.sandbox.isolation import Lacking
from udig_recon.core.formats.sandbox.messages import Nonsense, unpack

MEMORY_BYTES = 3 << 30  # the largest slice as a file may hold it, and as it is written
MOST_ANSWER_BYTES = 1 << 20

_ROOT = Path(__file__).parents[4]  # the folder that udig_recon is in
_SLOWEST_BYTES_PER_SECOND = 8 << 20
_SLOWEST_PREPARED = 2  # times as long, for the file is gone through twice and written once
_MOST_TRIES = 3
_ALWAYS_PREPARED_BYTES = 1 << 30
_MOST_PREPARED_RATIO = 400  # bytes written for each of the file: a bomb's limit, and numbers of one byte become four
_COMMAND = (sys.executable, "-s", "-B", "-m", "udig_recon.core.formats.sandbox.server")
# Nothing of the parent's environment: it holds passwords. No threads: they reserve memory. No plugins for HDF5.
_ENVIRONMENT = {
    "PYTHONPATH": str(_ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
}


class ReaderLost(Exception):
    """The readers were killed from outside again and again; it says nothing of the file."""


class Prober:
    """Does as `probe` and `prepare` in a sandbox, in one new process for each file; several threads may share it.

    They are forked from servers that have loaded the readers and never open a file themselves: to start an interpreter
    takes far longer than to look at a small scan.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._idle: list[_ForkServer] = []
        self.known_lacking: Lacking | None = None  # what `lacking` found, once it was asked

    def probe(self, path: Path, limits: Limits = DEFAULT_LIMITS, seconds: float = 8) -> ScanHeader:
        """Do as `probe`; a crash or a hang is UnreadableScan, ReaderLost what the file has no part in.

        It gets `seconds`, and one more for every 8 MiB of the file.
        """
        with path.open("rb") as file:
            allowed = seconds + path.stat().st_size / _SLOWEST_BYTES_PER_SECOND
            return self._asked({"limits": asdict(limits), "seconds": allowed, "most_bytes": 0}, [file.fileno()])

    def prepare_scan(
        self,
        path: Path,
        output: int,
        sha256: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        seconds: float = 8,
        room_bytes: int | None = None,
    ) -> ScanHeader:
        """Do as `prepare`: write the scan's prepared form to the descriptor `output`, and give its header.

        `sha256` is the file's. Raises as `probe` does, and OSError where the disk does not take it; `room_bytes` is all
        that it may take.
        """
        with path.open("rb") as file:
            size = path.stat().st_size
            allowed = seconds + _SLOWEST_PREPARED * size / _SLOWEST_BYTES_PER_SECOND
            most = _ALWAYS_PREPARED_BYTES + _MOST_PREPARED_RATIO * size
            room = most if room_bytes is None else max(0, min(most, room_bytes))
            order = {"limits": asdict(limits), "seconds": allowed, "most_bytes": room, "sha256": sha256}
            try:
                return self._asked(order, [file.fileno(), output])
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                if room < most:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
                raise UnreadableScan.at("file", f"arrays of more than {most} bytes", "a scan, not a bomb") from None

    def _asked(self, order: dict[str, Any], descriptors: list[int]) -> ScanHeader:
        said, status = self._examined(json.dumps(order), descriptors)
        if said is None:
            raise UnreadableScan.at(
                "file", f"content that took longer than {order['seconds']:.0f} s to examine", "a scan"
            )
        if status == 0:
            with suppress(ValueError, KeyError, TypeError):
                if number := json.loads(said).get("unwritten"):
                    raise OSError(int(number), os.strerror(int(number)))
            with suppress(Nonsense):
                header = unpack(said)
                if header.slices <= order["limits"]["max_slices"]:
                    return header
            raise UnreadableScan.at("file", "damaged content (the reader said what none says)", "a scan")
        raise UnreadableScan.at("file", f"damaged content (the reader ended with status {status})", "a scan")

    def _examined(self, order: str, descriptors: list[int]) -> tuple[str | None, int]:
        """What the child said, if it ended in time, and its exit status; a server that was killed is replaced."""
        for tries in range(_MOST_TRIES):
            # Of the idle ones all may have been killed.
            server = self._taken() if tries < _MOST_TRIES - 1 else _ForkServer(self._command)
            with suppress(OSError, EOFError):
                said, status = server.examine(order, descriptors)
                self._idle.append(server)
                # No file can make its reader end by that: no time, no memory and no call of its own does.
                if said is None or status != -signal.SIGKILL:
                    return said, status
                continue
            server.end()
        raise ReaderLost

    def lacking(self) -> Lacking:
        """What this machine's sandbox has not, each part with the reason; empty where nothing is amiss.

        Raises ReaderLost.
        """
        server = self._taken()
        try:
            found = server.lacking()
        except (OSError, EOFError):
            server.end()
            raise ReaderLost from None
        self._idle.append(server)
        self.known_lacking = found
        return found

    def _taken(self) -> "_ForkServer":
        with suppress(IndexError):
            return self._idle.pop()
        return _ForkServer(self._command)

    def prepare(self, servers: int) -> None:
        """Start so many servers, which load the readers by themselves, lest the first files wait for that."""
        self._idle += [_ForkServer(self._command) for _ in range(servers)]

    def close(self) -> None:
        """End the servers."""
        while self._idle:
            self._idle.pop().end()


class _ForkServer:
    """`udig_recon.core.formats.sandbox.server`; it ends with its standard input, and thus with this process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            list(command), stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_ENVIRONMENT
        )
        theirs.close()
        self._answers = self._socket.makefile("rb")
        self._lacking: Lacking | None = None

    def lacking(self) -> Lacking:
        """What of the sandbox is not there. Raises OSError or EOFError when the server is gone."""
        if self._lacking is None:
            self._lacking = dict(self._answer()["lacking"])
        return self._lacking

    def examine(self, order: str, descriptors: list[int]) -> tuple[str | None, int]:
        """Raises OSError or EOFError when the server is gone."""
        self.lacking()
        socket.send_fds(self._socket, [order.encode() + b"\n"], descriptors)
        told = self._answer()
        return told["said"], told["status"]

    def _answer(self) -> dict[str, Any]:
        answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise EOFError
        told: dict[str, Any] = json.loads(answer)
        return told

    def end(self) -> None:
        self._answers.close()
        self._socket.close()
        self._process.wait()
