"""Fork servers that this process has started, found as the system's processes are."""

import os
import signal
from collections.abc import Iterable
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


def end(servers: Iterable[int]) -> None:
    """Kill fork servers; whoever started them finds them gone."""
    for number in servers:
        os.kill(number, signal.SIGKILL)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)


def _command(number: int) -> bytes:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{number}/cmdline").read_bytes()
    return b""
