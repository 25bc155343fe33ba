"""Quotas of keys and tenants: open jobs, slices, jobs and compute time within 24 hours, stored bytes, keys.

Exact while the tenant is locked (`udig_recon.worker.access.tenants.hold`).
"""

from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.access.tenants import hold
from udig_recon.worker.database.tables import OPEN, Audit, ComputeUsage, Job, Key, ResumableUpload, Scan

DAY = timedelta(days=1)
OPEN_RETRY_SECONDS = 30
COMPUTE_RETRY_SECONDS = 600
BYTES_RETRY_SECONDS = 3600
JOB_FILED = "job.filed"


class QuotaReached(Exception):
    """A quota of the key or tenant is used up; `retry_after` suggests when to try again (seconds)."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestedResources(NamedTuple):
    """Resources that one request asks for."""

    jobs: int = 1
    slices: int = 0
    seconds: float = 0.0  # of workers, estimated
    bytes: int = 0  # that results will take, estimated


def actor(key: Key) -> str:
    """The actor of a key in the audit log."""
    return f"key:{key.id}"


def check_open(session: Session, key: Key, more: int = 1) -> None:
    """Raise QuotaReached when the key may not have so many more open jobs. Exact while submissions are locked."""
    if (most := key.max_open_jobs) is not None:
        mine = select(func.count()).select_from(Job).where(Job.key_id == key.id, Job.status.in_(OPEN))
        if (session.scalar(mine) or 0) + more > most:
            text = f"this key may have {most} jobs queued or running (max_open_jobs){_at_once(more)}"
            raise QuotaReached(text, OPEN_RETRY_SECONDS)


def check_day(session: Session, key: Key, more: int = 1) -> None:
    """Raise QuotaReached when the key may not file so many jobs more today. Exact as `check_open` is."""
    if (most := key.max_jobs_per_day) is not None:
        _check_filed(session, Audit.actor == actor(key), "this key", most, more)


def _check_filed(session: Session, by: ColumnElement[bool], who: str, most: int, more: int) -> None:
    # Asked of the log: a job that was deleted was filed all the same.
    lately = by & (Audit.at > func.now() - DAY) & (Audit.action == JOB_FILED)
    left = func.extract("epoch", func.min(Audit.at) + DAY - func.now())
    count, seconds = session.execute(select(func.count(), left).where(lately)).one()
    if count + more > most:
        text = f"{who} may file {most} jobs in 24 hours (max_jobs_per_day){_at_once(more)}"
        raise QuotaReached(text, 1 + int(seconds or 0))


def _at_once(more: int) -> str:
    return "" if more == 1 else f"; this is {more} at once"


def check_tenant(
    session: Session, tenant: str, limits: TenantLimits, wanted: RequestedResources, *, filed: bool = True
) -> None:
    """Raise QuotaReached where one of the tenant's limits does not allow these open jobs.

    With `filed=False` the jobs were submitted before and do not count for the day.
    """
    stands = open_work(session, tenant)
    for name, have, more, what in (
        ("max_open_jobs", stands.jobs, wanted.jobs, "jobs queued or running"),
        ("max_open_slices", stands.slices, wanted.slices, "slices of jobs queued or running"),
    ):
        most = getattr(limits, name)
        if most is not None and have + more > most:
            text = f"this tenant may have {most} {what} ({name}) and has {have}{_at_once(more)}"
            raise QuotaReached(f"{text}; {max(0, most - have)} would fit", OPEN_RETRY_SECONDS)
    if filed and limits.max_jobs_per_day is not None:
        _check_filed(session, Audit.tenant == tenant, "this tenant", limits.max_jobs_per_day, wanted.jobs)
    if (most := limits.max_compute_seconds_per_day) is not None:
        used = compute_seconds(session, tenant) + stands.seconds
        if used + wanted.seconds > most:
            may = f"this tenant may have {most} s of workers in 24 hours (max_compute_seconds_per_day)"
            has = f"has had or asked for {used:.0f} s, and this is estimated at {wanted.seconds:.0f} s"
            raise QuotaReached(f"{may}, {has}; {max(0.0, most - used):.0f} s would fit", COMPUTE_RETRY_SECONDS)
    check_tenant_bytes(session, tenant, limits, wanted.bytes)


def open_work(session: Session, tenant: str) -> RequestedResources:
    """Open jobs of the tenant, their slices, estimated remaining seconds, and estimated bytes of their results."""
    left = func.greatest(func.coalesce(Job.estimated_seconds, 0.0) - Job.seconds, 0.0)
    query = select(
        func.count(),
        func.coalesce(func.sum(func.jsonb_array_length(Job.slices)), 0),
        func.coalesce(func.sum(left), 0.0),
        func.coalesce(func.sum(func.coalesce(Job.result_bytes, 0)), 0),
    ).where(Job.tenant == tenant, Job.status.in_(OPEN))
    jobs, slices, seconds, size = session.execute(query).one()
    return RequestedResources(jobs, slices, seconds, int(size))


def compute_seconds(session: Session, tenant: str) -> float:
    """Compute seconds of the tenant within 24 hours; a slice counts when it ends."""
    query = select(func.coalesce(func.sum(ComputeUsage.seconds), 0.0))
    return session.scalar(query.where(ComputeUsage.tenant == tenant, ComputeUsage.at > func.now() - DAY)) or 0.0


def check_bytes(session: Session, key: Key, more: int) -> None:
    """Raise QuotaReached when the key may not store so many more bytes. Its other uploads wait until the commit."""
    if (most := key.max_stored_bytes) is None:
        return
    hold(session, key.tenant)
    stored = stored_bytes(session, _of_key(key))
    if stored + more > most:
        raise QuotaReached(_no_room("this key", most, stored, more), BYTES_RETRY_SECONDS)


def check_tenant_bytes(session: Session, tenant: str, limits: TenantLimits, more: int) -> None:
    """Raise QuotaReached when the tenant may not store so many more bytes, by `max_stored_bytes`."""
    if (most := limits.max_stored_bytes) is None:
        return
    hold(session, tenant)
    stored = stored_bytes(session, _of_tenant(tenant))
    if stored + more > most:
        raise QuotaReached(_no_room("this tenant", most, stored, more), BYTES_RETRY_SECONDS)


def bytes_left(session: Session, tenant: str, limits: TenantLimits, key: Key | None) -> int | None:
    """Bytes that may still be stored; None: only the service's limit applies."""
    left = []
    if limits.max_stored_bytes is not None:
        left.append(limits.max_stored_bytes - stored_bytes(session, _of_tenant(tenant)))
    if key is not None and key.max_stored_bytes is not None:
        left.append(key.max_stored_bytes - stored_bytes(session, _of_key(key)))
    return max(0, min(left)) if left else None


