"""Endpoints of direct uploads: a client sends a large file part by part to the bucket itself, by signed requests."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, update

from udig_recon.api.access.authentication import Caller, Writer
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.json_body import JSON, json_body, request_body
from udig_recon.api.http.problems import Conflict, TooLarge
from udig_recon.api.openapi.content import CREATED, SHA256, UPLOAD_ID
from udig_recon.api.openapi.responses import responses
from udig_recon.api.scans.upload import base_name
from udig_recon.api.uploads import lifecycle
from udig_recon.api.uploads.protocol import Metadata
from udig_recon.api.uploads.schemas import UploadOut
from udig_recon.worker.access.quotas import is_unfinished
from udig_recon.worker.database.tables import ResumableUpload
from udig_recon.worker.storage import direct_uploads, keys
from udig_recon.worker.storage.direct_uploads import Part

router = APIRouter(tags=["uploads"])
PATH = "/v1/direct-uploads"
SIGNED_SECONDS = 3600.0
_PART: dict[str, Any] = {
    "number": 1,
    "offset": 0,
    "size_bytes": 67108864,
    "method": "PUT",
    "url": "https://bucket.example.org/parts/1?X-Amz-Signature=...",
    "headers": {},
}
_UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID,
    "filename": "brain.h5",
    "size_bytes": 134217728,
    "offset_bytes": 67108864,
    "sha256": SHA256,
    "created_at": CREATED,
    "expires_at": "2026-02-04T09:12:41.120000Z",
    "scan_id": None,
    "part_bytes": 67108864,
    "missing": [{**_PART, "number": 2, "offset": 67108864}],
}


class DirectUploadRequest(BaseModel):
    """A file that is to be sent to the bucket itself."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"size_bytes": 134217728, "filename": "brain.h5", "sha256": SHA256}]},
    )

    size_bytes: int = Field(ge=1, le=1 << 50, description="of the whole file")
    filename: str = Field("", max_length=1000, description="what the file is called; kept for people only")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="of the whole file; checked when it becomes a scan"
    )


class PartOut(BaseModel):
    """A part of the file, and the request that sends it: its bytes are the body, its headers must be sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PART]})

    number: int = Field(description="from 1")
    offset: int = Field(description="of its first byte in the file")
    size_bytes: int
    method: str
    url: str = Field(description="of the bucket, good for an hour; send no API key there")
    headers: dict[str, str]


class DirectUploadOut(UploadOut):
    """A direct upload, with the parts that the bucket does not have."""

    model_config = ConfigDict(json_schema_extra={"examples": [_UPLOAD]})

    offset_bytes: int = Field(description="that the bucket has, of all parts")
    expires_at: datetime = Field(description="when it is deleted, unless its missing parts are asked for again")
    part_bytes: int = Field(description="of each part but the last")
    missing: list[PartOut] = Field(description="parts that are not in the bucket yet, or not of their size")


@router.post(
    PATH,
    status_code=201,
    summary="Begin an upload to the bucket itself",
    response_model=DirectUploadOut,
    responses=responses({201: DirectUploadOut}, 400, 409, 413, 415, 422, 503),
    openapi_extra=request_body(DirectUploadRequest),
)
def create_direct_upload(
    context: ContextDep,
    caller: Writer,
    asked: Annotated[DirectUploadRequest, json_body(DirectUploadRequest, "a direct upload")],
) -> Response:
    """Send each of `missing` by its request, then POST /v1/scans with `upload_id`; GET tells what is missing yet.

    409: this service keeps its files in a folder, and takes large ones by POST /v1/uploads. The length counts as stored
    at once (max_stored_bytes).
    """
    most = context.settings.max_upload_bytes
    if asked.size_bytes > most:
        detail = f"the file has more than {most} bytes, the limit of this service (MAX_UPLOAD_BYTES)"
        expected = f"at most {most} bytes"
        raise TooLarge.at("size_bytes", detail, found=f"{asked.size_bytes} bytes", expected=expected)
    if context.storage.sign("PUT", keys.part(uuid.UUID(int=0), 1), 1) is None:
        raise Conflict("this service keeps its files in a folder: POST /v1/uploads takes large ones")
    part_bytes = direct_uploads.part_bytes_of(asked.size_bytes)
    metadata = Metadata(base_name(asked.filename), asked.sha256)
    begun = lifecycle.begin_upload(context, caller, asked.size_bytes, metadata, part_bytes)
    # The bucket is not asked: without an answer the upload would count as stored, and its client not know it.
    body = _out(context, begun, part_bytes, direct_uploads.parts_of(asked.size_bytes, part_bytes))
    return Response(body.model_dump_json(), 201, {"Location": f"{PATH}/{begun.id}", "Cache-Control": "no-store"}, JSON)


@router.get(
    f"{PATH}/{{upload_id}}",
    summary="What is missing of an upload to the bucket",
    response_model=DirectUploadOut,
    responses=responses({200: DirectUploadOut}, 404, 409, 410, 422, 423, 503),
)
async def get_direct_upload(context: ContextDep, caller: Writer, upload_id: uuid.UUID) -> Response:
    """Each answer has new signed requests, and puts off the expiry."""
    row = await lifecycle.find_upload(context, caller, upload_id)
    if row.part_bytes is None:
        raise Conflict("the bytes of this upload come to the service: HEAD /v1/uploads/{upload_id} tells its offset")
    body = await context.file_threads.run(_look, context, caller, row)
    return Response(body.model_dump_json(), 200, {"Cache-Control": "no-store"}, JSON)


def _look(context: Context, caller: Caller, row: Any) -> DirectUploadOut:
    found = UploadOut.model_validate(row)
    if row.stored_at is not None:
        return DirectUploadOut(**found.model_dump(), part_bytes=row.part_bytes, missing=[])
    parts = direct_uploads.parts_of(row.size_bytes, row.part_bytes)
    out = _out(context, found, row.part_bytes, direct_uploads.missing_parts(context.storage, row.id, parts))
    mine = (ResumableUpload.tenant == caller.tenant) & (ResumableUpload.id == row.id) & is_unfinished()
    values = {"offset_bytes": out.offset_bytes, "expires_at": func.now() + lifecycle.kept_for(context.settings)}
    with context.sessions.begin() as session:
        later = session.scalar(update(ResumableUpload).where(mine).values(values).returning(ResumableUpload.expires_at))
    if later is None:  # it was deleted, or became a scan, since its row was read: its parts are gone
        raise lifecycle.busy()
    return out.model_copy(update={"expires_at": later})


def _out(context: Context, upload: UploadOut, part_bytes: int, missing: Sequence[Part]) -> DirectUploadOut:
    there = upload.size_bytes - sum(part.size_bytes for part in missing)
    requests = []
    for part in missing:
        signed = context.storage.sign("PUT", keys.part(upload.id, part.number), SIGNED_SECONDS)
        if signed is None:
            raise Conflict("this service has moved from a bucket to a folder: begin the upload again")
        requests.append(PartOut(**part._asdict(), **signed._asdict()))
    known = upload.model_dump() | {"offset_bytes": there}
    return DirectUploadOut(**known, part_bytes=part_bytes, missing=requests)
