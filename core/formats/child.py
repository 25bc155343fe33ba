"""A scan from outside is looked at in a process of its own, which may crash, hang or swell without harm."""

import json
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.acquisition import Modality, ScanHeader
from core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from core.formats.limits import DEFAULT_LIMITS, Limits, unreadable

_ROOT = Path(__file__).parents[2]
_SLOWEST_BYTES_PER_SECOND = 8 << 20
_ERRORS = {cls.__name__: cls for cls in (UnknownFormat, UnreadableScan, UnsupportedScan)}
# Nothing of the parent's environment: it holds passwords. No threads: they reserve memory. No plugins for HDF5.
_ENVIRONMENT = {
    "PYTHONPATH": str(_ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
}


class Prober:
    """Does as `probe` with bounded memory and time, in one new process for each file; several threads may share it.

    They are forked from servers that have loaded the readers and never open a file themselves: to start an interpreter
    takes far longer than to look at a small scan.
    """

    def __init__(self) -> None:
        self._idle: list[_ForkServer] = []

    def probe(self, path: Path, limits: Limits = DEFAULT_LIMITS, seconds: float = 8) -> ScanHeader:
        """Do as `probe`; a crash or a hang is UnreadableScan.

        It gets `seconds`, and one more for every 8 MiB of the file.
        """
        allowed = seconds + path.stat().st_size / _SLOWEST_BYTES_PER_SECOND
        order = json.dumps({"path": str(path.absolute()), "limits": asdict(limits), "seconds": allowed})
        said, status = self._examined(order)
        if said is None:
            raise unreadable("file", f"content that took longer than {allowed:.0f} s to examine", "a scan")
        if status != 0:
            raise unreadable("file", f"damaged content (the reader ended with status {status})", "a scan")
        return unpack(said)

    def _examined(self, order: str) -> tuple[str | None, int]:
        """What the child said, if it ended in time, and its exit status; a server that was killed is replaced."""
        for _ in range(2):
            server = self._taken()
            with suppress(OSError, EOFError):
                said, status = server.examine(order)
                self._idle.append(server)
                return said, status
            server.end()
        return "", -1

    def _taken(self) -> "_ForkServer":
        with suppress(IndexError):
            return self._idle.pop()
        return _ForkServer()

    def prepare(self, servers: int) -> None:
        """Start so many servers, which load the readers by themselves, lest the first files wait for that."""
        self._idle += [_ForkServer() for _ in range(servers)]

    def close(self) -> None:
        """End the servers."""
        while self._idle:
            self._idle.pop().end()


class _ForkServer:
    """`python -m core.formats`; it ends with its standard input, and thus with this process."""

    def __init__(self) -> None:
        command = [sys.executable, "-s", "-B", "-m", "core.formats"]
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL, env=_ENVIRONMENT
        )
        theirs.close()
        self._answers = self._socket.makefile("rb")

    def examine(self, order: str) -> tuple[str | None, int]:
        """Raises OSError or EOFError when the server is gone."""
        self._socket.sendall(order.encode() + b"\n")
        answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise EOFError
        told = json.loads(answer)
        return told["said"], told["status"]

    def end(self) -> None:
        self._answers.close()
        self._socket.close()
        self._process.wait()


def pack(outcome: ScanHeader | ReconstructionError) -> str:
    """A header or an error as JSON."""
    if isinstance(outcome, ScanHeader):
        return json.dumps({"header": asdict(outcome)})
    told = {name: getattr(outcome, name) for name in ("field", "found", "expected")}
    return json.dumps({"error": type(outcome).__name__, "message": str(outcome), **told})


def unpack(text: str) -> ScanHeader:
    """The header that `pack` wrote. Raises the error that it wrote."""
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        told = {name: answer[name] for name in ("field", "found", "expected")}
        raise _ERRORS[answer["error"]](answer["message"], **told)
    header = answer["header"]
    for name in ("matrix", "kspace_matrix", "pixel_spacing_mm", "warnings"):
        header[name] = None if header[name] is None else tuple(header[name])
    return ScanHeader(**{**header, "modality": Modality(header["modality"])})
