"""How tests file jobs: as a client without a key does, with defaults for what they do not care about."""

import uuid
from typing import Any

from sqlalchemy.orm import Session

from udig_recon.core.parameters import CGSense
from udig_recon.worker.access.audit import Who
from udig_recon.worker.database.tables import DEFAULT_TENANT, Job, Scan
from udig_recon.worker.jobs import lifecycle
from udig_recon.worker.jobs.lifecycle import JobRequest, Retry, Submitter

SUBMITTER = ("max_open_jobs", "key", "limits", "retention_days")


def submitter(tenant: str = DEFAULT_TENANT, **fields: Any) -> Submitter:
    """Who may have as many jobs as any test wants."""
    return Submitter(who=Who(tenant, "open"), **{"max_open_jobs": 10_000, **fields})


def submit_job(session: Session, scan: Scan, **fields: Any) -> tuple[Job, bool]:
    """File a job; `fields` are those of JobRequest and of Submitter."""
    theirs = {name: fields.pop(name) for name in SUBMITTER if name in fields}
    asked = {"method": CGSense(), "outputs": ["h5"], "slices": [0], "seed": 0, **fields}
    return lifecycle.submit(session, JobRequest(scan=scan, **asked), submitter(scan.tenant, **theirs))


def retry_job(session: Session, job_id: uuid.UUID, tenant: str = DEFAULT_TENANT, **fields: Any) -> Job:
    """Retry a failed job; `fields` are those of Retry and of Submitter."""
    theirs = {name: fields.pop(name) for name in SUBMITTER if name in fields}
    return lifecycle.retry(session, job_id, Retry(**fields), submitter(tenant, **theirs))
