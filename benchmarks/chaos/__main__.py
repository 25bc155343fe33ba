"""`python -m benchmarks.chaos [--jobs N] [--seed S] [--redis valkey|debian|both] [--no-fence] [--faults a,b]
[--store folder|moto]`.

Every kind of job once in peace, then N jobs while faults strike, then a verdict; and a quarter of that once more on
Debian's Redis. The exit code is 1 where a verdict is bad.
"""

import argparse
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence

import httpx2

from benchmarks.chaos import report, witness
from benchmarks.chaos.clients import RETRIED, TIMEOUT_SECONDS, Client, Images, Notes
from benchmarks.chaos.faults import ALL_FAULTS, FAULTS, Storm
from benchmarks.chaos.stack import API_PROCESSES, WORKERS, Stack
from benchmarks.chaos.verdict import checks, left_failed, misplaced_files, open_jobs, recoveries
from benchmarks.chaos.workload import Order, calm_orders, orders, spares
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.standalone.servers import valkey_binary
from udig_recon.worker.storage.base import StorageUnavailable

CLIENTS = 8
TICK_SECONDS = 0.05
JOBS_PER_ROUND = 70  # jobs for each time that every fault strikes
DEBIAN_SHARE = 0.25  # of the jobs go through Debian's Redis too
LEAST_SECONDS, SECONDS_PER_JOB = 100.0, 1.5  # bound of a run, save where it is given
SHORT, MORE_SECONDS_PER_JOB = 200, 4.0  # a longer one need not end within minutes, however slow the machine
STORM_SHARE = 0.7  # of a run; what has not struck by then stays away, and the jobs that are left go through
SETTLE_SECONDS = 45.0  # until nothing is left behind


class Desk:
    """Gives orders out in step with the faults, and spare ones, so that each of them finds work to strike."""

    def __init__(self, waiting: Sequence[Order], storm: Storm | None = None, spare: Iterable[Order] = ()) -> None:
        self._waiting, self._storm, self._spare = list(waiting), storm, iter(spare)
        self._all, self._lock = len(waiting), threading.Lock()
        self._idle = 0  # clients that have nothing to see through

    def take(self) -> Order | None:
        """The next order, as soon as it is due; None: there are no more."""
        with self._lock:
            self._idle += 1
        while True:
            with self._lock:
                raging = self._storm is not None and not self._storm.over
                if not self._waiting and not raging:
                    return None
                if self._waiting and (not raging or self._due()):
                    self._idle -= 1
                    return self._waiting.pop()
                # Faults that want somebody at work would wait for ever.
                if self._idle == CLIENTS and (
                    order := self._waiting.pop() if self._waiting else next(self._spare, None)
                ):
                    self._idle -= 1
                    return order
            time.sleep(TICK_SECONDS)

    def _due(self) -> bool:
        assert self._storm is not None
        given = self._all - len(self._waiting)
        return given < CLIENTS or given * self._storm.planned.total() < self._all * (len(self._storm.happened) + 1)


