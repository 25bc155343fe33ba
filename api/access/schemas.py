"""JSON schemas of API keys and tenants."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from udig_recon.api.openapi.content import CREATED
from udig_recon.worker.access.keys import priority_name
from udig_recon.worker.access.limits import PriorityName, Scope, TenantLimits

_KEY: dict[str, Any] = {
    "id": "0198c2f0-11aa-7b3c-8f00-5d1c2b3a4e5f",
    "name": "scanner 3",
    "scopes": ["read", "write"],
    "max_open_jobs": 20,
    "retention_days": 30,
    **dict.fromkeys(("max_jobs_per_day", "max_stored_bytes", "max_requests_per_minute")),
    "max_priority": "routine",
    "created_at": CREATED,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
}


class KeyOut(BaseModel):
    """An API key, without the key."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_KEY]})

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

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**_KEY, "key": "udig_3q2-7wAbCdEfGhIjKlMnOpQrStUvWxYz0123456789A"}]}
    )

    key: str = Field(description="for `Authorization: Bearer`; it cannot be shown again")


class UsageOut(BaseModel):
    """What a tenant has used of its limits, over all its keys."""

    open_jobs: int
    open_slices: int = Field(description="of those jobs")
    jobs_today: int = Field(description="filed within 24 hours")
    compute_seconds_today: float = Field(description="of workers, within 24 hours")
    compute_seconds_to_come: float = Field(description="that its open jobs are estimated to need yet")
    stored_bytes: int = Field(description="of scans, results and unfinished uploads, estimates of open jobs counted in")
    unfinished_uploads: int = Field(description="resumable uploads that are no scans yet")
    keys: int
    uploads: int = Field(description="at this moment, by the API process that answers")
    waits: int = Field(description="event streams and long polls, likewise")


_TENANT: dict[str, Any] = {
    "tenant": "radiology",
    "limits": {
        "max_open_jobs": None,
        "max_open_slices": 50000,
        "max_jobs_per_day": 20000,
        "max_compute_seconds_per_day": 432000,
        "max_job_seconds": 259200,
        "max_job_memory_bytes": 17179869184,
        "max_stored_bytes": 107374182400,
        "max_keys": 100,
        "max_uploads": None,
        "max_unfinished_uploads": 100,
        "max_waits": None,
        "max_requests_per_minute": 12000,
        "retention_days": 30,
    },
    "usage": {
        "open_jobs": 2,
        "open_slices": 40,
        "jobs_today": 12,
        "compute_seconds_today": 3651.2,
        "compute_seconds_to_come": 560.0,
        "stored_bytes": 1288490188,
        "unfinished_uploads": 1,
        "keys": 4,
        "uploads": 0,
        "waits": 1,
    },
}


class TenantOut(BaseModel):
    """The caller's tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TENANT]})

    tenant: str
    limits: TenantLimits
    usage: UsageOut
