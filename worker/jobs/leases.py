"""What workers do with slices: claim, beat, record, finish. Every write carries the attempt it was claimed with."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, update
from sqlalchemy.orm import Session

from udig_recon.core.metrics import with_current_names
from udig_recon.core.slice_order import WarmStart
from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.database.engine import notify, notify_progress
from udig_recon.worker.database.tables import Job, JobSlice, Scan, Snapshot, Status
from udig_recon.worker.jobs import scheduling
from udig_recon.worker.jobs.failures import time_limit
from udig_recon.worker.jobs.service import (
    UnknownJob,
    claimable,
    locked,
    settle_cancelled,
    settle_failed,
    settle_stopped,
)
from udig_recon.worker.jobs.summary import mean_metrics
from udig_recon.worker.runtime.memory_fit import Room


class LeaseLost(Exception):
    """The slice is another's by now, or its job has ended: stop at once and write nothing."""


@dataclass(frozen=True)
class Claim:
    """A slice that this process may work on as long as its lease lives."""

    job_id: uuid.UUID
    tenant: str
    slice: int
    attempt: int
    parameters: dict[str, Any]
    seed: int
    outputs: tuple[str, ...]
    slices: tuple[int, ...]
    scan_sha256: str
    scan_header: dict[str, Any]
    result: str | None  # the slice is done already, what is left is to assemble
    queued_at: datetime
    claimed_at: datetime
    traceparent: str | None  # of the request that filed the job
    seeds: int = 1
    max_seconds: float | None = None  # that the job may compute
    warm_start: WarmStart | None = None  # what the slice's leader found

    def is_mine(self) -> ColumnElement[bool]:
        """The fence."""
        here = and_(JobSlice.job_id == self.job_id, JobSlice.slice == self.slice)
        return and_(here, JobSlice.attempt == self.attempt, JobSlice.status == Status.RUNNING)


@dataclass(frozen=True)
class Point:
    """How far a slice is."""

    iteration: int
    iterations: int
    seconds: float
    loss: float | None = None
    data_residual: float | None = None
    psnr: float | None = None
    ssim: float | None = None


def claim(
    session: Session, worker: str, lease_seconds: float, left: Sequence[uuid.UUID] = (), room: Room | None = None
) -> Claim | None:
    """The slice whose turn it is (`scheduling`), None when none waits or fits; of no job left to others.

    A job that has used up its seconds fails here instead of beginning another slice.
    """
    while (found := scheduling.next_slice(session, left, room)) is not None:
        try:
            # Without a slice to take the job is let go of, before another is waited for.
            with session.begin_nested():
                job = locked(session, found.job_id)
                if job.max_seconds is None or job.seconds < job.max_seconds:
                    return take(session, job, worker, lease_seconds, starved=found.starved)
                if not job.status.ended:
                    settle_failed(session, job, time_limit(job.max_seconds))
        except (UnknownJob, Taken):
            continue
    return None


class Taken(Exception):
    """Others were faster."""


def take(
    session: Session, job: Job, worker: str, lease_seconds: float, wanted: int | None = None, *, starved: bool = False
) -> Claim:
    """A slice of a job that is held: the one wanted, or the first that may begin. Raises Taken when none may."""
    waiting = select(JobSlice.slice).where(JobSlice.job_id == job.id, claimable())
    waiting = waiting if wanted is None else waiting.where(JobSlice.slice == wanted)
    first = waiting.order_by(JobSlice.slice).limit(1).scalar_subquery()
    query = (
        update(JobSlice)
        .where(JobSlice.job_id == job.id, JobSlice.slice == first)
        .values(
            status=Status.RUNNING,
            attempt=JobSlice.attempt + 1,
            worker=worker,
            lease_until=lease_end(lease_seconds),
            started_at=func.coalesce(JobSlice.started_at, func.now()),
            protected_until=scheduling.protection(starved),
        )
        .returning(
            JobSlice.slice,
            JobSlice.attempt,
            JobSlice.result,
            JobSlice.reference_slice,
            JobSlice.queued_at,
            func.now().label("claimed_at"),
        )
        .execution_options(synchronize_session=False)
    )
    row = session.execute(query).one_or_none()
    if row is None:
        raise Taken
    job.status = Status.RUNNING
    job.started_at = job.started_at or func.now()
    notify(session, job.id)
    return _claimed(session, job, row)


