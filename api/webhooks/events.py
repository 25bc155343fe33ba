"""JSON schemas of webhooks, for the OpenAPI document."""

import uuid
from datetime import datetime

from pydantic import BaseModel, Field

from udig_recon.core.quality.rating import RatingLevel
from udig_recon.worker.database.tables import Status

_TAGS = "labels that it was submitted with"


class WebhookData(BaseModel):
    """The job that has started or ended."""

    job_id: uuid.UUID
    status: Status
    scan_id: uuid.UUID | None = Field(description="null once the scan was deleted")
    tags: dict[str, str] = Field(description=_TAGS)
    rating: RatingLevel | None = Field(description="the worst of its slices'; null unless it has succeeded")
    links: dict[str, str] = Field(description="`self`: the job; `result`: its files, when it succeeded")


class WebhookEvent(BaseModel):
    """Body of a webhook of a job."""

    type: str = Field(description="job.started, job.succeeded, job.failed or job.cancelled")
    timestamp: datetime = Field(description="when the job started or ended")
    data: WebhookData


class ComparisonWebhookData(BaseModel):
    """The comparison that has ended."""

    comparison_id: uuid.UUID
    status: Status
    tags: dict[str, str] = Field(description=_TAGS)
    links: dict[str, str] = Field(description="`self`: the comparison; `table`, `ranking` and `panel.png`: its results")


class ComparisonWebhookEvent(BaseModel):
    """Body of a webhook of a comparison."""

    type: str = Field(description="comparison.succeeded, comparison.failed or comparison.cancelled")
    timestamp: datetime = Field(description="when its last job ended")
    data: ComparisonWebhookData
