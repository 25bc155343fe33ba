"""Real worker processes, jobs for them, and what an unbroken run would have made."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.claim import claim_slice
from tests.support.environment import environment
from tests.support.scans import ct, mri, write_hdf5
from tests.support.submit import retry_job, submit_job
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.cli import UDIG
from udig_recon.core.iterates import Iterate
from udig_recon.core.parameters import SIRT, Parameters, UDiGDIP, complete
from udig_recon.core.priors.card import sha256_of
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.slice_order import WarmStart
from udig_recon.worker.database.tables import Job, JobSlice, Scan
from udig_recon.worker.jobs import queue
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0
LONG = SIRT(iterations=8000, holdout_share=0)
SHORT = SIRT(iterations=300, holdout_share=0)
GUIDED = complete(UDiGDIP(outer_iterations=25, inner_iterations=1), Modality.CT)  # network, optimiser, prior, noise
LED = complete(UDiGDIP(outer_iterations=60, holdout_share=0.1), Modality.CT)  # slices follow one of their volume
JUDGED = complete(UDiGDIP(outer_iterations=40, inner_iterations=1, holdout_share=0.1), Modality.CT)
Found = TypeVar("Found")


class WorkerSubprocess:
    """`udig worker` of this or another checkout with these settings; its log lines are collected."""

    def __init__(
        self, settings: Settings, checkout: Path = ROOT, spoilt_by: str | None = None, options: Sequence[str] = ()
    ) -> None:
        self.lines: list[str] = []
        command, variables = [*UDIG, "worker", *options], environment(settings)
        if spoilt_by is not None:
            command = [sys.executable, "-c", spoilt_by]
        elif (checkout / "src").exists() and checkout != ROOT:
            named = (checkout / "worker" / "__main__.py").exists()
            command = [sys.executable, "-m", *(["udig_recon.worker"] if named else ["udig_recon.core", "worker"])]
            variables |= {"PYTHONPATH": str(checkout / "src")}
        elif checkout != ROOT:
            # Before 0.2 the packages were at the top of the checkout, which is the working directory.
            command = [sys.executable, "-m", "worker"]
        self.process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, cwd=checkout)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode())

    def said(self, event: str) -> bool:
        return any(f'"event": "{event}"' in line for line in self.lines)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        if self.process.poll() is None:
            self.send(number)
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@contextmanager
def working(
    settings: Settings,
    count: int = 1,
    checkout: Path = ROOT,
    spoilt_by: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[list[WorkerSubprocess]]:
    """Workers that are gone at the end; `spoilt_by`: the program that they run instead."""
    workers = [WorkerSubprocess(settings, checkout, spoilt_by, options) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()
            sys.stdout.writelines(worker.lines)  # pytest shows it where a test fails


def until(found: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """What is asked for, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


class Desk:
    """The API's side of the service: file scans and jobs, look at their rows."""

    def __init__(self, settings: Settings, database: sessionmaker[Session], storage: LocalStorage) -> None:
        self.settings, self.database, self.storage = settings, database, storage
        self.celery = queue.make_celery(settings)

    def scan(self, slices: int = 1, size: int = 32, modality: Modality = Modality.CT) -> uuid.UUID:
        """Store a scan's file."""
        parts = ct(slices=slices, size=size) if modality is Modality.CT else mri(slices=slices, size=size)
        path = write_hdf5((self.storage.root / "incoming") / "scan.h5", **parts)
        header, sha256, size_bytes = asdict(formats.probe(path)), sha256_of(path), path.stat().st_size
        self.storage.commit(path, keys.scan(sha256))
        with self.database.begin() as session:
            scan = Scan(sha256=sha256, filename="Doe^Jane.h5", size_bytes=size_bytes, header=header)
            session.add(scan)
        return scan.id

    def scan_sha256(self, job_id: uuid.UUID) -> str:
        with self.database() as session:
            return session.scalars(select(Scan.sha256).join(Job).where(Job.id == job_id)).one()

    def submit(
        self,
        scan_id: uuid.UUID,
        method: Parameters = LONG,
        *,
        slices: list[int] | None = None,
        messages: int = 1,
        **more: Any,
    ) -> uuid.UUID:
        """File a job and send so many messages for each of its slices."""
        with self.database.begin() as session:
            scan = session.get_one(Scan, scan_id)
            job, _ = submit_job(session, scan, method=method, slices=slices or [0], **more)
        queue.enqueue([(job.id, slice_) for slice_ in job.slices] * messages)
        return job.id

    def claimed(self, job_id: uuid.UUID) -> Claim:
        """Slice 0 of the job, as a worker has it that is none of the test's."""
        with self.database.begin() as session:
            claim = claim_slice(session, job_id, 0)
        assert claim is not None
        return claim

    def job(self, job_id: uuid.UUID) -> Job:
        with self.database() as session:
            return session.get_one(Job, job_id)

    def job_slice(self, job_id: uuid.UUID, slice_: int = 0) -> JobSlice:
        with self.database() as session:
            return session.get_one(JobSlice, (job_id, slice_))

    def job_slices(self, job_id: uuid.UUID) -> list[JobSlice]:
        with self.database() as session:
            return list(session.scalars(select(JobSlice).where(JobSlice.job_id == job_id).order_by(JobSlice.slice)))

    def retry(self, job_id: uuid.UUID) -> None:
        with self.database.begin() as session:
            retry_job(session, job_id)

    def ended(self, job_id: uuid.UUID) -> Job:
        """The job, when it has ended."""
        until(lambda: self.job(job_id).status.ended)
        return self.job(job_id)

    def has_checkpoint(self, job_id: uuid.UUID) -> bool:
        return any(self.storage.path(keys.checkpoints(job_id)).glob("*.pt"))

    def unbroken(self, scan_sha256: str, method: Parameters, slice_: int = 0, seed: int = 0) -> np.ndarray:
        """The image of a run that nothing disturbs."""
        problem, last = self._undisturbed(scan_sha256, method, slice_, seed)
        return problem.magnitude(last.image)

    def undisturbed_pair(self, scan_sha256: str, method: Parameters) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Images and verdicts of slice 0, which follows, and of slice 1, which leads."""
        _, leading = led = self._undisturbed(scan_sha256, method, 1, 0)
        assert leading.prior_check is not None
        warm_start = WarmStart(slice=1, tv_weight=leading.prior_check.tv_weight)
        runs = (self._undisturbed(scan_sha256, method, 0, 0, warm_start), led)
        return [
            (problem.magnitude(last.image), last.prior_check.as_json()) for problem, last in runs if last.prior_check
        ]

    def verdict(self, scan_sha256: str, method: Parameters) -> dict[str, Any]:
        """The verdict of slice 0 in a run that nothing disturbs."""
        _, last = self._undisturbed(scan_sha256, method, 0, 0)
        assert last.prior_check is not None
        return last.prior_check.as_json()

    def _undisturbed(
        self, scan_sha256: str, method: Parameters, slice_: int, seed: int, warm_start: WarmStart | None = None
    ) -> tuple[SliceProblem, Iterate]:
        torch.set_num_threads(self.settings.threads)
        problem = slice_problem(
            formats.read(self.storage.path(keys.scan(scan_sha256)), [slice_]), 0, torch.device("cpu")
        )
        *_, last = reconstruct(problem, method, seed=seed, warm_start=warm_start)
        return problem, last
