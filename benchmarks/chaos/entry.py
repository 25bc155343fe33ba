"""`python -m benchmarks.chaos.entry api|worker`: the real process, but for what its environment asks to be changed.

CHAOS_CLOCK: the clock steps by hours at a signal. CHAOS_FENCE=off: the negative control. CHAOS_DISK: where no small
disk can be mounted, a file whose presence says that the disk is full.
"""

import datetime
import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

FORWARD, BACK = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
STEP_SECONDS = 3 * 3600  # longer than Redis keeps an unacknowledged message from others


def install_clock() -> None:
    """Have this process's wall clock step forward or back at a signal; its monotonic clock goes on, as it would."""
    ahead = [0]
    real, real_ns, real_datetime = time.time, time.time_ns, datetime.datetime

    class Kind(type(real_datetime)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, real_datetime)

    class Stepped(real_datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real_datetime.now(tz) + datetime.timedelta(seconds=ahead[0])

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    def step(number: int, _: Any) -> None:
        ahead[0] += STEP_SECONDS if number == FORWARD else -STEP_SECONDS

    time.time = lambda: real() + ahead[0]
    time.time_ns = lambda: real_ns() + ahead[0] * 1_000_000_000
    datetime.datetime = Stepped  # type: ignore[misc]
    for number in (FORWARD, BACK):
        signal.signal(number, step)


def drop_fence() -> None:
    """Accept writes of whichever attempt, as if no claim had a number."""
    from sqlalchemy import and_

    from udig_recon.worker.database.tables import JobSlice
    from udig_recon.worker.jobs.claims import Claim

    Claim.is_mine = lambda self: and_(JobSlice.job_id == self.job_id, JobSlice.slice == self.slice)  # type: ignore[method-assign]


def install_disk(full: Path, data: Path) -> None:
    """Refuse to open files below `data` for writing while the file `full` is there."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        path, flags = os.fsdecode(arguments[0]), arguments[2]
        if flags & (os.O_WRONLY | os.O_RDWR) and path.startswith(f"{data}/") and full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    sys.addaudithook(refuse)


def main() -> Any:
    if os.environ.get("CHAOS_CLOCK"):
        install_clock()
    if full := os.environ.get("CHAOS_DISK"):
        install_disk(Path(full), Path(os.environ["DATA"]))
    if sys.argv[1] == "api":
        from udig_recon.api.main import main as api_main

        return api_main()
    if os.environ.get("CHAOS_FENCE") == "off":
        drop_fence()
    from udig_recon.worker.runtime.main import work

    return work()


if __name__ == "__main__":
    sys.exit(main())
