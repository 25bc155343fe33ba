"""Keys and tenants as JSON."""

import uuid
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, field_validator

from udig_recon.worker.access.keys import PriorityName, Scope, priority_name
from udig_recon.worker.access.tenants import TenantLimits


class KeyOut(BaseModel):
    """An API key, without the key."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    name: str
    scopes: list[Scope]
    max_open_jobs: int | None
    max_jobs_per_day: int | None
    max_stored_bytes: int | None
    max_requests_per_minute: int | None
    retention_days: int | None
    max_priority: PriorityName
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")

    @field_validator("max_priority", mode="before")
    @classmethod
    def _by_name(cls, stored: int | str) -> str:
        return stored if isinstance(stored, str) else priority_name(stored)


class KeyMade(KeyOut):
    """A new API key; the only answer that holds it."""

    key: str = Field(description="for `Authorization: Bearer`; it cannot be shown again")


class UsageOut(BaseModel):
    """What a tenant has used of its limits, over all its keys."""

    open_jobs: int
    open_slices: int = Field(description="of those jobs")
    jobs_today: int = Field(description="filed within 24 hours")
    compute_seconds_today: float = Field(description="of workers, within 24 hours")
    compute_seconds_to_come: float = Field(description="that its open jobs are estimated to need yet")
    stored_bytes: int = Field(description="of scans and results, estimates of open jobs counted in")
    keys: int
    uploads: int = Field(description="at this moment, by the API process that answers")
    waits: int = Field(description="event streams and long polls, likewise")


class TenantOut(BaseModel):
    """The caller's tenant."""

    tenant: str
    limits: TenantLimits
    usage: UsageOut