def run(stack: Stack, desk: Desk, deadline: float, storm: Storm | None = None) -> Notes:
    """Have clients see all orders through, while the storm rages."""
    notes, began = Notes(), time.monotonic()
    clients = [Client(stack.urls, desk.take, notes, deadline, number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients) or (storm is not None and not storm.over):
        stack.supervise()
        now = time.monotonic()
        if storm is not None:
            storm.tick()
            if now > began + STORM_SHARE * (deadline - began):
                storm.end()
        if now > deadline + SETTLE_SECONDS:
            break
        time.sleep(TICK_SECONDS)
    return notes


def bound(jobs: int) -> float:
    """Seconds within which a run must end."""
    return LEAST_SECONDS + SECONDS_PER_JOB * min(jobs, SHORT) + MORE_SECONDS_PER_JOB * max(0, jobs - SHORT)


def settle(stack: Stack) -> set[str]:
    """Wait until all API processes are ready, all jobs have ended and nothing is left behind, or for long enough.

    What failed by a full disk or by lost workers, of clients that never came back, is retried as an operator would.
    Returns the jobs that were.
    """
    retried: set[str] = set()
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        stack.supervise()
        try:
            with stack.sessions() as session:
                failed = left_failed(session, RETRIED)
                pending = open_jobs(session) or failed or misplaced_files(session, stack)[0]
            for job in failed:
                httpx2.post(f"{stack.urls[0]}/v1/jobs/{job}/retry", timeout=TIMEOUT_SECONDS)
                retried.add(job)
        except (*AWAY, httpx2.TransportError, StorageUnavailable):
            pending = True
        if not pending and stack.readiness.ready_since_probe_at:
            break
        time.sleep(0.5)
    return retried


def chaos(options: argparse.Namespace, jobs: int, redis: str) -> bool:
    """One run; whether its verdict is good."""
    began = time.monotonic()
    deadline = began + (options.seconds or bound(jobs)) - SETTLE_SECONDS
    with Stack(jobs=jobs, seed=options.seed, redis_binary=redis, fence=options.fence, store=options.store) as stack:
        witness.install(stack.engine)
        ordered = orders(jobs, options.seed)
        peace = run(stack, Desk(calm_orders(ordered, options.seed)), deadline)
        calm: dict[str, Images] = dict(peace.images.values())
        names = [name for name in options.faults if stack.database_disk or name != "full-database"]
        storm = Storm(stack, names, max(1, round(jobs / JOBS_PER_ROUND)), options.seed)
        notes = run(stack, Desk(ordered, storm, spares(ordered)), deadline, storm)
        notes.accepted |= peace.accepted
        notes.images |= peace.images
        retried = settle(stack)
        abandoned = {order.key for order in ordered if order.abandoned}
        found = checks(stack, notes, abandoned, storm, calm)
        with stack.sessions() as session:
            recovered = recoveries(session, storm.happened, retried)
        sys.stdout.write(
            report.text(stack, _setting(stack, options, jobs, time.monotonic() - began), notes, recovered, found)
        )
    well = all(check.holds for check in found)
    if well and not options.keep:
        shutil.rmtree(stack.root)
    else:
        sys.stdout.write(f"\nLogs: {stack.root}\n")
    sys.stdout.flush()
    return well


def _setting(stack: Stack, options: argparse.Namespace, jobs: int, seconds: float) -> str:
    disk = "tmpfs" if stack.mounted else "not mountable here, ENOSPC from the processes' own open(), none for Postgres"
    return (
        f"seed {options.seed}, {jobs} jobs, {WORKERS} workers, {API_PROCESSES} API processes, {stack.redis.version}, "
        f"objects in {'a folder' if stack.bucket is None else 'a bucket (moto)'}, "
        f"small disks: {disk}, fence {'on' if options.fence else 'OFF'}, {seconds:.0f} s in all"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="jobs seen through to their result")
    parser.add_argument("--seed", type=int, default=1, help="of faults, jobs and clients")
    parser.add_argument("--redis", choices=["valkey", "debian", "both"], default="both", help="the doorbell's server")
    parser.add_argument("--no-fence", dest="fence", action="store_false", help="the negative control, which must fail")
    parser.add_argument("--seconds", type=float, help="bound of a run; none: grows with the jobs")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run that went well")
    parser.add_argument(
        "--store", choices=["folder", "moto"], default="folder", help="where objects lie; moto: a bucket that fails too"
    )
    parser.add_argument("--faults", type=lambda text: text.split(","), help=f"of: {', '.join(ALL_FAULTS)}")
    options = parser.parse_args()
    possible = FAULTS if options.store == "folder" else ALL_FAULTS
    options.faults = options.faults or list(possible)
    logging.disable(logging.WARNING)  # that servers are away is no news here
    if unknown := set(options.faults) - set(possible):
        parser.error(f"no such faults: {', '.join(sorted(unknown))}")
    runs = [] if options.redis == "debian" else [(options.jobs, valkey_binary())]
    if options.redis != "valkey":
        if (debian := shutil.which("redis-server")) is not None:
            runs.append((round(options.jobs * (DEBIAN_SHARE if runs else 1)), debian))
        else:
            parser.error("redis-server is not on the PATH: apt-get install redis-server, or --redis valkey")
    verdicts = [chaos(options, jobs, redis) for jobs, redis in runs]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
