"""Endpoints of jobs: submit, get, list, cancel, retry, delete."""

import logging
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller, Reader, Writer
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.conditional import json_with_etag
from udig_recon.api.http.json_body import JSON, check_content_type, json_body, parse_json, read_limited, request_body
from udig_recon.api.http.pagination import Page, PageDep, page_response
from udig_recon.api.http.problems import Damaged
from udig_recon.api.jobs import queries
from udig_recon.api.jobs.long_poll import POLL_SECONDS, wait_for_change
from udig_recon.api.jobs.schemas import NO_NUL, JobIn, JobItem, JobOptions, JobOut, RetryOptions
from udig_recon.api.jobs.submission import submit
from udig_recon.api.jobs.validation import time_limit
from udig_recon.api.openapi.content import Content, component, example_of
from udig_recon.api.openapi.responses import responses
from udig_recon.api.scans import queries as scan_queries
from udig_recon.api.scans.ingest import ReceivedScan, is_form, receive_scan, store_scan
from udig_recon.core.quality.rating import RatingLevel
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.database.tables import Status
from udig_recon.worker.jobs.lifecycle import Retry
from udig_recon.worker.jobs.service import Submitted

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])
FORM = "multipart/form-data"
_FORM = {
    "schema": {
        "type": "object",
        "required": ["scan", "job"],
        "properties": {
            "scan": {"type": "string", "format": "binary"},
            "header": {"type": "string", "format": "binary"},
            "template": {"type": "string", "format": "binary"},
            "job": component(JobOptions),
        },
    },
    "example": {"scan": "(bytes of the file)", "job": example_of(JobOptions)},
}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Submit a reconstruction",
    response_model=JobOut,
    responses=responses({202: JobOut}, 400, 404, 409, 413, 415, 422, 429, 500, 503, 507),
    openapi_extra=request_body(JobIn, others={FORM: _FORM}),
)
async def create_job(
    request: Request,
    context: ContextDep,
    caller: Writer,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="same key and body: the first job again")
    ] = None,
) -> Response:
    """JSON with the id of a scan, or a form that brings the scan itself: upload and queue in one call.

    A form may bring BART's .hdr as `header` beside the .cfl as `scan`, and a DICOM file of the patient's study as
    `template` (see POST /v1/scans).
    """
    if is_form(request):
        async with receive_scan(context, caller, request, file="scan", text="job") as file:
            asked = parse_json(JobOptions, file.text or b"")
            async with context.storing_queue.turn(caller.tenant):
                return await context.file_threads.run(_file_with_scan, context, caller, asked, file, idempotency_key)
    check_content_type(request, "a job", JSON, FORM)
    asked_of_known = parse_json(JobIn, await read_limited(request, "a job"))
    async with context.submission_queue.turn(caller.tenant):
        return await run_in_threadpool(_file, context, caller, asked_of_known, idempotency_key)


def _file(context: Context, caller: Caller, asked: JobIn, key: str | None) -> Response:
    with context.sessions() as session:
        scan = scan_queries.read_scan(session, caller.tenant, asked.scan_id)
        if damage := scan_queries.damage_of(scan):
            raise Damaged(damage[0])
        return _answer(submit(context, caller, session, scan, asked, key, brought=False))


def _file_with_scan(
    context: Context, caller: Caller, asked: JobOptions, file: ReceivedScan, key: str | None
) -> Response:
    """Scan and job in one transaction; a job that is refused, or was filed before, leaves no scan behind."""
    with store_scan(context, caller, file) as (session, scan, _):
        return _answer(submit(context, caller, session, scan, asked, key, brought=True))


def _answer(submitted: Submitted[JobOut]) -> Response:
    return _accepted_response(submitted.answer, {} if submitted.created else {"Idempotency-Replayed": "true"})


def _accepted_response(job: JobOut, headers: dict[str, str] | None = None) -> Response:
    """202 with the job as it stands."""
    headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": POLL_SECONDS, **(headers or {})}
    return Response(job.model_dump_json(), 202, headers, "application/json")


