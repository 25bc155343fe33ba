"""Limits of API keys and of tenants, as requests, commands and documents name them; no database is loaded for them."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TENANT = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Names that a tenant may have."""

PriorityName = Literal["routine", "urgent"]

Count = Annotated[int, Field(ge=1, lt=1 << 31, strict=True)]
Bytes = Annotated[int, Field(ge=1, lt=1 << 63, strict=True)]
Days = Annotated[int, Field(ge=1, le=36500, strict=True)]
RetentionDays = Annotated[int, Field(ge=0, le=36500, strict=True)]


class Scope(StrEnum):
    """What a key may do; none implies another."""

    READ = "read"  # look at scans, jobs, results and priors
    WRITE = "write"  # bring scans, ask for jobs, cancel, retry, delete
    ADMIN = "admin"  # make, list, rotate and revoke the keys of its tenant


class KeyLimits(BaseModel):
    """How much a key may do, and how long what it makes is kept; null: only the service's own limits hold."""

    model_config = ConfigDict(extra="forbid")

    max_open_jobs: Count | None = Field(None, description="jobs queued or running at once")
    max_jobs_per_day: Count | None = Field(None, description="jobs filed within 24 hours")
    max_stored_bytes: Bytes | None = Field(None, description="bytes of the scans that it keeps here")
    max_requests_per_minute: Count | None = Field(None, description="requests, counted by each API process")
    retention_days: Days | None = Field(None, description="scans and jobs are deleted so long after they were made")
    expires_days: Days | None = Field(None, description="the key is refused so long after it was made")


KEPT_LIMITS = tuple(name for name in KeyLimits.model_fields if name != "expires_days")
"""Those that stand in a key's row as they were asked for; of the days until its end the row has the end."""


class NewKey(KeyLimits):
    """Name, scopes and limits of a new key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "scanner 3", "scopes": ["read", "write"], "max_open_jobs": 20, "retention_days": 30}]
        }
    )

    name: str = Field(pattern=r"^[\w .@+-]{1,64}$", description="what people call it; never a patient's name")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)]
    max_priority: PriorityName = Field("routine", description="the highest that its jobs may have")


class TenantLimits(BaseModel):
    """How much a tenant may do, over all its keys; null: only the service's own limits hold."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    max_open_jobs: Count | None = Field(None, description="jobs queued or running at once")
    max_open_slices: Count | None = Field(None, description="slices of those jobs")
    max_jobs_per_day: Count | None = Field(None, description="jobs filed within 24 hours, deleted ones too")
    max_compute_seconds_per_day: Bytes | None = Field(
        None, description="seconds of workers within 24 hours; what open jobs are estimated to need yet counts"
    )
    max_job_seconds: Bytes | None = Field(None, description="seconds of workers that one job may be estimated to need")
    max_job_memory_bytes: Bytes | None = Field(None, description="memory that one job may be estimated to need")
    max_stored_bytes: Bytes | None = Field(
        None, description="bytes of scans and results; what open jobs are estimated to leave counts"
    )
    max_keys: Count | None = Field(None, description="keys that are valid; one that is revoked counts for a day")
    max_uploads: Count | None = Field(None, description="uploads at once, counted by each API process")
    max_unfinished_uploads: Count | None = Field(
        None, description="resumable uploads that are no scans yet, until they expire"
    )
    max_waits: Count | None = Field(None, description="event streams, and as many long polls, by each API process")
    max_requests_per_minute: Count | None = Field(None, description="requests, counted by each API process")
    retention_days: RetentionDays | None = Field(
        None, description="scans and jobs are deleted so long after they were made; 0: not by themselves"
    )
