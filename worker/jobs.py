"""What the door does with jobs: submit, cancel, retry, delete. Nothing here commits; every change notifies."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from core.parameters import Parameters
from core.volumes import leaders
from worker import quotas
from worker.database import notify
from worker.models import DEFAULT_TENANT, OPEN, Chunk, Job, Key, Scan, Status, new_id
from worker.scans import end_of

SUBMISSION_LOCK = (0x75646967, 1)  # two 32-bit keys: one submission at a time, so that the limit of open jobs is exact


class JobError(Exception):
    """The job or the queue is not in a state that allows it."""


class IllegalMove(JobError):
    """A move that the job's status does not allow."""


class UnknownJob(JobError):
    """No job of that id."""


class TooManyOpenJobs(JobError):
    """As many jobs are queued or running as the settings allow."""


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
    tags: dict[str, str],
    webhook_url: str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
    request_sha256: str | None = None,
    max_open_jobs: int,
    key: Key | None = None,
    retention_days: int | None = None,
) -> tuple[Job, bool]:
    """The queued job of the scan's tenant and whether it is new: the same key and request answer with the first job.

    Raises TooManyOpenJobs, QuotaReached, IdempotencyConflict, and IllegalMove when the scan was deleted meanwhile.
    """
    session.execute(select(func.pg_advisory_xact_lock(*SUBMISSION_LOCK)))
    if (known := _by_key(session, scan.tenant, idempotency_key, request_sha256)) is not None:
        return known, False
    if key is not None:
        quotas.check_jobs(session, key)
    _check_room(session, max_open_jobs)
    if session.scalar(select(Scan.id).where(Scan.id == scan.id).with_for_update(read=True, key_share=True)) is None:
        raise IllegalMove(f"scan {scan.id} was deleted")
    row = {
        "id": new_id(),
        "tenant": scan.tenant,
        "key_id": None if key is None else key.id,
        "expires_at": end_of(retention_days),
        "scan_id": scan.id,
        "parameters": method.model_dump(mode="json"),
        "outputs": list(outputs),
        "slices": list(slices),
        "seed": seed,
        "seeds": seeds,
        "tags": dict(tags),
        "webhook_url": webhook_url,
        "traceparent": traceparent,
        "idempotency_key": idempotency_key,
        "request_sha256": request_sha256,
    }
    job = session.scalars(upsert(Job).values(row).returning(Job)).one()
    led = leaders(slices, method)
    chunks = [
        {"job_id": job.id, "slice": each, "leader": led.get(each), "rung_at": func.now()}
        for each in dict.fromkeys(slices)
    ]
    session.execute(insert(Chunk).values(chunks))
    notify(session, job.id)
    return job, True


def _by_key(session: Session, tenant: str, key: str | None, request_sha256: str | None) -> Job | None:
    if key is None:
        return None
    known = session.scalars(select(Job).where(Job.tenant == tenant, Job.idempotency_key == key)).one_or_none()
    if known is not None and known.request_sha256 != request_sha256:
        raise IdempotencyConflict(f"the idempotency key was used for another request, which made job {known.id}")
    return known


def _check_room(session: Session, most: int) -> None:
    count = session.scalar(select(func.count()).select_from(Job).where(Job.status.in_(OPEN))) or 0
    if count >= most:
        raise TooManyOpenJobs(
            f"no job more may be queued or running, the limit is {most} (MAX_OPEN_JOBS); try again later"
        )


