"""Life of a job as changes of its rows: submit, cancel, retry, delete. Nothing here commits; see `service`."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import delete as sql_delete
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from udig_recon.core.acquisition import frames_of
from udig_recon.core.cost.estimate import Task
from udig_recon.core.parameters import Parameters
from udig_recon.core.slice_order import reference_slices
from udig_recon.worker.access import quotas
from udig_recon.worker.access.admission import IllegalMove, JobError, admit, check_room, requested_resources
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.access.quotas import RequestedResources
from udig_recon.worker.access.tenants import hold
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

Known = TypeVar("Known", Job, Comparison)


class IdempotencyConflict(JobError):
    """The idempotency key was used before, with another request."""


@dataclass(frozen=True, kw_only=True)
class Submitter:
    """Who submits jobs, what they may use, and how long what they make is kept."""

    who: Who
    max_open_jobs: int  # of the whole service
    key: Key | None = None  # None: authentication is off
    limits: TenantLimits | None = None  # of the tenant; None: nothing is counted
    retention_days: int | None = None  # None: until it is deleted


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A reconstruction that is asked for, its parameters complete."""

    scan: Scan
    method: Parameters
    outputs: Sequence[str]
    slices: Sequence[int]
    seed: int
    seeds: int = 1
    priority: int = Priority.ROUTINE
    max_seconds: float | None = None  # of computing, over all slices and attempts
    tags: Mapping[str, str] = field(default_factory=dict)
    webhook_url: str | None = None
    webhook_events: Sequence[str] | None = None  # of `webhook_outbox.EVENTS`, to be told; None: every end
    destinations: Sequence[str] = ()  # names of archives that the result is sent to
    traceparent: str | None = None
    idempotency_key: str | None = None
    request_sha256: str | None = None  # of the body sent with the idempotency key
    task: Task | None = None  # what it is estimated to cost; None: nothing is reserved


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What a failed job is retried with."""

    max_seconds: float | None = None  # takes the place of the job's limit; more than it has computed
    factor: float = 1.0  # `estimates.Factors` of its method, for what it is estimated to need with that limit


def submit(session: Session, request: JobRequest, submitter: Submitter) -> tuple[Job, bool]:
    """Queue a job of the scan's tenant. False: the same idempotency key and request have made it before.

    Raises TooManyOpenJobs, QuotaReached, IdempotencyConflict, and IllegalMove when the scan was deleted meanwhile.
    """
    scan = request.scan
    hold(session, scan.tenant)
    known = by_key(session, Job, scan.tenant, request.idempotency_key, request.request_sha256)
    if known is not None:
        return known, False
    estimated = {} if request.task is None else columns(request.task, request.max_seconds)
    wanted = requested_resources([request.slices], [estimated])
    admit(session, scan.tenant, [scan.id], wanted, submitter.max_open_jobs, submitter.key, submitter.limits)
    row = {
        "id": new_id(),
        "tenant": scan.tenant,
        "key_id": None if submitter.key is None else submitter.key.id,
        "expires_at": end_of(submitter.retention_days),
        "scan_id": scan.id,
        "scan_warnings": warnings_of(scan),
        "parameters": request.method.model_dump(mode="json"),
        "outputs": list(request.outputs),
        "slices": list(request.slices),
        "seed": request.seed,
        "seeds": request.seeds,
        "priority": request.priority,
        "max_seconds": request.max_seconds,
        "tags": dict(request.tags),
        **estimated,
        "webhook_url": request.webhook_url,
        "webhook_events": None if request.webhook_events is None else list(request.webhook_events),
        "destinations": list(request.destinations),
        "traceparent": request.traceparent,
        "idempotency_key": request.idempotency_key,
        "request_sha256": request.request_sha256,
    }
    (job,) = file(session, [(row, reference_slices(request.slices, request.method, frames_of(scan.header)))])
    return job, True


def warnings_of(scan: Scan) -> list[str]:
    """Warnings about a scan: what was found odd about it, or assumed."""
    return list(scan.header.get("warnings") or ())


def by_key(
    session: Session, kind: type[Known], tenant: str, key: str | None, request_sha256: str | None
) -> Known | None:
    """The row that the tenant's idempotency key made before, if any. Raises IdempotencyConflict."""
    if key is None:
        return None
    known = session.scalars(select(kind).where(kind.tenant == tenant, kind.idempotency_key == key)).one_or_none()
    if known is not None and known.request_sha256 != request_sha256:
        made = f"{kind.__name__.lower()} {known.id}"
        raise IdempotencyConflict(f"the idempotency key was used for another request, which made {made}")
    return known


