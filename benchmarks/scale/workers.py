"""So many workers that only claim, beat, report and finish, by the service's own functions, and what Postgres does."""

import multiprocessing
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, text

from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.jobs import leases, sweep
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.jobs.state import LeaseLost

PROCESSES = 4
LEASE_SECONDS, REPORT_SECONDS = 60.0, 2.0  # as the settings' defaults
SLICE_SECONDS = (10.0, 50.0)
SETTLING = 1 / 3  # of the time, in which workers begin one after the other; not counted
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
Answer = TypeVar("Answer")
Times = dict[str, list[float]]


def work(url: str, workers: int, seconds: float) -> Times:
    """Seconds of every claim, report, beat and finish of so many workers, and their number a second."""
    began = time.monotonic()
    counted_from, until = began + seconds * SETTLING, began + seconds
    context = multiprocessing.get_context("spawn")
    results: Queue[Times] = context.Queue()
    shares = [workers // PROCESSES + (number < workers % PROCESSES) for number in range(PROCESSES)]
    processes = [
        context.Process(target=_process, args=(url, share, began, counted_from, until, number, results))
        for number, share in enumerate(shares)
    ]
    for each in processes:
        each.start()
    found: Times = defaultdict(list)
    for _ in processes:
        for name, times in results.get().items():
            found[name] += times
    for each in processes:
        each.join()
    return {name: sorted(times) for name, times in found.items()}


def _process(
    url: str, workers: int, began: float, counted_from: float, until: float, number: int, results: "Queue[Times]"
) -> None:
    engine = make_engine(url, workers)
    found: Times = defaultdict(list)
    threads = [
        threading.Thread(target=_Worker(engine, f"node-{number}:{each}:0", began, counted_from, until, found).run)
        for each in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    results.put(dict(found))


class _Worker:
    def __init__(
        self, engine: Engine, name: str, began: float, counted_from: float, until: float, found: Times
    ) -> None:
        self._sessions, self._name, self._until, self._found = make_sessions(engine), name, until, found
        self._counted_from = counted_from
        self._random = random.Random(name)
        self._first = began + self._random.random() * (counted_from - began)

    def run(self) -> None:
        time.sleep(max(0.0, self._first - time.monotonic()))
        while time.monotonic() < self._until:
            try:
                self._slice()
            except LeaseLost:
                self._found["lost"].append(0.0)

    def _slice(self) -> None:
        claim = self._timed("claim", lambda session: leases.claim(session, self._name, LEASE_SECONDS))
        if claim is None:
            time.sleep(1.0)
            return
        end = time.monotonic() + self._random.uniform(*SLICE_SECONDS)
        for step in range(1, 1000):
            time.sleep(REPORT_SECONDS)
            if time.monotonic() > min(end, self._until):
                break
            point = Point(step, 1000, step * REPORT_SECONDS)
            self._timed("report", lambda session, point=point: leases.record(session, claim, point, LEASE_SECONDS))
        if time.monotonic() > self._until:
            self._timed("give back", lambda session: leases.release(session, claim))
            return
        written = f"jobs/{claim.job_id}/slice-{claim.slice}"
        if self._timed("finish", lambda session: leases.store_slice(session, claim, written, {"data_residual": 0.1})):
            self._timed("assemble", lambda session: leases.succeed_job(session, claim, written, {}, {}))

    def _timed(self, name: str, change: Callable[[Any], Answer]) -> Answer:
        began = time.monotonic()
        with self._sessions.begin() as session:
            answer = change(session)
        if began >= self._counted_from:
            self._found[name].append(time.monotonic() - began)
        return answer


@contextmanager
def sweeping(url: str, found: list[float]) -> Iterator[None]:
    """One sweep every few seconds, as the workers of a service do together; how long each takes."""
    engine, over = make_engine(url, 1), threading.Event()

    def loop() -> None:
        while not over.wait(2.5):
            began = time.monotonic()
            with make_sessions(engine).begin() as session:
                sweep.sweep(session, 3, 5.0, 10**6)
            found.append(time.monotonic() - began)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        engine.dispose()


def cpu_seconds(folder: Path) -> float:
    """CPU time of the server on this folder and of its children, those that have ended included."""
    main = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == main:
            total += sum(map(int, fields[11:15]))
        elif int(fields[1]) == main:
            total += sum(map(int, fields[11:13]))
    return total / CLOCK_TICKS


def counters(engine: Engine) -> dict[str, float]:
    """What Postgres counts: WAL, row versions of slices, and those without index entries."""
    with engine.connect() as connection:
        wal = connection.scalar(text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
        rows = connection.execute(
            text(
                "SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, pg_total_relation_size(relid)"
                " FROM pg_stat_user_tables WHERE relname = 'job_slices'"
            )
        ).one()
        commits = connection.scalar(text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"))
    names = ("updated", "hot", "dead", "bytes")
    return {"wal": float(wal or 0), "commits": float(commits or 0), **dict(zip(names, map(float, rows), strict=True))}
