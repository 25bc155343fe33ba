"""Admission control of jobs: quotas of key and tenant, and the limit of open jobs. Exact while the tenant is locked."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.worker.access import quotas
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.access.quotas import RequestedResources
from udig_recon.worker.database.tables import OPEN, Job, Key, Scan


class JobError(Exception):
    """The state of the job or of the queue does not allow the request."""


class IllegalMove(JobError):
    """The job's status does not allow the change."""


class TooManyOpenJobs(JobError):
    """The limit of queued and running jobs is reached."""


def requested_resources(slices: Sequence[Sequence[int]], estimated: Sequence[Mapping[str, Any]]) -> RequestedResources:
    """Sum of the slices, estimated seconds and estimated bytes of several jobs."""
    return RequestedResources(
        len(slices),
        sum(map(len, slices)),
        sum(each.get("estimated_seconds", 0.0) for each in estimated),
        sum(each.get("result_bytes", 0) for each in estimated),
    )


def admit(
    session: Session,
    tenant: str,
    scan_ids: Collection[uuid.UUID],
    wanted: RequestedResources,
    most: int,
    key: Key | None,
    limits: TenantLimits | None,
) -> None:
    """Check quotas and limits for new jobs, and lock their scans against deletion. Raises as `submit` does."""
    if key is not None:
        quotas.check_open(session, key, wanted.jobs)
        quotas.check_day(session, key, wanted.jobs)
        quotas.check_bytes(session, key, wanted.bytes)
    check_room(session, wanted.jobs, most, None if key is None else tenant)
    if limits is not None:
        quotas.check_tenant(session, tenant, limits, wanted)
    held = session.scalars(select(Scan.id).where(Scan.id.in_(scan_ids)).with_for_update(read=True, key_share=True))
    if gone := set(scan_ids) - set(held):
        raise IllegalMove(f"scan {', '.join(map(str, gone))} was deleted")


def check_room(session: Session, more: int, most: int, tenant: str | None = None) -> None:
    """Raise TooManyOpenJobs unless so many more jobs may be queued. Concurrent tenants may exceed the limit by a few.

    A named tenant gets another job only while it has fewer open than are free: alone half of them, two tenants a third
    each (see `udig_recon.api.http.concurrency`).
    """
    open_jobs = select(func.count()).select_from(Job).where(Job.status.in_(OPEN))
    count = session.scalar(open_jobs) or 0
    if count + more > most:
        what = "no job more" if more == 1 else f"no {more} jobs more"
        raise TooManyOpenJobs(f"{what} may be queued or running, the limit is {most} (MAX_OPEN_JOBS); try again later")
    if tenant is None:
        return
    mine = session.scalar(open_jobs.where(Job.tenant == tenant)) or 0
    if mine + 2 * more - 2 >= most - count and mine + more > 1:
        raise TooManyOpenJobs(
            f"{mine} jobs of this tenant are queued or running, of {most} in all (MAX_OPEN_JOBS), and others need "
            "room; try again later"
        )