class _Owned(NamedTuple):
    """Conditions on the rows of one key or tenant."""

    scans: ColumnElement[bool]
    jobs: ColumnElement[bool]
    uploads: ColumnElement[bool]


def _of_key(key: Key) -> _Owned:
    return _Owned(Scan.key_id == key.id, Job.key_id == key.id, ResumableUpload.key_id == key.id)


def _of_tenant(tenant: str) -> _Owned:
    return _Owned(Scan.tenant == tenant, Job.tenant == tenant, ResumableUpload.tenant == tenant)


def is_unfinished() -> ColumnElement[bool]:
    """Whether an upload is no scan yet and still there, as a condition."""
    return ResumableUpload.stored_at.is_(None) & ~ResumableUpload.expired


def stored_bytes(session: Session, owned: _Owned) -> int:
    """Bytes of scans with their prepared forms, of jobs and of unfinished uploads.

    Jobs are measured after their end, before that estimated. An upload counts with the length that it will have.
    """
    size = Scan.size_bytes + func.coalesce(Scan.prepared_bytes, 0)
    of_scans: Select[Any] = select(func.coalesce(func.sum(size), 0)).where(owned.scans)
    kept = func.coalesce(Job.stored_bytes, Job.result_bytes, 0)
    of_jobs: Select[Any] = select(func.coalesce(func.sum(kept), 0)).where(and_(owned.jobs, ~Job.expired))
    announced = func.coalesce(func.sum(ResumableUpload.size_bytes), 0)
    of_uploads: Select[Any] = select(announced).where(owned.uploads, is_unfinished())
    return sum(int(session.scalar(query) or 0) for query in (of_scans, of_jobs, of_uploads))


def check_upload(session: Session, tenant: str, limits: TenantLimits, key: Key | None, size_bytes: int) -> None:
    """Raise QuotaReached when the tenant may begin no other upload of this size. Exact until the commit."""
    hold(session, tenant)
    have, most = count_uploads(session, tenant), limits.max_unfinished_uploads
    if most is not None and have >= most:
        text = f"this tenant may have {most} unfinished uploads (max_unfinished_uploads) and has {have}"
        raise QuotaReached(f"{text}; finish or delete some: GET /v1/uploads lists them", BYTES_RETRY_SECONDS)
    if key is not None:
        check_bytes(session, key, size_bytes)
    check_tenant_bytes(session, tenant, limits, size_bytes)


def count_uploads(session: Session, tenant: str) -> int:
    """Number of the tenant's uploads that are no scans yet."""
    query = select(func.count()).select_from(ResumableUpload)
    return session.scalar(query.where(ResumableUpload.tenant == tenant, is_unfinished())) or 0


def _no_room(who: str, most: int, stored: int, more: int) -> str:
    kept = f"{who} may keep {most} bytes of scans, results and unfinished uploads and keeps {stored} (max_stored_bytes)"
    return f"{kept}; {max(0, most - stored)} would fit, and this takes {more}; delete some"


def check_keys(session: Session, tenant: str, limits: TenantLimits) -> None:
    """Raise QuotaReached when the tenant may not have one key more."""
    if (most := limits.max_keys) is None:
        return
    hold(session, tenant)
    if (have := count_keys(session, tenant)) >= most:
        text = f"this tenant may have {most} keys (max_keys) and has {have}; revoke some"
        raise QuotaReached(f"{text}: each counts for a day from when it was made", BYTES_RETRY_SECONDS)


def count_keys(session: Session, tenant: str) -> int:
    """Number of the tenant's keys that count: valid ones, and all that were created within 24 hours."""
    valid = Key.revoked_at.is_(None) & or_(Key.expires_at.is_(None), Key.expires_at > func.now())
    made = Key.created_at > func.now() - DAY
    query = select(func.count()).select_from(Key).where(Key.tenant == tenant, or_(valid, made))
    return session.scalar(query) or 0


def usage(session: Session, tenant: str) -> dict[str, float]:
    """What a tenant has used of its limits, without those that each API process counts for itself."""
    stands = open_work(session, tenant)
    filed = (Audit.tenant == tenant) & (Audit.at > func.now() - DAY) & (Audit.action == JOB_FILED)
    return {
        "open_jobs": stands.jobs,
        "open_slices": stands.slices,
        "jobs_today": session.scalar(select(func.count()).select_from(Audit).where(filed)) or 0,
        "compute_seconds_today": round(compute_seconds(session, tenant), 1),
        "compute_seconds_to_come": round(stands.seconds, 1),
        "stored_bytes": stored_bytes(session, _of_tenant(tenant)),
        "unfinished_uploads": count_uploads(session, tenant),
        "keys": count_keys(session, tenant),
    }
