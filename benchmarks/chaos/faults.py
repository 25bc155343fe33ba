"""Faults: each strikes, says for how long the service is to be left alone, and is lifted."""

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from redis.exceptions import RedisError
from sqlalchemy import func, select, text

from benchmarks.chaos.entry import BACK, FORWARD
from benchmarks.chaos.stack import Held, Stack
from benchmarks.chaos.wire import WEIGHTY
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import JobSlice
from udig_recon.worker.jobs import queue

DUPLICATES = 5
LONGEST_STOP_SECONDS = 20.0  # as a rule it ends as soon as another worker has the slice


class Struck(NamedTuple):
    """A fault that has struck: how long it lasts, unless it is done before, and whose slices it hit."""

    seconds: float
    job_slices: tuple[Held, ...] = ()
    done: Callable[[], bool] = lambda: False


Fault = Callable[[Stack, random.Random], Iterator[Struck]]
"""Yields once, between strike and lift; not at all where there is nothing to strike now."""


def kill_worker(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """kill -9 of a worker at work."""
    if running := stack.running():
        victim, held = rng.choice(running)
        victim.send(signal.SIGKILL)
        yield Struck(0, (held,))


def kill_workers(stack: Stack, _: random.Random) -> Iterator[Struck]:
    """kill -9 of all workers at once."""
    if running := stack.running():
        for worker in stack.workers:
            worker.send(signal.SIGKILL)
        yield Struck(0, tuple(held for _, held in running))


def kill_door(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """kill -9 of an API process."""
    rng.choice(stack.api_processes).send(signal.SIGKILL)
    yield Struck(0)


def stop_worker(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """SIGSTOP of a worker at work, beyond its lease; SIGCONT."""
    if running := stack.running():
        victim, held = rng.choice(running)
        victim.send(signal.SIGSTOP)
        yield Struck(LONGEST_STOP_SECONDS, (held,), done=lambda: stack.has_moved_on(held))
        victim.send(signal.SIGCONT)


def stop_postgres(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """Postgres stopped at once (SIGQUIT); started again."""
    if stack.stop_postgres():
        yield Struck(rng.uniform(0.2, 3))
        stack.postgres_down = False


def kill_backend(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """kill -9 of a Postgres process that serves a connection."""
    query = text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
    try:
        with stack.sessions() as session:
            pids = list(session.scalars(query))
    except AWAY:
        return
    with suppress(ProcessLookupError, IndexError):
        os.kill(rng.choice(pids), signal.SIGKILL)
        yield Struck(0)


def wipe_redis(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """Redis killed and wiped; started empty."""
    stack.redis.kill_and_wipe()
    yield Struck(rng.uniform(0, 3))
    stack.redis.down = False


def reset_connections(stack: Stack, _: random.Random) -> Iterator[Struck]:
    """All connections to Redis and Postgres reset."""
    others = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    try:
        stack.redis.reset_connections()
        with stack.sessions() as session:
            session.execute(others)
    except (*AWAY, RedisError):
        return
    yield Struck(0)


def lose_answers(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """Connections to Postgres cut between a commit and its answer."""
    if stack.running():
        # By turns, the most delicate first.
        stack.wire.weight = WEIGHTY[(WEIGHTY.index(stack.wire.weight) + 1) % len(WEIGHTY)]
        stack.wire.to_cut = rng.randint(1, 4)
        yield Struck(8, done=lambda: stack.wire.to_cut == 0)
        stack.wire.to_cut = 0


def duplicate_messages(stack: Stack, _: random.Random) -> Iterator[Struck]:
    """Messages sent again, of slices that wait, run and have ended."""
    query = select(JobSlice.job_id, JobSlice.slice).order_by(func.random()).limit(20)
    try:
        with stack.sessions() as session:
            rows = [(uuid.UUID(str(row.job_id)), int(row.slice)) for row in session.execute(query)]
    except AWAY:
        return
    if rows and queue.enqueue(rows * DUPLICATES):
        yield Struck(0)


def fill_data(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The disk of scans, checkpoints and results full; room again."""
    if stack.running():
        stack.data_disk.fill()
        threading.Thread(target=stack.bring_a_scan, daemon=True).start()
        yield Struck(rng.uniform(1, 3))
        stack.data_disk.clear()


def fill_database(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The disk of Postgres full; room again."""
    if stack.database_disk is not None and stack.running():
        stack.database_disk.fill()
        yield Struck(rng.uniform(1, 3))
        stack.database_disk.clear()


def step_clock(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The clock of a worker steps by hours, forward or back."""
    if (worker := stack.workers[-1]).pid and any(held for each, held in stack.running() if each is worker):
        worker.send(rng.choice([FORWARD, BACK]))
        yield Struck(0)


def _bucket_in(mode: str, stack: Stack, rng: random.Random, *, least: float) -> Iterator[Struck]:
    """The bucket in a mode for `least` to 8 seconds, while something runs; well again."""
    if stack.bucket is not None and stack.running():
        stack.bucket.set_mode(mode)
        yield Struck(rng.uniform(least, 8))
        stack.bucket.set_mode("well")


def kill_bucket(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The bucket's port closed and its connections reset, as by kill -9 of its front end; there again."""
    yield from _bucket_in("down", stack, rng, least=1)


def pause_bucket(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """SIGSTOP of the bucket's server, beyond what a request may take; SIGCONT."""
    if stack.bucket is not None and stack.running():
        stack.bucket.pause(True)
        yield Struck(rng.uniform(1, 8))
        stack.bucket.pause(False)


def slow_bucket(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The bucket answers slowly."""
    yield from _bucket_in("slow", stack, rng, least=3)


def refusing_bucket(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """The bucket answers 503."""
    yield from _bucket_in("refusing", stack, rng, least=1)


def lose_puts(stack: Stack, rng: random.Random) -> Iterator[Struck]:
    """Connections to the bucket reset between a put and its answer."""
    bucket = stack.bucket
    if bucket is not None and stack.running():
        bucket.answers_to_lose = rng.randint(1, 6)
        yield Struck(8, done=lambda: bucket.answers_to_lose == 0)
        bucket.answers_to_lose = 0


FAULTS: dict[str, Fault] = {
    "stop-worker": stop_worker,
    "kill-worker": kill_worker,
    "kill-workers": kill_workers,
    "kill-api": kill_door,
    "stop-postgres": stop_postgres,
    "kill-backend": kill_backend,
    "wipe-redis": wipe_redis,
    "reset": reset_connections,
    "lost-answers": lose_answers,
    "duplicates": duplicate_messages,
    "full-data": fill_data,
    "full-database": fill_database,
    "clock": step_clock,
}
FAULTS_OF_BUCKETS: dict[str, Fault] = {
    "kill-bucket": kill_bucket,
    "pause-bucket": pause_bucket,
    "slow-bucket": slow_bucket,
    "503-bucket": refusing_bucket,
    "lost-puts": lose_puts,
}
ALL_FAULTS = FAULTS | FAULTS_OF_BUCKETS


@dataclass
class Happened:
    """One fault that struck, and when what followed was over (seconds of the monotonic and the wall clock)."""

    name: str
    struck: Struck
    began: float
    began_wall: float
    lifted: float | None = None
    ready: float | None = None


class Storm:
    """Faults in a seeded order, at seeded moments: now one, now two at a time, the next when all are ready again."""

    def __init__(
        self, stack: Stack, names: list[str], repeats: int, seed: int, faults: Mapping[str, Fault] = ALL_FAULTS
    ) -> None:
        self._stack, self._rng, self._faults = stack, random.Random(seed), faults
        self._waiting = [name for _ in range(repeats) for name in self._rng.sample(names, len(names))]
        self.planned = Counter(self._waiting)
        self.never: list[str] = []  # struck, for the time was up
        self.happened: list[Happened] = []
        self._active: list[tuple[Happened, Iterator[Struck]]] = []
        self._next_at, self._at_once = 0.0, 1

    @property
    def over(self) -> bool:
        """Whether every fault has struck and been recovered from."""
        return not self._waiting and all(each.ready is not None for each in self.happened)

    def tick(self) -> None:
        """Lift what is due, see what is ready again, strike."""
        self._recover()
        if self._waiting and not self._active and time.monotonic() >= self._next_at:
            self._strike()

    def _strike(self) -> None:
        struck = []
        for name in self._waiting:
            began, wall = time.monotonic(), time.time()
            course = self._faults[name](self._stack, self._rng)
            if name in struck or (found := next(course, None)) is None:
                continue
            self.happened.append(Happened(name, found, began, wall))
            self._active.append((self.happened[-1], course))
            struck.append(name)
            if len(struck) == self._at_once:
                break
        for name in struck:
            self._waiting.remove(name)
        self._at_once = 1 + (self._rng.random() < 0.3)

    def _recover(self) -> None:
        now = time.monotonic()
        for each, course in list(self._active):
            if each.lifted is None and (now >= each.began + each.struck.seconds or each.struck.done()):
                next(course, None)
                each.lifted = time.monotonic()
            elif each.lifted is not None and self._stack.readiness.ready_since_probe_at > each.lifted:
                each.ready = time.monotonic()
                self._active.remove((each, course))
                self._next_at = each.ready + self._rng.uniform(0.2, 1.5)

    def end(self) -> None:
        """Strike no more, and lift what has not been."""
        self.never += self._waiting
        self._waiting = []
        for each, course in self._active:
            if each.lifted is None:
                next(course, None)
                each.lifted = time.monotonic()
