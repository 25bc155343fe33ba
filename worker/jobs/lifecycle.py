"""What the door does with jobs: submit, cancel, retry, delete. Nothing here commits; every change notifies."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from udig_recon.core.cost.estimate import Task
from udig_recon.core.parameters import Parameters
from udig_recon.core.slice_order import reference_slices
from udig_recon.worker.access import quotas
from udig_recon.worker.access.admission import IllegalMove, JobError, admit, asked_of, check_room
from udig_recon.worker.access.quotas import Wanted
from udig_recon.worker.access.tenants import TenantLimits, hold
from udig_recon.worker.database.engine import notify
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.tables import (
    DEFAULT_TENANT,
    OPEN,
    Comparison,
    Job,
    JobSlice,
    Key,
    Priority,
    Scan,
    Status,
)
from udig_recon.worker.jobs import state
from udig_recon.worker.jobs.estimates import columns
from udig_recon.worker.jobs.scheduling import claimable
from udig_recon.worker.storage.scans import end_of

Submitted = TypeVar("Submitted", Job, Comparison)


class IdempotencyConflict(JobError):
    """The key was used before, with another request."""


def submit(
    session: Session,
    *,
    scan: Scan,
    method: Parameters,
    outputs: Sequence[str],
    slices: Sequence[int],
    seed: int,
    seeds: int = 1,
    priority: int = Priority.ROUTINE,
    max_seconds: float | None = None,
    tags: dict[str, str],
    webhook_url: str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
    request_sha256: str | None = None,
    max_open_jobs: int,
    key: Key | None = None,
    retention_days: int | None = None,
    limits: TenantLimits | None = None,
    task: Task | None = None,
) -> tuple[Job, bool]:
    """The queued job of the scan's tenant and whether it is new: the same key and request answer with the first job.

    `limits` are the tenant's, `task` is what it will cost; without them nothing is counted or kept of it.
    Raises TooManyOpenJobs, QuotaReached, IdempotencyConflict, and IllegalMove when the scan was deleted meanwhile.
    """
    hold(session, scan.tenant)
    if (known := by_key(session, Job, scan.tenant, idempotency_key, request_sha256)) is not None:
        return known, False
    estimated = {} if task is None else columns(task, max_seconds)
    admit(session, scan.tenant, [scan.id], asked_of([slices], [estimated]), max_open_jobs, key, limits)
    row = {
        "id": new_id(),
        "tenant": scan.tenant,
        "key_id": None if key is None else key.id,
        "expires_at": end_of(retention_days),
        "scan_id": scan.id,
        "scan_warnings": warnings_of(scan),
        "parameters": method.model_dump(mode="json"),
        "outputs": list(outputs),
        "slices": list(slices),
        "seed": seed,
        "seeds": seeds,
        "priority": priority,
        "max_seconds": max_seconds,
        "tags": dict(tags),
        **estimated,
        "webhook_url": webhook_url,
        "traceparent": traceparent,
        "idempotency_key": idempotency_key,
        "request_sha256": request_sha256,
    }
    (job,) = file(session, [(row, reference_slices(slices, method))])
    return job, True


def warnings_of(scan: Scan) -> list[str]:
    """What was found odd about a scan, or assumed of it."""
    return list(scan.header.get("warnings") or ())


def by_key(
    session: Session, kind: type[Submitted], tenant: str, key: str | None, request_sha256: str | None
) -> Submitted | None:
    """What the tenant's idempotency key made before, if anything. Raises IdempotencyConflict."""
    if key is None:
        return None
    known = session.scalars(select(kind).where(kind.tenant == tenant, kind.idempotency_key == key)).one_or_none()
    if known is not None and known.request_sha256 != request_sha256:
        made = f"{kind.__name__.lower()} {known.id}"
        raise IdempotencyConflict(f"the idempotency key was used for another request, which made {made}")
    return known


def file(session: Session, rows: Sequence[tuple[dict[str, Any], Mapping[int, int]]]) -> Sequence[Job]:
    """Jobs as rows, each with who leads which of its slices, in the queue."""
    filed = session.scalars(insert(Job).values([row for row, _ in rows]).returning(Job)).all()
    job_slices = [
        {"job_id": row["id"], "slice": each, "reference_slice": led.get(each)}
        for row, led in rows
        for each in dict.fromkeys(row["slices"])
    ]
    session.execute(insert(JobSlice).values(enqueued_at=func.now()), job_slices)
    for job in filed:
        notify(session, job.id)
    return filed


