"""Endpoints of resumable uploads, by the tus protocol: create, append, see, list, delete.

A complete upload becomes a scan by POST /v1/scans with its id.
"""

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from udig_recon.api.access.authentication import Writer
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.http.json_body import JSON, check_content_type, has_body
from udig_recon.api.http.pagination import Page, PageDep, page_response
from udig_recon.api.http.problems import Conflict, NotFound, TooLarge
from udig_recon.api.openapi.responses import responses
from udig_recon.api.uploads import lifecycle, protocol
from udig_recon.api.uploads.appending import append_body
from udig_recon.api.uploads.schemas import UploadOut
from udig_recon.worker.storage.uploads import Progress

router = APIRouter(tags=["uploads"])


def _header(name: str, description: str, *, required: bool = False, example: str | int | None = None) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0} if isinstance(example, int) else {"type": "string"}
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": schema,
        **({} if example is None else {"example": example}),
    }


_VERSION = _header("Tus-Resumable", "version of the protocol; 1.0.0 where it is missing", example=protocol.VERSION)
_LENGTH = _header("Upload-Length", "bytes of the whole file", required=True, example=4294967296)
_OFFSET = _header("Upload-Offset", "bytes that the upload has", required=True, example=1073741824)
_METADATA = _header(
    "Upload-Metadata",
    "`filename` and `sha256` (64 hexadecimal digits, of the whole file), each with its value in base64",
    example="filename YnJhaW4uaDU=",
)
_CHECKSUM = _header("Upload-Checksum", "`sha256 <base64>` or `sha1 <base64>` of this request's bytes")
_BYTES = {protocol.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}}


@router.options(
    protocol.PATH, status_code=204, summary="What the upload server can do", responses=responses({}, 204, public=False)
)
async def get_upload_options(context: ContextDep, caller: Writer) -> Response:  # noqa: ARG001
    """`Tus-Version`, `Tus-Extension`, `Tus-Max-Size` and `Tus-Checksum-Algorithm`."""
    return Response(status_code=204, headers=protocol.capabilities(context.settings.max_upload_bytes))


@router.post(
    protocol.PATH,
    status_code=201,
    summary="Begin a resumable upload",
    response_model=UploadOut,
    responses=responses({201: UploadOut}, 400, 410, 412, 413, 415, 422, 423, 460, 503, 507),
    openapi_extra={
        "parameters": [_VERSION, _LENGTH, _METADATA, _CHECKSUM],
        "requestBody": {"required": False, "content": _BYTES},
    },
)
async def create_upload(request: Request, context: ContextDep, caller: Writer) -> Response:
    """`Location` is the upload's own. The first bytes may come as the body.

    Its length counts as stored at once (max_stored_bytes). It expires when nothing is added for UPLOAD_EXPIRY_HOURS.
    """
    size_bytes = protocol.length_of(request.headers)
    if size_bytes > (most := context.settings.max_upload_bytes):
        detail = f"the file has more than {most} bytes, the limit of this service (MAX_UPLOAD_BYTES)"
        raise TooLarge.at("Upload-Length", detail, found=f"{size_bytes} bytes", expected=f"at most {most} bytes")
    protocol.check_version(request.headers)
    metadata, checksum = protocol.Metadata.of(request.headers.get("upload-metadata", "")), None
    if has_body(request):
        check_content_type(request, "the first bytes of an upload", protocol.MEDIA_TYPE)
        checksum = protocol.checksum_of(request.headers)
    async with context.storing_queue.turn(caller.tenant):
        upload = await context.file_threads.run(lifecycle.begin_upload, context, caller, size_bytes, metadata)
    progress = Progress(0, upload.expires_at)
    if has_body(request):
        async with lifecycle.deleted_on_failure(context, caller.who, upload.id):
            progress = await append_body(
                context, caller, request, upload.id, offset=0, size_bytes=size_bytes, checksum=checksum
            )
    begun = upload.model_copy(update=progress._asdict())
    headers = {"Location": f"{protocol.PATH}/{upload.id}", **_progress(progress)}
    return Response(begun.model_dump_json(), 201, headers, JSON)


