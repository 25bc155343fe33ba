"""The fork server behind `Prober`: for each order it forks a child that reads one file, in a sandbox.

An order is a line of JSON on the socket that is standard input, with the file's descriptor and, where the scan is to be
prepared, that of the file to write. The answer is a line of JSON: what the child said, null if that took too long, and
the child's exit status. The first line tells what of the sandbox is lacking.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats import Limits, prepare, probe_file
from udig_recon.core.formats.containers import hdf5_library as library
from udig_recon.core.formats.containers.source import ScanFile
from udig_recon.core.formats.prepared import NotWritten
from udig_recon.core.formats.sandbox import isolation as sandbox
from udig_recon.core.formats.sandbox.client import MEMORY_BYTES, MOST_ANSWER_BYTES
from udig_recon.core.formats.sandbox.messages import pack
from udig_recon.core.formats.sandbox.preload import familiarise

Order = dict[str, Any]
Examine = Callable[[Order, int, int | None], str]

_OPEN_FILES = 32
_MOST_ORDER_BYTES = 1 << 16
_POLL_SECONDS = 0.0005
_NICENESS = 10  # answers that need no look into a file come first
_ANSWER, _SCAN, _OUTPUT, _CLOSED = 3, 4, 5, 6  # a child's descriptors


def main(examine: Examine | None = None) -> None:
    """Work until the socket ends. `examine` is what each child does, inside the sandbox."""
    os.nice(_NICENESS)
    familiarise()
    nothing = os.open(os.devnull, os.O_RDWR)
    wire = socket.socket(fileno=os.dup(0))
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    lacking = sandbox.leave()
    lacking |= _tried() | library.lacking()
    _tell(wire, {"lacking": lacking})
    while (received := _order(wire)) is not None:
        order, descriptors = received
        answer = _examined(order, descriptors, examine or _examination)
        for descriptor in descriptors:
            os.close(descriptor)
        _tell(wire, answer)


def _tell(wire: socket.socket, answer: dict[str, Any]) -> None:
    wire.sendall(json.dumps(answer).encode() + b"\n")


def _order(wire: socket.socket) -> tuple[Order, list[int]] | None:
    """The next order with its descriptors; None when there is none any more."""
    line, descriptors = b"", list[int]()
    while not line.endswith(b"\n"):
        piece, more, _, _ = socket.recv_fds(wire, _MOST_ORDER_BYTES, 2)
        if not piece:
            return None
        line += piece
        descriptors += more
    return json.loads(line), descriptors


def _tried() -> sandbox.Lacking:
    """What a child could not be bound by."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        lacking = sandbox.bind(MEMORY_BYTES, 60, 0, _OPEN_FILES)
        os.write(sending, json.dumps(lacking).encode())
        os._exit(0)
    os.close(sending)
    said = _received(receiving, time.monotonic() + 10) or b'{"seccomp": "the child that tried it ended"}'
    os.close(receiving)
    _ended(child, 0)
    found: sandbox.Lacking = json.loads(said)
    return found


def _examined(order: Order, descriptors: list[int], examine: Examine) -> dict[str, Any]:
    deadline = time.monotonic() + order["seconds"]
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        _live(order, sending, descriptors, examine)
    os.close(sending)
    said = _received(receiving, deadline)
    os.close(receiving)
    status = _ended(child, deadline if said is not None else 0)
    return {"said": None if said is None else said.decode("utf-8", "replace"), "status": status}


def _live(order: Order, sending: int, descriptors: list[int], examine: Examine) -> NoReturn:
    """The child's life. It keeps nothing by which it could speak in the server's name."""
    status = 1
    try:
        # Out of the way first: any of them may have a number that another is to get.
        high = [os.dup2(each, 100 + index) for index, each in enumerate((sending, *descriptors))]
        for place, each in enumerate(high, start=_ANSWER):
            os.dup2(each, place)
        os.closerange(_ANSWER + len(high), 256)
        sandbox.bind(MEMORY_BYTES, order["seconds"], order["most_bytes"], _OPEN_FILES)
        answer = examine(order, _SCAN, _OUTPUT if len(descriptors) > 1 else None).encode()
        while answer:
            answer = answer[os.write(_ANSWER, answer) :]
        status = 0
    finally:
        os._exit(status)


def _examination(order: Order, scan: int, output: int | None) -> str:
    """The scan's header, or why there is none."""
    limits = Limits(**order["limits"])
    try:
        if output is None:
            return pack(probe_file(ScanFile(scan), limits))
        return pack(prepare(ScanFile(scan), limits, order["sha256"], output))
    except NotWritten as error:
        return json.dumps({"unwritten": error.args[0]})
    except ReconstructionError as error:
        return pack(error)


def _received(receiving: int, deadline: float) -> bytes | None:
    """All that the child says; None when it takes too long or does not stop."""
    said = b""
    while len(said) <= MOST_ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([receiving], [], [], left)[0]:
            return None
        piece = os.read(receiving, 1 << 16)
        if not piece:
            return said
        said += piece
    return None


def _ended(child: int, deadline: float) -> int:
    """The child's exit status; after the deadline it is killed."""
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