def _claimed(session: Session, job: Job, row: Row[*tuple[Any, ...]]) -> Claim:
    """What a worker is to know of the slice that it has just taken."""
    scan = session.get_one(Scan, job.scan_id)
    return Claim(
        job_id=job.id,
        tenant=job.tenant,
        slice=row.slice,
        attempt=row.attempt,
        parameters=job.parameters,
        seed=job.seed,
        seeds=job.seeds,
        max_seconds=job.max_seconds,
        outputs=tuple(job.outputs),
        slices=tuple(job.slices),
        scan_sha256=scan.sha256,
        scan_header=scan.header,
        result=row.result,
        warm_start=None if row.reference_slice is None else _warm_start(session, job.id, row.reference_slice),
        queued_at=row.queued_at,
        claimed_at=row.claimed_at,
        traceparent=job.traceparent,
    )


def _warm_start(session: Session, job_id: uuid.UUID, reference: int) -> WarmStart | None:
    return WarmStart.from_check(reference, session.get_one(JobSlice, (job_id, reference)).prior_check)


class HeartbeatReply(NamedTuple):
    """What a heartbeat hears back."""

    cancel: bool = False  # the job is to be cancelled
    yield_requested: bool = False  # something more urgent waits: stop where that costs nothing
    out_of_time: bool = False  # the job has used up its seconds