def _progress(progress: Progress) -> dict[str, str]:
    return {
        "Upload-Offset": str(progress.offset_bytes),
        "Upload-Expires": protocol.http_date(progress.expires_at),
        "Cache-Control": "no-store",
    }


@router.get(
    protocol.PATH,
    summary="List uploads that go on, newest first",
    response_model=Page[UploadOut],
    responses=responses({200: Page[UploadOut]}, 304, 422, 503),
)
def list_uploads(request: Request, context: ContextDep, caller: Writer, page: PageDep) -> Response:
    """`Link: rel="next"` leads to the next page."""
    with context.sessions() as session:
        return page_response(request, lifecycle.upload_page(session, caller.tenant, page))


@router.get(
    f"{protocol.PATH}/{{upload_id}}",
    summary="An upload",
    response_model=UploadOut,
    responses=responses({200: UploadOut}, 404, 410, 412, 422, 503),
)
async def get_upload(request: Request, context: ContextDep, caller: Writer, upload_id: uuid.UUID) -> Response:
    """HEAD is the protocol's: `Upload-Offset` tells where to go on."""
    row = await lifecycle.find_upload(context, caller, upload_id)
    protocol.check_version(request.headers)
    headers = {**_progress(Progress(row.offset_bytes, row.expires_at)), "Upload-Length": str(row.size_bytes)}
    if metadata := str(protocol.Metadata(row.filename, row.sha256)):
        headers["Upload-Metadata"] = metadata
    return Response(UploadOut.model_validate(row).model_dump_json(), 200, headers, JSON)


@router.patch(
    f"{protocol.PATH}/{{upload_id}}",
    status_code=204,
    summary="Append to an upload",
    responses=responses({}, 204, 400, 404, 409, 410, 412, 413, 415, 422, 423, 460, 503, 507),
    openapi_extra={
        "parameters": [_VERSION, _OFFSET, _CHECKSUM],
        "requestBody": {"required": True, "content": _BYTES},
    },
)
async def append_to_upload(request: Request, context: ContextDep, caller: Writer, upload_id: uuid.UUID) -> Response:
    """409: the upload is at another offset, which HEAD tells. What came of a body that is cut off counts.

    With `Upload-Checksum` all of the body counts or, where it is another's (460) or is cut off, nothing.
    """
    row = await lifecycle.find_upload(context, caller, upload_id)
    protocol.check_version(request.headers)
    check_content_type(request, "bytes of an upload", protocol.MEDIA_TYPE)
    offset, checksum = protocol.offset_of(request.headers), protocol.checksum_of(request.headers)
    if row.part_bytes is not None:
        raise Conflict("the parts of this upload go to the bucket: GET /v1/direct-uploads/{upload_id} tells where")
    if offset != row.offset_bytes:
        raise lifecycle.moved(row.offset_bytes)
    progress = await append_body(
        context, caller, request, upload_id, offset=offset, size_bytes=row.size_bytes, checksum=checksum
    )
    return Response(status_code=204, headers=_progress(progress))


@router.delete(
    f"{protocol.PATH}/{{upload_id}}",
    status_code=204,
    summary="Delete an upload",
    responses=responses({}, 204, 404, 410, 412, 422, 503),
)
async def delete_upload(request: Request, context: ContextDep, caller: Writer, upload_id: uuid.UUID) -> Response:
    """Its bytes go with it; a scan that it became stays."""
    await lifecycle.find_upload(context, caller, upload_id)
    protocol.check_version(request.headers)
    if not await context.file_threads.run(lifecycle.delete_upload, context, caller.who, upload_id):
        raise NotFound(f"there is no upload {upload_id}; GET /v1/uploads lists those that go on")
    return Response(status_code=204)