def request_cancel(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> Job:
    """Cancel what waits at once; what runs is stopped by its worker's next heartbeat. Raises IllegalMove when ended."""
    job = state.lock_job(session, job_id, tenant)
    if job.status.ended:
        raise IllegalMove(f"job {job_id} has ended: it is {job.status}")
    job.cancel_requested = True
    state.cancel_what_waits(session, job)
    notify(session, job_id)
    return job


def cancel_of_key(session: Session, key_id: uuid.UUID) -> Sequence[uuid.UUID]:
    """Cancel what a key filed and has not ended; gives the ids of those jobs."""
    query = select(Job.id, Job.tenant).where(Job.key_id == key_id, Job.status.in_(OPEN)).order_by(Job.id)
    found = session.execute(query.with_for_update()).all()
    for job_id, tenant in found:
        request_cancel(session, job_id, tenant)
    return [job_id for job_id, _ in found]


def retry(
    session: Session,
    job_id: uuid.UUID,
    tenant: str = DEFAULT_TENANT,
    *,
    max_open_jobs: int,
    max_seconds: float | None = None,
    limits: TenantLimits | None = None,
    factor: float = 1.0,
) -> Job:
    """Queue a failed job again; finished slices stay, the others go on from their checkpoints.

    `max_seconds` takes the place of its limit, which must be more than it has computed. What it is estimated to need
    with that limit is reserved anew; `factor` is `udig_recon.worker.jobs.estimates.Factors` of its method.

    Raises IllegalMove, TooManyOpenJobs and QuotaReached. It was counted for its day when it was filed.
    """
    hold(session, tenant)
    # The scan first, as whoever deletes one holds it first: it must not go between the look at it and the commit.
    scan_id = select(Job.scan_id).where(Job.id == job_id, Job.tenant == tenant).scalar_subquery()
    session.execute(select(Scan.id).where(Scan.id == scan_id).with_for_update(read=True, key_share=True))
    job = state.lock_job(session, job_id, tenant)
    if job.status is not Status.FAILED:
        raise IllegalMove(f"job {job_id} is {job.status}; only a failed job can be retried")
    if job.scan_id is None:
        raise IllegalMove(f"the scan of job {job_id} was deleted; post it again for a new job")
    if job.expired:
        raise IllegalMove(f"job {job_id} has expired; file a new one")
    limit = job.max_seconds if max_seconds is None else max_seconds
    if limit is not None and job.seconds >= limit:
        raise IllegalMove(
            f"job {job_id} has computed for {job.seconds:.0f} s and may for {limit:g} s; "
            "retry it with a larger max_seconds"
        )
    kept = job.result_bytes if job.stored_bytes is None else job.stored_bytes
    size = max(0, (job.result_bytes or 0) - (kept or 0))
    if job.key_id is not None:
        key = session.get_one(Key, job.key_id)
        quotas.check_open(session, key)
        quotas.check_bytes(session, key, size)
    check_room(session, 1, max_open_jobs, tenant if job.key_id is not None else None)
    estimated = _estimated_again(job, limit, factor)
    if limits is not None:
        wanted = Wanted(1, len(job.slices), max((estimated or 0.0) - job.seconds, 0.0), size)
        quotas.check_tenant(session, tenant, limits, wanted, filed=False)
    state.move_job(
        session,
        job,
        Status.QUEUED,
        error=None,
        cancel_requested=False,
        max_seconds=limit,
        estimated_seconds=estimated,
        stored_bytes=None,
    )
    session.execute(update(JobSlice).where(JobSlice.job_id == job_id).values(recomputed=0))
    unfinished = [Status.FAILED, Status.CANCELLED]
    state.move_slices(session, job_id, unfinished, Status.QUEUED, crashes=0, enqueued_at=func.now())
    return job


def _estimated_again(job: Job, limit: float | None, factor: float) -> float | None:
    """Seconds of workers for a job with another limit: its estimate of before was no more than the limit it had."""
    if job.basis_seconds is None:
        return job.estimated_seconds
    whole = max(job.estimated_seconds or 0.0, job.basis_seconds * factor)
    return whole if limit is None else min(whole, limit)


def delete(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> None:
    """Delete a job's rows, whatever it does: its workers find their fence gone. Files go after the commit."""
    state.lock_job(session, job_id, tenant)
    session.execute(sql_delete(Job).where(Job.id == job_id))
    notify(session, job_id)


def waiting(session: Session, *job_ids: uuid.UUID) -> list[tuple[uuid.UUID, int]]:
    """Slices of jobs that wait for a worker: what to ring for after the commit."""
    query = select(JobSlice.job_id, JobSlice.slice).where(JobSlice.job_id.in_(job_ids), claimable())
    return [(job_id, slice_) for job_id, slice_ in session.execute(query.order_by(JobSlice.job_id, JobSlice.slice))]
