"""Endpoints of scans: upload, get, list, delete."""

import logging
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller, Reader, Writer, record_access
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.conditional import file_headers, file_response, json_with_etag, not_modified, with_etag
from udig_recon.api.http.json_body import JSON, media_type_of, parse_json, read_limited
from udig_recon.api.http.pagination import Page, PageDep, page_response
from udig_recon.api.http.problems import Conflict, Damaged, Invalid
from udig_recon.api.openapi.content import Content, component, example_of
from udig_recon.api.openapi.responses import FILE_REQUEST_HEADERS, responses
from udig_recon.api.scans import queries
from udig_recon.api.scans.ingest import ReceivedScan, receive_scan, store_scan
from udig_recon.api.scans.previews import scan_preview
from udig_recon.api.scans.schemas import ScanItem, ScanOut, UploadedScan
from udig_recon.api.uploads.completion import receive_uploaded
from udig_recon.core.acquisition import frames_of, slice_number_range
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.access import audit
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Job, Scan
from udig_recon.worker.storage import integrity, keys
from udig_recon.worker.storage.base import StorageUnavailable
from udig_recon.worker.storage.scans import forget, is_in_use

log = logging.getLogger(__name__)
router = APIRouter(tags=["scans"])
_FILE = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _FILE, "example": "(bytes of the file)"},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": _FILE, "header": _FILE, "template": _FILE},
            },
            "example": {"file": "(bytes of the file)"},
        },
        JSON: {"schema": component(UploadedScan), "example": example_of(UploadedScan)},
    },
}
_UPLOADED = Content.binary("application/octet-stream", "(bytes of the file)")
_PREVIEW = Content.binary("image/png", "(bytes of the picture)")
_DIGEST = {
    "name": "Repr-Digest",
    "in": "header",
    "required": False,
    "description": "`sha-256=:<base64>:` of the file, checked when sent (RFC 9530)",
    "schema": {"type": "string"},
}
_NAME = {**_DIGEST, "name": "X-Filename", "description": "what the file is called; kept for people only"}


@router.post(
    "/v1/scans",
    status_code=201,
    summary="Upload a scan",
    response_model=ScanOut,
    responses=responses({200: ScanOut, 201: ScanOut}, 400, 404, 409, 410, 413, 415, 422, 423, 503, 507),
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": [_NAME, _DIGEST]},
)
async def create_scan(
    request: Request,
    context: ContextDep,
    caller: Writer,
    filename: Annotated[str | None, Query(description="the same as X-Filename")] = None,
) -> Response:
    """The body is the file, a form with the part `file`, or JSON with the id of a complete upload.

    200: these very bytes are here already. An upload whose bytes are refused is deleted with them.

    BART's .cfl comes as a form: the .cfl as `file`, its .hdr as `header`. A form may bring a DICOM file of the
    patient's study as `template`: destinations that may have identifiers are sent images of that study.
    """
    if media_type_of(request) == JSON:
        asked = parse_json(UploadedScan, await read_limited(request, "a reference to an upload"))
        async with receive_uploaded(context, caller, request, asked.upload_id) as found:
            if isinstance(found, uuid.UUID):
                return await run_in_threadpool(_known_scan, context, caller, found)
            async with context.storing_queue.turn(caller.tenant):
                return await context.file_threads.run(_keep, context, caller, found)
    async with receive_scan(context, caller, request, filename) as file, context.storing_queue.turn(caller.tenant):
        return await context.file_threads.run(_keep, context, caller, file)


def _known_scan(context: Context, caller: Caller, scan_id: uuid.UUID) -> Response:
    with context.sessions() as session:
        scan = queries.read_scan(session, caller.tenant, scan_id)
        return _scan_response(scan, queries.scan_out(scan).model_dump_json(), 200)


def _keep(context: Context, caller: Caller, file: ReceivedScan) -> Response:
    with store_scan(context, caller, file) as (session, scan, created):
        body = queries.scan_out(scan).model_dump_json()
        audit.append(session, caller.who, audit.SCAN_UPLOADED, scan=scan.id)
        session.commit()
    return _scan_response(scan, body, 201 if created else 200)


def _scan_response(scan: Scan, body: str, status: int) -> Response:
    return Response(body, status, {"Location": f"/v1/scans/{scan.id}"}, JSON)


@router.get(
    "/v1/scans",
    summary="List scans, newest first",
    response_model=Page[ScanItem],
    responses=responses({200: Page[ScanItem]}, 304, 422, 503),
)
def list_scans(
    request: Request,
    context: ContextDep,
    caller: Reader,
    page: PageDep,
) -> Response:
    """`Link: rel="next"` leads to the next page."""
    with context.sessions() as session:
        found = queries.scan_page(session, caller.tenant, page)
    return page_response(request, found)