def request_cancel(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> Job:
    """Cancel what waits at once; what runs is stopped by its worker's next heartbeat. Raises IllegalMove when ended."""
    job = locked(session, job_id, tenant)
    if job.status.ended:
        raise IllegalMove(f"job {job_id} has ended: it is {job.status}")
    job.cancel_requested = True
    settle_cancelled(session, job)
    notify(session, job_id)
    return job


def retry(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> Job:
    """Queue a failed job again; finished slices stay, the others go on from their checkpoints. Raises IllegalMove."""
    job = locked(session, job_id, tenant)
    if job.status is not Status.FAILED:
        raise IllegalMove(f"job {job_id} is {job.status}; only a failed job can be retried")
    if job.scan_id is None:
        raise IllegalMove(f"the scan of job {job_id} was deleted; post it again for a new job")
    if job.expired:
        raise IllegalMove(f"job {job_id} has expired; file a new one")
    job.status, job.error, job.finished_at, job.cancel_requested = Status.QUEUED, None, None, False
    again: dict[str, Any] = {"status": Status.QUEUED, "crashes": 0, "rung_at": func.now()}
    again |= {"finished_at": None, "lease_until": None}
    session.execute(update(Chunk).where(Chunk.job_id == job_id, Chunk.status != Status.SUCCEEDED).values(again))
    notify(session, job_id)
    return job


def delete(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT) -> None:
    """Delete a job's rows, whatever it does: its workers find their fence gone. Files go after the commit."""
    locked(session, job_id, tenant)
    session.execute(sql_delete(Job).where(Job.id == job_id))
    notify(session, job_id)


def waiting(session: Session, job_id: uuid.UUID) -> list[tuple[uuid.UUID, int]]:
    """Chunks of a job that wait for a worker: what to ring for after the commit."""
    query = select(Chunk.slice).where(Chunk.job_id == job_id, claimable()).order_by(Chunk.slice)
    return [(job_id, slice_) for slice_ in session.scalars(query)]


def claimable() -> ColumnElement[bool]:
    """A chunk waits, and the one that it follows, if any, is done."""
    leader = aliased(Chunk)
    undone = select(leader.slice).where(
        leader.job_id == Chunk.job_id, leader.slice == Chunk.leader, leader.status != Status.SUCCEEDED
    )
    return and_(Chunk.status == Status.QUEUED, ~undone.correlate(Chunk).exists())


def locked(session: Session, job_id: uuid.UUID, tenant: str | None = None) -> Job:
    """The job, of this tenant where one is named, held until the transaction ends.

    Whoever changes chunks holds their job first: no deadlocks.
    """
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    query = query if tenant is None else query.where(Job.tenant == tenant)
    job = session.scalars(query).one_or_none()
    if job is None:
        raise UnknownJob(f"there is no job {job_id}")
    return job


def settle_cancelled(session: Session, job: Job) -> None:
    """Cancel the chunks that wait and, when none runs any more, the job."""
    close_chunks(session, job.id, Status.QUEUED)
    if _runs(session, job):
        return
    job.status, job.finished_at = Status.CANCELLED, func.now()
    session.flush()


def _runs(session: Session, job: Job) -> bool:
    """Whether a worker has a chunk of the job."""
    running = select(Chunk.slice).where(Chunk.job_id == job.id, Chunk.status == Status.RUNNING)
    return bool(session.scalar(select(running.exists())))


def settle_stopped(session: Session, job: Job) -> None:
    """The job's status after a chunk of it has stopped running."""
    if job.status.ended:
        return
    if job.cancel_requested:
        settle_cancelled(session, job)
    elif not _runs(session, job):
        job.status = Status.QUEUED
    notify(session, job.id)


def settle_failed(session: Session, job: Job, error: dict[str, Any]) -> None:
    """The job has failed with this problem; whoever runs a chunk of it finds its fence gone."""
    close_chunks(session, job.id, Status.QUEUED, Status.RUNNING)
    job.status, job.error, job.finished_at = Status.FAILED, error, func.now()
    notify(session, job.id)


def close_chunks(session: Session, job_id: uuid.UUID, *statuses: Status) -> None:
    """Cancel a job's chunks of these statuses; who runs one of them finds its fence gone."""
    session.execute(
        update(Chunk)
        .where(Chunk.job_id == job_id, Chunk.status.in_(statuses))
        .values(status=Status.CANCELLED, finished_at=func.now(), lease_until=None, worker=None)
    )
