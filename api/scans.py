"""Scans: bring one, look at it, list them, delete."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from api import views
from api.context import Context, ContextDep
from api.examples import SCAN, answers, page
from api.intake import Received, keep, received
from api.negotiation import next_link, tagged_json
from api.problems import Conflict
from api.schemas import Page, ScanOut
from worker.models import Job, Scan, Status
from worker.tidying import forget_scan

router = APIRouter(tags=["scans"])
_FILE = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": _FILE, "example": "(bytes of the file)"},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": _FILE}},
            "example": {"file": "(bytes of the file)"},
        },
    },
}
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
    summary="Bring a scan",
    response_model=ScanOut,
    responses=answers({200: SCAN, 201: SCAN}, 400, 413, 415, 422, 503, 507),
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": [_NAME, _DIGEST]},
)
async def post_scan(
    request: Request,
    context: ContextDep,
    filename: Annotated[str | None, Query(description="the same as X-Filename", max_length=4096)] = None,
) -> Response:
    """The body is the file, or a form with the part `file`. 200: these very bytes are here already."""
    async with received(context, request, filename) as file:
        return await run_in_threadpool(_keep, context, file)


def _keep(context: Context, file: Received) -> Response:
    with context.sessions() as session:
        try:
            scan, created = keep(session, context.storage, file)
            session.commit()
        finally:
            session.rollback()
            forget_scan(session, context.storage, file.upload.sha256)
    headers = {"Location": f"/v1/scans/{scan.id}"}
    body = views.scan_out(scan).model_dump_json()
    return Response(body, 201 if created else 200, headers, "application/json")


@router.get(
    "/v1/scans",
    summary="Scans, newest first",
    response_model=Page[ScanOut],
    responses=answers({200: page(SCAN)}, 304, 422, 503),
)
def list_scans(
    request: Request,
    context: ContextDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> Response:
    """`Link: rel="next"` leads to the next page."""
    with context.sessions() as session:
        found = views.scan_page(session, limit, cursor)
    return tagged_json(request, found, next_link(request, found.next_cursor))


@router.get(
    "/v1/scans/{scan_id}",
    summary="A scan",
    response_model=ScanOut,
    responses=answers({200: SCAN}, 304, 404, 422, 503),
)
def get_scan(request: Request, context: ContextDep, scan_id: uuid.UUID) -> Response:
    """What the file holds, as found by looking into it."""
    with context.sessions() as session:
        return tagged_json(request, views.scan_out(views.one_scan(session, scan_id)))


@router.delete(
    "/v1/scans/{scan_id}", status_code=204, summary="Delete a scan", responses=answers({}, 204, 404, 409, 422, 503)
)
def delete_scan(context: ContextDep, scan_id: uuid.UUID) -> Response:
    """Refused while a job waits for it or runs on it; results of ended jobs stay."""
    with context.sessions() as session:
        views.one_scan(session, scan_id)
        # Locks the row against jobs that are being filed for it.
        scan = session.get(Scan, scan_id, with_for_update=True, populate_existing=True)
        if scan is None:
            raise views.no_scan(scan_id)
        working = (Job.scan_id == scan_id) & Job.status.in_([Status.QUEUED, Status.RUNNING])
        if open_job := session.scalar(select(Job.id).where(working).limit(1)):
            raise Conflict(f"job {open_job} works on this scan; cancel it or let it end", job_id=str(open_job))
        session.delete(scan)
        session.commit()
        forget_scan(session, context.storage, scan.sha256)
        session.commit()
    return Response(status_code=204)