def heartbeat(session: Session, claim: Claim, lease_seconds: float, point: Point | None = None) -> HeartbeatReply:
    """Renew the lease and tell how far it is; what the worker is to do. Raises LeaseLost."""
    values: dict[str, Any] = {"lease_until": lease_end(lease_seconds)}
    if point is not None:
        values |= {"iteration": point.iteration, "iterations": point.iterations, "seconds": point.seconds}
    query = (
        update(JobSlice)
        .where(claim.is_mine(), Job.id == JobSlice.job_id)
        .values(values)
        .returning(Job.cancel_requested, JobSlice.yield_requested_at.is_not(None), scheduling.out_of_time())
        .execution_options(synchronize_session=False)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise LeaseLost
    return HeartbeatReply(*found)


def record(session: Session, claim: Claim, point: Point, lease_seconds: float) -> None:
    """A heartbeat that leaves a snapshot. It takes its number while it holds the job: commits are in that order.

    Told twice, because the answer to the first time was lost, it leaves one.
    """
    job = locked_or_lost(session, claim.job_id)
    told = select(JobSlice.iteration, JobSlice.seconds).where(claim.is_mine())
    if session.execute(told).one_or_none() == (point.iteration, point.seconds):
        return
    heartbeat(session, claim, lease_seconds, point)
    job.last_seq += 1
    session.add(Snapshot(job_id=job.id, seq=job.last_seq, slice=claim.slice, **vars(point)))
    notify_progress(session, job.id)


def release(session: Session, claim: Claim, *, yielded: bool = False) -> None:
    """Give the slice back unfinished; `yielded`: to something more urgent. Raises LeaseLost."""
    more = {"yielded": True} if yielded else {}
    job = held(session, claim, status=Status.QUEUED, lease_until=None, enqueued_at=None, worker=None, **more)
    settle_stopped(session, job)


def stop_cancelled(session: Session, claim: Claim) -> None:
    """The worker has stopped because its job is to be cancelled. Raises LeaseLost."""
    job = held(session, claim, status=Status.CANCELLED, finished_at=func.now(), lease_until=None, worker=None)
    settle_stopped(session, job)


def store_slice(
    session: Session,
    claim: Claim,
    result: str,
    metrics: dict[str, float | None],
    prior_check: dict[str, Any] | None = None,
    quality: dict[str, Any] | None = None,
    sha256: str | None = None,
) -> bool:
    """Accept the slice's result. True: it was the job's last one, and this worker keeps its lease to assemble them."""
    told = {"result_sha256": sha256, "metrics": metrics, "prior_check": prior_check, "quality": quality}
    job = held(session, claim, result=result, **told)
    unfinished = select(JobSlice.slice).where(
        JobSlice.job_id == job.id, JobSlice.slice != claim.slice, JobSlice.status != Status.SUCCEEDED
    )
    if not session.scalar(select(unfinished.exists())):
        return True
    held(session, claim, status=Status.SUCCEEDED, finished_at=func.now(), lease_until=None)
    if job.cancel_requested:
        settle_cancelled(session, job)
    return False


def release_dependents(session: Session, claim: Claim) -> list[tuple[uuid.UUID, int]]:
    """Slices that waited for the claimed one, which is done: what to ring for after the commit."""
    query = (
        update(JobSlice)
        .where(
            JobSlice.job_id == claim.job_id, JobSlice.reference_slice == claim.slice, JobSlice.status == Status.QUEUED
        )
        .values(enqueued_at=func.now())
        .returning(JobSlice.slice)
        .execution_options(synchronize_session=False)
    )
    return [(claim.job_id, slice_) for slice_ in sorted(session.scalars(query))]


def succeed_job(
    session: Session, claim: Claim, folder: str, versions: dict[str, Any], files: dict[str, Any] | None = None
) -> None:
    """Accept the assembled result in place of the slices, unless the job is to be cancelled. Raises LeaseLost."""
    if locked_or_lost(session, claim.job_id).cancel_requested:
        stop_cancelled(session, claim)
        return
    job = held(session, claim, status=Status.SUCCEEDED, finished_at=func.now(), lease_until=None)
    rows = session.scalars(select(JobSlice.metrics).where(JobSlice.job_id == job.id)).all()
    job.metrics = mean_metrics([with_current_names(row) for row in rows if row is not None])
    job.status, job.result, job.versions, job.finished_at = Status.SUCCEEDED, folder, versions, func.now()
    job.result_files, job.damaged = files, None  # what was damaged of its slices was made anew
    session.execute(update(JobSlice).where(JobSlice.job_id == job.id).values(result=None))
    digests = {name: each["sha256"] for name, each in (files or {}).items()}
    audit.append(session, Who(job.tenant, audit.WORKER), "job.succeeded", job=job.id, **digests)


def fail_job(session: Session, claim: Claim, problem: dict[str, Any]) -> None:
    """The slice cannot be done, so the job cannot either. Raises LeaseLost."""
    job = held(session, claim, status=Status.FAILED, finished_at=func.now(), lease_until=None)
    settle_failed(session, job, problem)


def is_accepted(session: Session, claim: Claim, written: str) -> bool:
    """Whether a row names the file or folder that this attempt wrote: the answer to its commit may have been lost."""
    of_slice = select(JobSlice.slice).where(
        JobSlice.job_id == claim.job_id, JobSlice.slice == claim.slice, JobSlice.result == written
    )
    of_job = select(Job.id).where(Job.id == claim.job_id, Job.result == written)
    return bool(session.scalar(select(or_(of_slice.exists(), of_job.exists()))))


def lease_end(seconds: float) -> ColumnElement[Any]:
    """So many seconds from now, by the database's clock."""
    return func.now() + timedelta(seconds=seconds)


def locked_or_lost(session: Session, job_id: uuid.UUID) -> Job:
    """The job, held. Raises LeaseLost when it was deleted."""
    try:
        return locked(session, job_id)
    except UnknownJob as error:
        raise LeaseLost from error


def held(session: Session, claim: Claim, **values: Any) -> Job:
    """The job, held, after a fenced change of the slice."""
    job = locked_or_lost(session, claim.job_id)
    query = update(JobSlice).where(claim.is_mine()).values(values).returning(JobSlice.slice)
    if session.scalar(query.execution_options(synchronize_session=False)) is None:
        raise LeaseLost
    notify(session, job.id)
    return job