def file(session: Session, rows: Sequence[tuple[dict[str, Any], Mapping[int, int]]]) -> Sequence[Job]:
    """Insert queued jobs, each with the reference slices of its slices."""
    filed = session.scalars(insert(Job).values([row for row, _ in rows]).returning(Job)).all()
    job_slices = [
        {"job_id": row["id"], "slice": each, "reference_slice": references.get(each)}
        for row, references in rows
        for each in dict.fromkeys(row["slices"])
    ]
    session.execute(insert(JobSlice).values(enqueued_at=func.now()), job_slices)
    for job in filed:
        notify(session, job.id)
    return filed


def request_cancel(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> Job:
    """Cancel waiting slices now, running ones by their worker's next heartbeat. Raises IllegalMove once it ended."""
    job = state.lock_job(session, job_id, tenant)
    if job.status.ended:
        raise IllegalMove(f"job {job_id} has ended: it is {job.status}")
    job.cancel_requested = True
    state.cancel_what_waits(session, job)
    notify(session, job_id)
    return job


def cancel_of_key(session: Session, key_id: uuid.UUID) -> Sequence[uuid.UUID]:
    """Cancel the open jobs of a key; their ids."""
    query = select(Job.id, Job.tenant).where(Job.key_id == key_id, Job.status.in_(OPEN)).order_by(Job.id)
    found = session.execute(query.with_for_update()).all()
    for job_id, tenant in found:
        request_cancel(session, job_id, tenant)
    return [job_id for job_id, _ in found]


def retry(session: Session, job_id: uuid.UUID, retry: Retry, submitter: Submitter) -> Job:
    """Queue a failed job again; finished slices stay, the others go on from their checkpoints.

    What it is estimated to need with its new limit is reserved anew. It was counted for its day when it was filed.
    Raises IllegalMove, TooManyOpenJobs and QuotaReached.
    """
    tenant, limits = submitter.who.tenant, submitter.limits
    hold(session, tenant)
    # The scan is held first, as by its deletion: it must not go between this check and the commit.
    scan_id = select(Job.scan_id).where(Job.id == job_id, Job.tenant == tenant).scalar_subquery()
    session.execute(select(Scan.id).where(Scan.id == scan_id).with_for_update(read=True, key_share=True))
    job = state.lock_job(session, job_id, tenant)
    if job.status is not Status.FAILED:
        raise IllegalMove(f"job {job_id} is {job.status}; only a failed job can be retried")
    if job.scan_id is None:
        raise IllegalMove(f"the scan of job {job_id} was deleted; post it again for a new job")
    if job.expired:
        raise IllegalMove(f"job {job_id} has expired; file a new one")
    limit = job.max_seconds if retry.max_seconds is None else retry.max_seconds
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
    check_room(session, 1, submitter.max_open_jobs, tenant if job.key_id is not None else None)
    estimated = _estimate_again(job, limit, retry.factor)
    if limits is not None:
        wanted = RequestedResources(1, len(job.slices), max((estimated or 0.0) - job.seconds, 0.0), size)
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


def _estimate_again(job: Job, limit: float | None, factor: float) -> float | None:
    """Seconds of workers for a job with another limit: its estimate of before was no more than the limit it had."""
    if job.basis_seconds is None:
        return job.estimated_seconds
    whole = max(job.estimated_seconds or 0.0, job.basis_seconds * factor)
    return whole if limit is None else min(whole, limit)


def delete(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> None:
    """Delete a job's rows, whatever its status: its workers lose their leases. Files go after the commit."""
    state.lock_job(session, job_id, tenant)
    session.execute(sql_delete(Job).where(Job.id == job_id))
    notify(session, job_id)


def waiting(session: Session, *job_ids: uuid.UUID) -> list[tuple[uuid.UUID, int]]:
    """Slices of jobs that wait for a worker: the messages to send after the commit."""
    query = select(JobSlice.job_id, JobSlice.slice).where(JobSlice.job_id.in_(job_ids), claimable())
    return [(job_id, slice_) for job_id, slice_ in session.execute(query.order_by(JobSlice.job_id, JobSlice.slice))]
