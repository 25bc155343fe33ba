"""The fork server behind `Prober`: for each line of JSON on standard input forks a child that probes one file.

Its answer is a line of JSON: what the child said, null if that took too long, and the child's exit status.
"""

import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from core.errors import ReconstructionError
from core.formats import Limits, probe
from core.formats.child import pack

_MEMORY_BYTES = 2 << 30
_OPEN_FILES = 32
_MOST_ANSWER_BYTES = 1 << 20
_POLL_SECONDS = 0.0005
_NICENESS = 10  # answers that need no look into a file come first


def main() -> None:
    """Work until standard input ends."""
    os.nice(_NICENESS)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_examined(json.loads(line))) + "\n")
        sys.stdout.flush()


def _examined(order: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + order["seconds"]
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        _examine(order, sending)
    os.close(sending)
    said = _received(receiving, deadline)
    os.close(receiving)
    status = _ended(child, deadline if said is not None else 0)
    return {"said": None if said is None else said.decode("utf-8", "replace"), "status": status}


def _examine(order: dict[str, Any], sending: int) -> NoReturn:
    """The child's life. It keeps nothing by which it could speak in the server's name."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(sending, 3)
        for standard in range(3):
            os.dup2(nothing, standard)
        os.closerange(4, 256)
        bound(order["seconds"])
        try:
            outcome = pack(probe(Path(order["path"]), Limits(**order["limits"])))
        except ReconstructionError as error:
            outcome = pack(error)
        answer = outcome.encode()
        while answer:
            answer = answer[os.write(3, answer) :]
        status = 0
    finally:
        os._exit(status)


def bound(seconds: float) -> None:
    """Bound this process for good: little memory, some CPU time, few files, none written."""
    bounds = {
        resource.RLIMIT_AS: _MEMORY_BYTES,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _received(receiving: int, deadline: float) -> bytes | None:
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
