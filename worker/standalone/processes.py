"""Child processes that die with their parent, and cleanup of processes that an earlier parent left."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
POLL_SECONDS = 0.05
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def start(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; it gets `death_signal` when this process dies (Linux).

    Its output is appended to `log`, or goes to the standard error of this process. Call this from the main thread: for
    the kernel the parent of a process is the thread that started it.
    """
    output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if output is None else output,
            stderr=sys.stderr if output is None else output,
            cwd="/" if log is not None else None,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=_dies_with(os.getpid(), death_signal),
        )
    finally:
        if output is not None:
            os.close(output)


def keep_private() -> None:
    """Keep this process's environment and memory, which hold secrets, from others of the same user (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _dies_with(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def set_up() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:
            os._exit(1)

    return set_up


def stop(processes: Sequence[subprocess.Popen[bytes]], how: signal.Signals, seconds: float) -> None:
    """Signal all processes, wait, and kill those that still run after `seconds`."""
    for process in processes:
        process.send_signal(how)
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stop_leftover(pid_file: Path, marker: str, how: signal.Signals, seconds: float) -> None:
    """Stop the process of a pid file, if its command line still contains the marker."""
    try:
        pid = int(pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    for each in (how, signal.SIGKILL):
        deadline = time.monotonic() + seconds
        if marker not in command_line(pid):
            return
        os.kill(pid, each)
        while marker in command_line(pid) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def command_line(pid: int) -> str:
    """Command line of a process; empty where it is gone or a zombie."""
    if sys.platform != "linux":
        shown = subprocess.run(
            ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return shown.stdout
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
