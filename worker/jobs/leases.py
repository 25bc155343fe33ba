"""Leases of slices: claim, renew by heartbeats, report progress, release, finish.

Every write of a worker carries the attempt that it was claimed with (the fence).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.database.engine import notify_progress
from udig_recon.worker.database.tables import Job, JobSlice, Snapshot, Status
from udig_recon.worker.jobs import scheduling, state
from udig_recon.worker.jobs.claims import Claim, read_claim
from udig_recon.worker.jobs.failures import time_limit
from udig_recon.worker.jobs.ratings import rating_of
from udig_recon.worker.jobs.scheduling import claimable
from udig_recon.worker.jobs.summary import mean_metrics
from udig_recon.worker.runtime.memory_fit import Room


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
    session: Session, worker: str, lease_seconds: float, skip: Sequence[uuid.UUID] = (), room: Room | None = None
) -> Claim | None:
    """The slice whose turn it is (`scheduling`), None when none waits or fits; of no job left to others.

    A job that has used up its seconds fails here instead of beginning another slice. While another transaction holds
    the job, the next one of its priority has the turn, so that workers that claim at once do not wait for each other.
    """
    while (found := scheduling.next_slice(session, skip, room)) is not None:
        try:
            # Without a slice to take the job is let go of, before another is waited for.
            with session.begin_nested():
                job = _lock_next_job(session, found, skip, room)
                if job.max_seconds is None or job.seconds < job.max_seconds:
                    return take(session, job, worker, lease_seconds, starved=found.starved)
                if not job.status.ended:
                    state.close_as_failed(session, job, time_limit(job.max_seconds))
        except (state.UnknownJob, Taken):
            continue
    return None


def _lock_next_job(session: Session, found: scheduling.Next, skip: Sequence[uuid.UUID], room: Room | None) -> Job:
    """Hold the job that was found, else the next of its priority that is free; wait where all are held."""
    job = state.lock_free_job(session, [found.job_id])
    if job is None:
        job = state.lock_free_job(session, scheduling.next_jobs(session, found.priority, skip, room))
    return state.lock_job(session, found.job_id) if job is None else job


class Taken(Exception):
    """No slice of the job may begin any more: other workers were faster."""


def take(
    session: Session, job: Job, worker: str, lease_seconds: float, wanted: int | None = None, *, starved: bool = False
) -> Claim:
    """Claim a slice of a job that is held: the one wanted, or the first that may begin. Raises Taken when none may."""
    waiting = select(JobSlice.slice).where(JobSlice.job_id == job.id, claimable())
    waiting = waiting if wanted is None else waiting.where(JobSlice.slice == wanted)
    first = waiting.order_by(JobSlice.slice).limit(1).scalar_subquery()
    taken = state.move_slices(
        session,
        job.id,
        [Status.QUEUED],
        Status.RUNNING,
        JobSlice.slice == first,
        attempt=JobSlice.attempt + 1,
        worker=worker,
        lease_until=lease_end(lease_seconds),
        started_at=func.coalesce(JobSlice.started_at, func.now()),
        protected_until=scheduling.protection(starved),
    )
    if not taken:
        raise Taken
    if job.status is Status.QUEUED:
        state.move_job(session, job, Status.RUNNING, started_at=job.started_at or func.now())
    return read_claim(session, job.id, taken[0])


class HeartbeatReply(NamedTuple):
    """What a heartbeat hears back."""

    cancel: bool = False  # the job is to be cancelled
    yield_requested: bool = False  # something more urgent waits: stop where that costs nothing
    out_of_time: bool = False  # the job has used up its seconds


def heartbeat(session: Session, claim: Claim, lease_seconds: float, point: Point | None = None) -> HeartbeatReply:
    """Renew the lease and tell how far it is; what the worker is to do. Raises LeaseLost.

    The commit does not wait for the disk: a lease that a crash of the database takes back by a moment does no harm.
    """
    values: dict[str, Any] = {"lease_until": lease_end(lease_seconds)}
    if point is not None:
        values |= {"iteration": point.iteration, "iterations": point.iterations, "seconds": point.seconds}
    query = (
        update(JobSlice)
        .where(claim.is_mine(), Job.id == JobSlice.job_id)
        .values(values)
        .returning(
            Job.cancel_requested,
            JobSlice.yield_requested_at.is_not(None),
            scheduling.out_of_time(),
            func.set_config("synchronous_commit", "off", True),
        )
        .execution_options(synchronize_session=False)
    )
    found = session.execute(query).one_or_none()
    if found is None:
        raise state.LeaseLost
    cancel, yield_requested, out_of_time, _ = found
    return HeartbeatReply(cancel, yield_requested, out_of_time)


def record(session: Session, claim: Claim, point: Point, lease_seconds: float) -> HeartbeatReply:
    """A heartbeat that leaves a snapshot. It takes its number while it holds the job: commits are in that order.

    Told twice, because the answer to the first time was lost, it leaves one.
    """
    job = state.lock_leased_job(session, claim)
    told = select(JobSlice.iteration, JobSlice.seconds).where(claim.is_mine())
    if session.execute(told).one_or_none() == (point.iteration, point.seconds):
        return heartbeat(session, claim, lease_seconds)
    reply = heartbeat(session, claim, lease_seconds, point)
    job.last_seq += 1
    session.add(Snapshot(job_id=job.id, seq=job.last_seq, slice=claim.slice, **vars(point)))
    notify_progress(session, job.id)
    return reply


def release(session: Session, claim: Claim, *, yielded: bool = False) -> None:
    """Give the slice back unfinished; `yielded`: to a more urgent one. Raises LeaseLost."""
    more = {"yielded": True} if yielded else {}
    job = state.move_slice(session, claim, Status.QUEUED, enqueued_at=None, **more)
    state.follow_stopped_slice(session, job)


def stop_cancelled(session: Session, claim: Claim) -> None:
    """Record that the worker has stopped because its job is to be cancelled. Raises LeaseLost."""
    job = state.move_slice(session, claim, Status.CANCELLED)
    state.follow_stopped_slice(session, job)


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
    columns = {"result_sha256": sha256, "metrics": metrics, "prior_check": prior_check, "quality": quality}
    job = state.change_slice(session, claim, result=result, **columns)
    unfinished = select(JobSlice.slice).where(
        JobSlice.job_id == job.id, JobSlice.slice != claim.slice, JobSlice.status != Status.SUCCEEDED
    )
    if not session.scalar(select(unfinished.exists())):
        return True
    state.move_slice(session, claim, Status.SUCCEEDED)
    if job.cancel_requested:
        state.cancel_what_waits(session, job)
    return False


def release_dependents(session: Session, claim: Claim) -> list[tuple[uuid.UUID, int]]:
    """Mark the dependent slices of the claimed one as enqueued; the messages to send after the commit."""
    query = (
        update(JobSlice)
        .where(JobSlice.job_id == claim.job_id, JobSlice.reference_slice == claim.slice)
        .where(JobSlice.status == Status.QUEUED)
        .values(enqueued_at=func.now())
        .returning(JobSlice.slice)
        .execution_options(synchronize_session=False)
    )
    return [(claim.job_id, slice_) for slice_ in sorted(session.scalars(query))]


def succeed_job(
    session: Session, claim: Claim, folder: str, versions: dict[str, Any], files: dict[str, Any] | None = None
) -> None:
    """Accept the assembled result in place of the slices, unless the job is to be cancelled. Raises LeaseLost."""
    if state.lock_leased_job(session, claim).cancel_requested:
        stop_cancelled(session, claim)
        return
    job = state.move_slice(session, claim, Status.SUCCEEDED)
    rows = session.execute(select(JobSlice.metrics, JobSlice.quality).where(JobSlice.job_id == job.id)).all()
    state.move_job(
        session,
        job,
        Status.SUCCEEDED,
        metrics=mean_metrics([row.metrics for row in rows if row.metrics is not None]),
        rating=rating_of(row.quality for row in rows),
        result=folder,
        versions=versions,
        result_files=files,
        damaged=None,  # slices whose files were damaged were computed again
    )
    session.execute(update(JobSlice).where(JobSlice.job_id == job.id).values(result=None))
    digests = {name: each["sha256"] for name, each in (files or {}).items()}
    audit.append(session, Who(job.tenant, audit.WORKER), "job.succeeded", job=job.id, **digests)


def fail_job(session: Session, claim: Claim, problem: dict[str, Any]) -> None:
    """Fail the job because its slice cannot be computed. Raises LeaseLost."""
    job = state.move_slice(session, claim, Status.FAILED)
    state.close_as_failed(session, job, problem)


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