@router.get(
    "/v1/jobs",
    summary="List jobs, newest first",
    response_model=Page[JobItem],
    responses=responses({200: Page[JobItem]}, 304, 422, 503),
)
def list_jobs(
    request: Request,
    context: ContextDep,
    caller: Reader,
    page: PageDep,
    status: Status | None = None,
    rating: Annotated[RatingLevel | None, Query(description="of jobs that have succeeded")] = None,
    scan_id: uuid.UUID | None = None,
    comparison_id: uuid.UUID | None = None,
    method: Annotated[str | None, Query(description="name of the method", max_length=64, pattern=NO_NUL)] = None,
    tag: Annotated[
        str | None, Query(description="`key:value`, or `key` for any value", max_length=321, pattern=NO_NUL)
    ] = None,
) -> Response:
    """`Link: rel="next"` leads to the next page. GET /v1/jobs/{job_id} adds its slices and webhook."""
    with context.sessions() as session:
        found = queries.job_page(
            session,
            caller.tenant,
            status=status,
            rating=rating,
            scan_id=scan_id,
            comparison_id=comparison_id,
            tag=tag,
            method=method,
            page=page,
        )
    return page_response(request, found)


@router.get(
    "/v1/jobs/{job_id}",
    summary="A job",
    response_model=JobOut,
    responses=responses({200: Content.json(example_of(JobOut, 1))}, 304, 404, 422, 503),
)
async def get_job(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to hold the answer until the status changes")] = 0,
) -> Response:
    """Carries `Retry-After` until it has ended."""
    read = partial(queries.read_job_async, context.queries, caller.tenant, job_id)
    job = await wait_for_change(context, caller, request, job_id, read, wait)
    return json_with_etag(request, job, {} if job.status.ended else {"Retry-After": POLL_SECONDS})


@router.post(
    "/v1/jobs/{job_id}/cancel",
    status_code=202,
    summary="Cancel a job",
    response_model=JobOut,
    responses=responses({202: JobOut}, 404, 409, 422, 503),
)
def cancel_job(context: ContextDep, caller: Writer, job_id: uuid.UUID) -> Response:
    """Takes effect within seconds; a job that has ended cannot be cancelled."""
    with context.sessions() as session:
        read = partial(queries.read_job, session, caller.tenant)
        return _accepted_response(context.jobs.cancel(session, job_id, caller.who, read))


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    summary="Retry a failed job",
    response_model=JobOut,
    responses=responses({202: JobOut}, 404, 409, 413, 415, 422, 429, 503),
    openapi_extra=request_body(RetryOptions, required=False),
)
async def retry_job(
    context: ContextDep,
    caller: Writer,
    job_id: uuid.UUID,
    asked: Annotated[RetryOptions, json_body(RetryOptions, "a retry", required=False)],
) -> Response:
    """Goes on from its checkpoints; one that reached its time limit wants a larger one, in a body."""
    async with context.submission_queue.turn(caller.tenant):
        return await run_in_threadpool(_retry, context, caller, job_id, asked)


def _retry(context: Context, caller: Caller, job_id: uuid.UUID, asked: RetryOptions) -> Response:
    with context.sessions() as session:
        limits = limits_of(session, caller.tenant, context.settings)
        limit = None if asked.max_seconds is None else time_limit(limits, asked.max_seconds)
        factor = context.factors.of(session, queries.job_row(session, caller.tenant, job_id).parameters["method"])
        read = partial(queries.read_job, session, caller.tenant)
        retry = Retry(max_seconds=limit, factor=factor)
        return _accepted_response(context.jobs.retry(session, job_id, retry, caller.submitter(context, limits), read))


@router.delete(
    "/v1/jobs/{job_id}", status_code=204, summary="Delete a job", responses=responses({}, 204, 404, 422, 503)
)
def delete_job(context: ContextDep, caller: Writer, job_id: uuid.UUID) -> Response:
    """Cancels it first; its results and checkpoints go with it."""
    with context.sessions() as session:
        context.jobs.delete(session, job_id, caller.who)
    return Response(status_code=204)
