"""JSON schema of webhooks, for the OpenAPI document."""

import uuid
from datetime import datetime

from pydantic import BaseModel, Field

from udig_recon.worker.database.tables import Status


class WebhookData(BaseModel):
    """The job that has ended."""

    job_id: uuid.UUID
    status: Status
    links: dict[str, str] = Field(description="`self`: the job; `result`: its files, when it succeeded")


class WebhookEvent(BaseModel):
    """Body of a webhook."""

    type: str = Field(description="job.succeeded, job.failed or job.cancelled")
    timestamp: datetime = Field(description="when the job ended")
    data: WebhookData
