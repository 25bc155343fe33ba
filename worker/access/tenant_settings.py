"""Settings of what one tenant may have, for all for which.

`udig tenants set` has set nothing else.
"""

from pydantic import Field
from pydantic_settings import BaseSettings


class TenantSettings(BaseSettings):
    """Defaults of the limits of tenants; see `udig_recon.worker.access.tenants`."""

    max_job_memory_bytes: int = Field(16 << 30, ge=1, description="memory that a job may be estimated to need")
    tenant_max_open_jobs: int | None = Field(
        None,
        ge=1,
        description="open jobs of one tenant; unset: half of MAX_OPEN_JOBS, less when others want some",
    )
    tenant_max_open_slices: int = Field(50_000, ge=1, description="slices of those jobs")
    tenant_max_jobs_per_day: int = Field(20_000, ge=1, description="jobs that one tenant may file in 24 hours")
    tenant_max_compute_seconds_per_day: int = Field(
        432_000, ge=1, description="seconds of workers in 24 hours for one tenant, estimates of open jobs counted in"
    )
    tenant_max_stored_bytes: int = Field(100 << 30, ge=1, description="scans and results that one tenant keeps")
    tenant_max_unfinished_uploads: int = Field(
        100, ge=1, description="resumable uploads of one tenant that are no scans yet"
    )
    tenant_max_keys: int = Field(100, ge=1, description="API keys of one tenant")
    tenant_max_requests_per_minute: int = Field(12_000, ge=1, description="of one tenant's keys, to each API process")
    retention_days: int = Field(
        30,
        ge=0,
        le=36500,
        description="scans and jobs are deleted after this, unless their key or tenant says another; 0: never",
    )
