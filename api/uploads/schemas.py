"""JSON schema of resumable uploads."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.api.openapi.content import CREATED, SHA256, UPLOAD_ID

_UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID,
    "filename": "brain.h5",
    "size_bytes": 4294967296,
    "offset_bytes": 1073741824,
    "sha256": SHA256,
    "created_at": CREATED,
    "expires_at": "2026-02-04T09:12:41.120000Z",
    "scan_id": None,
}


class UploadOut(BaseModel):
    """A resumable upload. At `offset_bytes` the next bytes go on; at `size_bytes` it is complete."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_UPLOAD]})

    id: uuid.UUID
    filename: str = Field(description="base name that the client gave; kept for people only")
    size_bytes: int = Field(description="of the whole file, as announced")
    offset_bytes: int = Field(description="that are on the disk")
    sha256: str | None = Field(None, description="of the whole file, as announced; checked when it becomes a scan")
    created_at: datetime
    expires_at: datetime = Field(description="when it is deleted, unless more comes")
    scan_id: uuid.UUID | None = Field(None, description="what it became, by POST /v1/scans")
