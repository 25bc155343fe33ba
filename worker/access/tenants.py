"""Tenants: how much each may do, whatever the number of its keys. One without a row has what the settings say."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.database import locks
from udig_recon.worker.database.tables import Tenant
from udig_recon.worker.settings import Settings

AT_THE_DOOR = ("max_uploads", "max_waits", "max_requests_per_minute", "retention_days")
"""Limits that the API process looks at by itself; they come with the key: see `udig_recon.worker.access.keys.VALID`."""


def defaults(settings: Settings) -> TenantLimits:
    """The limits of a tenant for which none were set."""
    return TenantLimits(
        max_open_jobs=settings.tenant_max_open_jobs,
        max_open_slices=settings.tenant_max_open_slices,
        max_jobs_per_day=settings.tenant_max_jobs_per_day,
        max_compute_seconds_per_day=settings.tenant_max_compute_seconds_per_day,
        max_job_seconds=max(1, int(settings.max_job_seconds)),
        max_job_memory_bytes=settings.max_job_memory_bytes,
        max_stored_bytes=settings.tenant_max_stored_bytes,
        max_keys=settings.tenant_max_keys,
        max_uploads=None,
        max_unfinished_uploads=settings.tenant_max_unfinished_uploads,
        max_waits=None,
        max_requests_per_minute=settings.tenant_max_requests_per_minute,
        retention_days=settings.retention_days,
    )


def effective(settings: Settings, own: Mapping[str, Any]) -> TenantLimits:
    """The defaults, where the tenant has not its own."""
    return defaults(settings).model_copy(update={name: value for name, value in own.items() if value is not None})


def limits_of(session: Session, tenant: str, settings: Settings) -> TenantLimits:
    """What the tenant may do."""
    return effective(settings, own_limits(session, tenant).model_dump())


def own_limits(session: Session, tenant: str) -> TenantLimits:
    """What was set for the tenant."""
    row = session.get(Tenant, tenant, populate_existing=True)
    return TenantLimits() if row is None else TenantLimits.model_validate(row)


def set_limits(session: Session, tenant: str, changes: Mapping[str, int | None]) -> TenantLimits:
    """Set some limits, None: to the default; gives all that are set now."""
    row = insert(Tenant).values(name=tenant, **changes)
    session.execute(row.on_conflict_do_update(index_elements=[Tenant.name], set_=dict(changes) or {"name": tenant}))
    session.flush()
    return own_limits(session, tenant)


def hold(session: Session, tenant: str) -> None:
    """Let nobody else file, keep or make anything for the tenant until the transaction ends; other tenants go on."""
    locks.acquire_tenant(session, tenant)


def stored_limits(session: Session) -> dict[str, TenantLimits]:
    """The tenants for which limits were set, by name."""
    return {row.name: TenantLimits.model_validate(row) for row in session.scalars(select(Tenant).order_by(Tenant.name))}