@router.get(
    "/v1/scans/{scan_id}",
    summary="A scan",
    response_model=ScanOut,
    responses=responses({200: ScanOut}, 304, 404, 422, 503),
)
def get_scan(request: Request, context: ContextDep, caller: Reader, scan_id: uuid.UUID) -> Response:
    """What the file holds, as found by looking into it."""
    with context.sessions() as session:
        return json_with_etag(request, queries.scan_out(queries.read_scan(session, caller.tenant, scan_id)))


@router.get(
    "/v1/scans/{scan_id}/file",
    summary="The file as it was uploaded",
    response_class=Response,
    responses=responses({200: _UPLOADED}, 206, 304, 404, 416, 422, 500, 503),
    openapi_extra={"parameters": FILE_REQUEST_HEADERS},
)
def get_scan_file(request: Request, context: ContextDep, caller: Reader, scan_id: uuid.UUID) -> Response:
    """Byte for byte, under its own name. BART's two files come as one, in the order in which they came."""
    with context.sessions() as session:
        scan = queries.read_scan(session, caller.tenant, scan_id)
    damaged = partial(_damaged_file, context, scan)
    key = keys.scan(scan.sha256, scan.tenant)
    try:
        file = context.verifier.check(context.storage, key, scan.sha256)
    except (DamagedFile, FileNotFoundError) as error:
        raise damaged() from error
    headers = file_headers(scan.sha256)
    if not_modified(request, headers["ETag"], file.info.modified):
        return Response(status_code=304, headers=headers)
    record_access(context, caller, "file.read", scan=scan_id)
    return file_response(request, file, _UPLOADED.media_type, scan.filename or str(scan_id), headers, damaged)


def _damaged_file(context: Context, scan: Scan) -> Damaged:
    """The problem of a stored scan that is not what was uploaded, once that is noted."""
    context.verifier.forget(keys.scan(scan.sha256, scan.tenant))
    with context.sessions.begin() as session:
        integrity.note_scan(session, scan.tenant, scan.sha256)
    return Damaged(f"the stored file of scan {scan.id} is missing or damaged and is not sent; post the scan again")


@router.get(
    "/v1/scans/{scan_id}/preview.png",
    summary="A picture of a slice as it was measured",
    response_class=Response,
    responses=responses({200: _PREVIEW}, 304, 404, 409, 422, 503),
)
async def get_scan_preview(
    request: Request,
    context: ContextDep,
    caller: Reader,
    scan_id: uuid.UUID,
    slice_: Annotated[
        int | None, Query(alias="slice", ge=0, lt=1 << 31, description="none: the one in the middle")
    ] = None,
) -> Response:
    """Zero-filled MRI, filtered back-projection of CT; coarser than what a job makes, and there at once."""
    scan = await run_in_threadpool(_scan, context, caller, scan_id)
    slices = int(scan.header["slices"])
    number = slices // 2 if slice_ is None else slice_
    if number >= slices:
        expected = slice_number_range(slices, frames_of(scan.header))
        raise Invalid.at("slice", f"the scan has no slice {number}", found=str(number), expected=expected)
    picture = await scan_preview(context, caller, client_of(request), scan, number)
    answer = with_etag(request, picture, _PREVIEW.media_type)
    if answer.status_code == 200:
        await run_in_threadpool(record_access, context, caller, "preview.read", scan=scan_id)
    return answer


def _scan(context: Context, caller: Caller, scan_id: uuid.UUID) -> Scan:
    with context.sessions() as session:
        return queries.read_scan(session, caller.tenant, scan_id)


@router.delete(
    "/v1/scans/{scan_id}", status_code=204, summary="Delete a scan", responses=responses({}, 204, 404, 409, 422, 503)
)
async def delete_scan(context: ContextDep, caller: Writer, scan_id: uuid.UUID) -> Response:
    """Refused while a job waits for it or runs on it; results of ended jobs stay."""
    await context.file_threads.run(_delete, context, caller, scan_id)
    return Response(status_code=204)


def _delete(context: Context, caller: Caller, scan_id: uuid.UUID) -> None:
    with context.sessions() as session:
        # Locks the row against jobs that are being filed for it.
        scan = queries.read_scan(session, caller.tenant, scan_id, for_change=True)
        if open_job := session.scalar(select(Job.id).where(is_in_use(scan)).limit(1)):
            raise Conflict(f"job {open_job} works on this scan; cancel it or let it end", job_id=str(open_job))
        session.delete(scan)
        audit.append(session, caller.who, "scan.deleted", scan=scan_id)
        session.commit()
        context.previews.forget(caller.tenant, scan.sha256)
        try:
            forget(session, context.storage, caller.tenant, scan.sha256)
            session.commit()
        except (*AWAY, StorageUnavailable) as error:  # the scan is deleted; its file is left to the orphan cleanup
            log.warning("scan.left_to_cleanup", extra={"error": type(error).__name__})
