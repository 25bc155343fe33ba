"""Fork servers that this process has started, found as the system's processes are."""

import os
import signal
import time
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

_MODULE = b"udig_recon.core.formats.sandbox.server"


def fork_servers() -> set[int]:
    """Numbers of the processes that read scans for this one."""
    children = {
        int(number)
        for thread in Path(f"/proc/{os.getpid()}/task").iterdir()
        for number in (thread / "children").read_text().split()
    }
    return {number for number in children if _MODULE in _command(number)}


def started_since(others: Set[int], count: int) -> set[int]:
    """So many fork servers beside these, as soon as the system lists them: a process that is started is not at once."""
    deadline = time.monotonic() + 30
    while len(started := fork_servers() - others) != count:
        assert time.monotonic() < deadline, f"{len(started)} fork servers, expected {count}"
        time.sleep(0.01)
    return started


def end(servers: Iterable[int]) -> None:
    """Kill fork servers; whoever started them finds them gone."""
    for number in servers:
        os.kill(number, signal.SIGKILL)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)


def _command(number: int) -> bytes:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{number}/cmdline").read_bytes()
    return b""
