"""Sweep: requeue slices whose leases have expired, enqueue those without a message, keep the list of workers."""

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from udig_recon.worker.database import counters, locks
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import JobSlice, Status, Worker
from udig_recon.worker.jobs import scheduling, state
from udig_recon.worker.jobs.failures import worker_lost
from udig_recon.worker.jobs.scheduling import claimable

log = logging.getLogger(__name__)
MOST_ENQUEUED = 1000
FORGOTTEN = timedelta(hours=1)  # after which the row of a worker that is not seen is deleted


def expire(session: Session, max_crashes: int) -> None:
    """Queue the slices again whose leases have expired; one that lost its lease too often fails its job."""
    expired = and_(JobSlice.status == Status.RUNNING, JobSlice.lease_until < func.now())
    for job_id in session.scalars(select(JobSlice.job_id).where(expired).distinct().order_by(JobSlice.job_id)).all():
        try:
            job = state.lock_job(session, job_id)
        except state.UnknownJob:
            continue
        crashes = {"crashes": JobSlice.crashes + 1}
        poison: Sequence[int] = []
        if not job.cancel_requested:
            too_often = JobSlice.crashes + 1 >= max_crashes
            running, failed = [Status.RUNNING], Status.FAILED
            poison = state.move_slices(session, job_id, running, failed, expired, too_often, worker=None, **crashes)
        state.move_slices(session, job_id, [Status.RUNNING], Status.QUEUED, expired, enqueued_at=None, **crashes)
        if poison:
            lost = session.get_one(JobSlice, (job_id, poison[0]), populate_existing=True)
            state.close_as_failed(session, job, problem := worker_lost(lost.slice, lost.crashes))
            log.warning("job.failed", extra={"problem": problem["type"], "job_id": str(job_id)})
        state.follow_stopped_slice(session, job)


def sweep(
    session: Session, max_crashes: int | None, enqueue_again_seconds: float, messages: int | None
) -> list[tuple[uuid.UUID, int]]:
    """Requeue slices with expired leases; the slices whose messages to send after the commit.

    These are queued slices without a message, and as many others as messages are missing from the queue, where
    `messages` wait; None: it is unavailable. Without `max_crashes` no lease is ended. One worker sweeps at a time.
    """
    if not locks.try_acquire(session, Lock.SWEEP):
        return []
    if max_crashes is not None:
        expire(session, max_crashes)
    counters.sum_up(session)
    scheduling.sum_up_usage(session)
    waiting = session.scalar(select(func.count()).select_from(JobSlice).where(claimable())) or 0
    missing = 0 if messages is None else max(0, waiting - messages)
    quiet = JobSlice.enqueued_at < func.now() - timedelta(seconds=enqueue_again_seconds)
    rows = _waiting(session, JobSlice.enqueued_at.is_(None), MOST_ENQUEUED) + _waiting(
        session, quiet, min(missing, MOST_ENQUEUED)
    )
    for job_id, slice_ in rows:
        session.execute(
            update(JobSlice).where(JobSlice.job_id == job_id, JobSlice.slice == slice_).values(enqueued_at=func.now())
        )
    return rows


def _waiting(session: Session, which: ColumnElement[bool], most: int) -> list[tuple[uuid.UUID, int]]:
    """Slices that wait for a worker, the oldest first."""
    query = select(JobSlice.job_id, JobSlice.slice).where(claimable(), which)
    found = session.execute(query.order_by(JobSlice.job_id, JobSlice.slice).limit(most))
    return [(job_id, slice_) for job_id, slice_ in found]


def register(session: Session, worker: str, device: str, **columns: str | int | None) -> None:
    """Write the row of a living worker with its memory and GPU; delete rows of workers that are long gone."""
    row = insert(Worker).values(name=worker, device=device, **columns)
    known = row.on_conflict_do_update(index_elements=[Worker.name], set_={"seen_at": func.now(), **columns})
    session.execute(known)
    session.execute(delete(Worker).where(Worker.seen_at < func.now() - FORGOTTEN))


def deregister(session: Session, worker_prefix: str = "") -> None:
    """Delete the rows of workers whose names begin like this, which are dead, and end their leases."""
    theirs = and_(JobSlice.status == Status.RUNNING, JobSlice.worker.startswith(worker_prefix, autoescape=True))
    session.execute(update(JobSlice).where(theirs).values(lease_until=func.now() - timedelta(seconds=1)))
    session.execute(delete(Worker).where(Worker.name.startswith(worker_prefix, autoescape=True)))
