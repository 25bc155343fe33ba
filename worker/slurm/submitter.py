"""`udig worker --slurm`: keep as many batch jobs submitted as there is work for."""

import getpass
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import JobSlice, Status
from udig_recon.worker.jobs.scheduling import claimable
from udig_recon.worker.settings import get_settings
from udig_recon.worker.slurm.batch_jobs import FAILED, BatchJob, BatchJobs, SlurmError
from udig_recon.worker.telemetry import logs

log = logging.getLogger(__name__)
LONGEST_PAUSE_SECONDS = 600.0
IDLE_SECONDS = 300.0  # of the workers, unless the setting says otherwise
ROUND_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = '5min'"  # commands of SLURM run within a transaction


class Jobs(Protocol):
    """What `BatchJobs` does."""

    def listed(self) -> list[BatchJob]:
        """The jobs that there are. Raises SlurmError."""

    def submit(self) -> str:
        """The number of a new one. Raises SlurmError."""


def jobs_wanted(open_slices: int, slices_per_job: int, most: int) -> int:
    """Batch jobs for so many open slices."""
    return min(most, -(-open_slices // slices_per_job))


class Submitter:
    """Submits the jobs that are missing, and fewer and later ones after failures.

    Without a list of the jobs there are it submits nothing. After a refusal, and while jobs fail, it tries one job at
    a time, after a pause that doubles, until a job is seen running twice.
    """

    def __init__(
        self,
        jobs: Jobs,
        slices_per_job: int,
        most: int,
        pause: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs, self._slices_per_job, self._most, self._clock = jobs, slices_per_job, most, clock
        self._first_pause, self._pause, self._not_before = pause, 0.0, 0.0
        self._failed: set[str] | None = None  # numbers of jobs known to have failed; None: nothing is known yet
        self._running: set[str] = set()

    def round(self, open_slices: int) -> list[str]:
        """Submit what is missing now; the numbers of the new jobs."""
        submitted: list[str] = []
        try:
            listed = self._jobs.listed()
            self._learn(listed)
            if self._pause and self._clock() < self._not_before:
                return submitted
            places = sum(job.holds_place for job in listed)
            missing = jobs_wanted(open_slices, self._slices_per_job, self._most) - places
            for _ in range(min(missing, 1) if self._pause else missing):
                submitted.append(self._jobs.submit())
                log.info("slurm.submitted", extra={"batch_job": submitted[-1], "open_slices": open_slices})
            if self._pause and submitted:
                self._not_before = self._clock() + self._pause
        except SlurmError as error:
            self._slow_down()
            log.error("slurm.unavailable", extra={"error": str(error), "pause": self._pause})
        return submitted

    def _learn(self, listed: Sequence[BatchJob]) -> None:
        failed = {job.number for job in listed if job.state in FAILED}
        running = {job.number for job in listed if job.state == "RUNNING"}
        if self._failed is not None and (new := failed - self._failed):
            self._slow_down()
            log.error("slurm.jobs_failed", extra={"batch_jobs": sorted(new), "pause": self._pause})
        elif running & self._running:
            self._pause = 0.0
        self._failed, self._running = failed, running

    def _slow_down(self) -> None:
        self._pause = min(LONGEST_PAUSE_SECONDS, max(self._first_pause, 2 * self._pause))
        self._not_before = self._clock() + self._pause


def open_slices(session: Session) -> int:
    """Slices that a worker could take now, and those that workers have."""
    query = select(func.count()).select_from(JobSlice).where(or_(claimable(), JobSlice.status == Status.RUNNING))
    return session.scalar(query) or 0


def submit_once(sessions: sessionmaker[Session], submitter: Submitter) -> None:
    """One round, unless another process is at its own: two of them would both submit what is missing."""
    try:
        with sessions.begin() as session:
            session.execute(text(ROUND_TIMEOUT))
            if locks.try_acquire(session, Lock.SLURM):
                submitter.round(open_slices(session))
    except AWAY as error:
        log.warning("database.unavailable", extra={"error": type(error).__name__})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig worker --slurm`."""

    processes: str
    job_name: str
    slices_per_job: int
    max_jobs: int
    check_seconds: float
    time_limit: str
    sbatch: Sequence[str]


def main(options: Options) -> int:
    """Keep jobs submitted until SIGINT or SIGTERM; those that there are then go on, and end when they are idle."""
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ending.set())
    settings = get_settings()
    for name, value in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        if value is None:
            raise SystemExit(f"error: {name} is not set; batch jobs need it too")
    for program in ("squeue", "sbatch"):
        if shutil.which(program) is None:
            raise SystemExit(f"error: there is no {program} on the PATH; --slurm runs where batch jobs are submitted")
    logs.configure()
    engine = make_engine(str(settings.database_url), 1)
    # Without work they must end, whatever the setting of other workers.
    idle_seconds = None if settings.idle_seconds else IDLE_SECONDS
    sbatch = (f"--time={options.time_limit}", *options.sbatch)
    jobs = BatchJobs(options.job_name, getpass.getuser(), sbatch, options.processes, idle_seconds)
    submitter = Submitter(jobs, options.slices_per_job, options.max_jobs, options.check_seconds)
    while not ending.is_set():
        submit_once(make_sessions(engine), submitter)
        ending.wait(options.check_seconds)
    engine.dispose()
    return 0
