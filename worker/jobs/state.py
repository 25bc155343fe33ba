"""The state machine of jobs and their slices: which status may follow which. No other module assigns a status.

A transaction that moves a slice holds its job first (`lock_job`), so that two of them never wait for each other. Moves
of a slice by its worker carry the fence of the claim: a worker whose lease was given to another changes nothing.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Uuid, cast, func, select, update
from sqlalchemy.orm import Session

from udig_recon.worker.access.admission import JobError
from udig_recon.worker.database.engine import notify
from udig_recon.worker.database.tables import Job, JobSlice, Status
from udig_recon.worker.jobs.claims import Claim

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status
MOVES: Mapping[Status, Collection[Status]] = {
    QUEUED: {RUNNING, FAILED, CANCELLED},
    RUNNING: {QUEUED, SUCCEEDED, FAILED, CANCELLED},
    SUCCEEDED: {},
    FAILED: {QUEUED},  # a retry
    CANCELLED: {},
}
"""Status of a job -> statuses that may follow."""
SLICE_MOVES: Mapping[Status, Collection[Status]] = {
    QUEUED: {RUNNING, CANCELLED},
    RUNNING: {QUEUED, SUCCEEDED, FAILED, CANCELLED},
    SUCCEEDED: {QUEUED},  # its stored file was damaged
    FAILED: {QUEUED},  # a retry of the job
    CANCELLED: {QUEUED},  # a retry of the job, which another slice had made fail
}
"""Status of a slice -> statuses that may follow."""


class UnknownJob(JobError):
    """No job of that id."""


class LeaseLost(Exception):
    """The slice belongs to another attempt by now, or its job has ended: stop at once and write nothing."""


class ForbiddenMove(Exception):
    """A status was to follow one that it may not follow: a defect of the caller."""


def lock_job(session: Session, job_id: uuid.UUID, tenant: str | None = None) -> Job:
    """Read the job, of this tenant where one is named, and hold its row until the transaction ends."""
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    query = query if tenant is None else query.where(Job.tenant == tenant)
    job = session.scalars(query).one_or_none()
    if job is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job


def lock_free_job(session: Session, job_ids: Sequence[uuid.UUID]) -> Job | None:
    """Hold the first of these jobs that no other transaction holds, without waiting; None when there is none."""
    place = func.array_position(cast(list(job_ids), ARRAY(Uuid)), Job.id)
    query = select(Job).where(Job.id.in_(job_ids)).order_by(place).limit(1).with_for_update(skip_locked=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def move_job(session: Session, job: Job, to: Status, **columns: Any) -> None:
    """Give a job that is held its next status, with other columns, and wake its listeners after the commit."""
    if to not in MOVES[job.status]:
        raise ForbiddenMove(f"job {job.id} is {job.status}, after which {to} may not follow")
    job.status = to
    job.finished_at = func.now() if to.ended else None
    for name, value in columns.items():
        setattr(job, name, value)
    session.flush()
    notify(session, job.id)


def lock_leased_job(session: Session, claim: Claim) -> Job:
    """Hold the job of a claim. Raises LeaseLost where it was deleted."""
    try:
        return lock_job(session, claim.job_id)
    except UnknownJob as error:
        raise LeaseLost from error


def change_slice(session: Session, claim: Claim, **columns: Any) -> Job:
    """Change columns of the claimed slice, whose job is held and returned. Raises LeaseLost."""
    job = lock_leased_job(session, claim)
    query = update(JobSlice).where(claim.is_mine()).values(columns).returning(JobSlice.slice)
    if session.scalar(query.execution_options(synchronize_session=False)) is None:
        raise LeaseLost
    notify(session, job.id)
    return job


def move_slice(session: Session, claim: Claim, to: Status, **columns: Any) -> Job:
    """Give the claimed slice, which is running, its next status; its job is held and returned. Raises LeaseLost."""
    if to not in SLICE_MOVES[RUNNING]:
        raise ForbiddenMove(f"a slice is running, after which {to} may not follow")
    return change_slice(session, claim, status=to, **_columns_after(to) | columns)


def move_slices(
    session: Session,
    job_id: uuid.UUID,
    before: Collection[Status],
    to: Status,
    *which: ColumnElement[bool],
    **columns: Any,
) -> Sequence[int]:
    """Give slices of a job that is held their next status, those whose status is one of `before`; their numbers."""
    if forbidden := [status for status in before if to not in SLICE_MOVES[status]]:
        raise ForbiddenMove(f"{to} may not follow {', '.join(forbidden)} of a slice")
    query = (
        update(JobSlice)
        .where(JobSlice.job_id == job_id, JobSlice.status.in_(before), *which)
        .values({"status": to, **_columns_after(to), **columns})
        .returning(JobSlice.slice)
        .execution_options(synchronize_session=False)
    )
    return sorted(session.scalars(query))


def _columns_after(to: Status) -> dict[str, Any]:
    """Columns of a slice that follow from its next status."""
    columns: dict[str, Any] = {"finished_at": func.now() if to.ended else None}
    if to is not RUNNING:
        columns["lease_until"] = None
    if to in (QUEUED, CANCELLED):
        columns["worker"] = None
    return columns


def has_running_slice(session: Session, job: Job) -> bool:
    """Whether a worker has a slice of the job."""
    running = select(JobSlice.slice).where(JobSlice.job_id == job.id, JobSlice.status == RUNNING)
    return bool(session.scalar(select(running.exists())))


def cancel_what_waits(session: Session, job: Job) -> None:
    """Cancel the slices that wait for a worker and, unless one is running, the job."""
    move_slices(session, job.id, [QUEUED], CANCELLED)
    if not has_running_slice(session, job):
        move_job(session, job, CANCELLED)


def follow_stopped_slice(session: Session, job: Job) -> None:
    """Give a job the status that it has after one of its slices has stopped running."""
    if job.status.ended:
        return
    if job.cancel_requested:
        cancel_what_waits(session, job)
    elif job.status is RUNNING and not has_running_slice(session, job):
        move_job(session, job, QUEUED)
    notify(session, job.id)


def close_as_failed(session: Session, job: Job, problem: dict[str, Any]) -> None:
    """Fail a job with this problem document; workers of its slices lose their leases."""
    move_slices(session, job.id, [QUEUED, RUNNING], CANCELLED)
    move_job(session, job, FAILED, error=problem)
