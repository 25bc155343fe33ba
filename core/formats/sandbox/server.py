"""The fork server behind `Prober`: for each order it forks a child that reads one file, in a sandbox.

An order is a line of JSON on the socket that is standard input, with the file's descriptor and, where the scan is to be
prepared, that of the file to write. The answer is a line of JSON: what the child said, null if that took too long, and
the child's exit status. The first line tells which parts of the sandbox are missing, or which extension is broken.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.extensions import BrokenExtension
from udig_recon.core.formats.containers import hdf5_library as library
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.limits import Limits
from udig_recon.core.formats.prepared import NotWritten, PreparedScan
from udig_recon.core.formats.reading import prepare, probe_file
from udig_recon.core.formats.sandbox import isolation as sandbox
from udig_recon.core.formats.sandbox.messages import pack, pack_identity
from udig_recon.core.formats.sandbox.pool import Order
from udig_recon.core.formats.sandbox.preload import read_samples
from udig_recon.core.formats.sandbox.previews import write_preview
from udig_recon.core.formats.template import read_template

Examine = Callable[[Order, int, int | None], str]

MEMORY_BYTES = 3 << 30  # the largest slice as a file may hold it, and as it is written

_MOST_ANSWER_BYTES = 1 << 20
_OPEN_FILES = 32
_MOST_ORDER_BYTES = 1 << 16
_POLL_SECONDS = 0.0005
_NICENESS = 10  # answers that need no look into a file come first
_ANSWER, _SCAN, _OUTPUT, _CLOSED = 3, 4, 5, 6  # a child's descriptors


def main(examine: Examine | None = None, parts: Collection[str] = tuple(sandbox.PARTS)) -> None:
    """Work until the socket ends. `examine` is what each child does, inside these parts of the sandbox."""
    os.nice(_NICENESS)
    nothing = os.open(os.devnull, os.O_RDWR)
    wire = socket.socket(fileno=os.dup(0))
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    try:
        read_samples()
    except BrokenExtension as error:
        _send(wire, {"broken": str(error)})
        return
    missing = sandbox.leave(parts)
    missing |= _missing_parts_of_children(parts) | library.missing_parts()
    _send(wire, {"missing_parts": missing})
    while (received := _receive(wire)) is not None:
        order, descriptors = received
        answer = _run_child(order, descriptors, examine or _examine, parts)
        for descriptor in descriptors:
            os.close(descriptor)
        _send(wire, answer)


def _send(wire: socket.socket, answer: dict[str, Any]) -> None:
    wire.sendall(json.dumps(answer).encode() + b"\n")


def _receive(wire: socket.socket) -> tuple[Order, list[int]] | None:
    """The next order with its descriptors; None when there is none any more."""
    line, descriptors = b"", list[int]()
    while not line.endswith(b"\n"):
        piece, more, _, _ = socket.recv_fds(wire, _MOST_ORDER_BYTES, 2)
        if not piece:
            return None
        line += piece
        descriptors += more
    return json.loads(line), descriptors


def _missing_parts_of_children(parts: Collection[str]) -> sandbox.MissingParts:
    """Parts of the sandbox that a child cannot be bound by."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        missing = sandbox.bind(MEMORY_BYTES, 60, 0, _OPEN_FILES, parts)
        os.write(sending, json.dumps(missing).encode())
        os._exit(0)
    os.close(sending)
    said = _read_all(receiving, time.monotonic() + 10) or b'{"seccomp": "the child that tried it ended"}'
    os.close(receiving)
    _wait(child, 0)
    told: sandbox.MissingParts = json.loads(said)
    return told


def _run_child(order: Order, descriptors: list[int], examine: Examine, parts: Collection[str]) -> dict[str, Any]:
    """Fork a child for the order; its answer and exit status."""
    deadline = time.monotonic() + order["seconds"]
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        _child(order, sending, descriptors, examine, parts)
    os.close(sending)
    said = _read_all(receiving, deadline)
    os.close(receiving)
    status = _wait(child, deadline if said is not None else 0)
    return {"said": None if said is None else said.decode("utf-8", "replace"), "status": status}


def _child(order: Order, sending: int, descriptors: list[int], examine: Examine, parts: Collection[str]) -> NoReturn:
    """The child: it examines the file and exits. It keeps no descriptor by which it could answer for the server."""
    status = 1
    try:
        # Out of the way first: any of them may have a number that another is to get.
        high = [os.dup2(each, 100 + index) for index, each in enumerate((sending, *descriptors))]
        for place, each in enumerate(high, start=_ANSWER):
            os.dup2(each, place)
        os.closerange(_ANSWER + len(high), 256)
        sandbox.bind(MEMORY_BYTES, order["seconds"], order["most_bytes"], _OPEN_FILES, parts)
        answer = examine(order, _SCAN, _OUTPUT if len(descriptors) > 1 else None).encode()
        while answer:
            answer = answer[os.write(_ANSWER, answer) :]
        status = 0
    finally:
        os._exit(status)


def _examine(order: Order, scan: int, output: int | None) -> str:
    """The scan's header, or why there is none; for an order of a preview, its size; for a template its identity."""
    if (index := order.get("preview")) is not None and output is not None:
        return json.dumps({"preview": write_preview(PreparedScan(ScanFile(scan)), index, output)})
    if order.get("template"):
        try:
            return pack_identity(read_template(ScanFile(scan)))
        except ReconstructionError as error:
            return pack_identity(error)
    limits = Limits(**order["limits"])
    try:
        if output is None:
            return pack(probe_file(ScanFile(scan), limits))
        return pack(prepare(ScanFile(scan), limits, order["sha256"], output))
    except NotWritten as error:
        return json.dumps({"unwritten": error.args[0]})
    except ReconstructionError as error:
        return pack(error)


def _read_all(receiving: int, deadline: float) -> bytes | None:
    """All that the child says; None when it takes too long or does not stop."""
    said = b""
    while len(said) <= _MOST_ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([receiving], [], [], left)[0]:
            return None
        piece = os.read(receiving, 1 << 16)
        if not piece:
            return said
        said += piece
    return None


def _wait(child: int, deadline: float) -> int:
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
