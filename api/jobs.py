"""Jobs: file one, look at it, list them, cancel, retry, delete."""

import hashlib
import json
import logging
import time
import uuid
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api import views, webhooks
from api.access import Caller, Reader, Writer
from api.context import Context, ContextDep
from api.errors import of_validation
from api.examples import JOB, JOB_ITEM, JOB_REQUEST, JUDGED_JOB, answers, page
from api.intake import Received, is_form, keeping, received
from api.negotiation import next_link, tagged_json
from api.problems import Invalid, TooLarge, UnknownMedia
from api.schemas import JobIn, JobItem, JobOptions, JobOut, Page
from core.acquisition import Modality
from core.cards import card_of
from core.parameters import Parameters, complete, require, require_random
from worker import audit, jobs, queue, tracing
from worker.models import Scan, Status
from worker.quotas import JOB_FILED

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"])
Asked = TypeVar("Asked", bound=JobOptions)
BODY_BYTES = 1 << 20
POLL_SECONDS = "2"
_FORM = {"scan": {"type": "string", "format": "binary"}, "job": {"$ref": "#/components/schemas/JobOptions"}}
_FORM_EXAMPLE = {
    "scan": "(bytes of the file)",
    "job": {name: value for name, value in JOB_REQUEST.items() if name != "scan_id"},
}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/JobIn"}, "example": JOB_REQUEST},
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["scan", "job"], "properties": _FORM},
            "example": _FORM_EXAMPLE,
        },
    },
}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Ask for a reconstruction",
    response_model=JobOut,
    responses=answers({202: JOB}, 400, 404, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra={"requestBody": _REQUEST_BODY},
)
async def post_job(
    request: Request,
    context: ContextDep,
    caller: Writer,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="same key and body: the first job again")
    ] = None,
) -> Response:
    """JSON with the id of a scan, or a form that brings the scan itself: upload and queue in one call."""
    if is_form(request):
        async with received(context, caller, request, file="scan", text="job") as file:
            asked = _parsed(JobOptions, file.text or b"")
            return await run_in_threadpool(_file_with_scan, context, caller, asked, file, idempotency_key)
    asked_of_known = _parsed(JobIn, await _json_body(request))
    return await run_in_threadpool(_file, context, caller, asked_of_known, idempotency_key)


async def _json_body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        expected = "application/json | multipart/form-data"
        raise UnknownMedia.at("Content-Type", "a job is JSON or a form", found=kind or "nothing", expected=expected)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            expected = f"at most {BODY_BYTES} bytes"
            raise TooLarge.at("body", f"a job has at most {BODY_BYTES} bytes", found="more", expected=expected)
    return bytes(body)


def _parsed(kind: type[Asked], body: bytes) -> Asked:
    try:
        return kind.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise of_validation(error) from error


def _file(context: Context, caller: Caller, asked: JobIn, key: str | None) -> Response:
    with context.sessions() as session:
        scan = views.one_scan(session, caller.tenant, asked.scan_id)
        return _submit(context, caller, session, scan, asked, key)


def _file_with_scan(context: Context, caller: Caller, asked: JobOptions, file: Received, key: str | None) -> Response:
    """Scan and job in one transaction; a job that is refused leaves no scan behind."""
    with keeping(context, caller, file) as (session, scan, _):
        return _submit(context, caller, session, scan, asked, key)


def _submit(
    context: Context, caller: Caller, session: Session, scan: Scan, asked: JobOptions, key: str | None
) -> Response:
    webhooks.check(context.settings, asked.webhook_url)
    job, created = jobs.submit(
        session,
        scan=scan,
        method=_method(context, scan, asked),
        outputs=list(dict.fromkeys(asked.outputs)),
        slices=_slices(scan, asked),
        seed=asked.seed,
        seeds=asked.seeds,
        tags=asked.tags,
        webhook_url=asked.webhook_url,
        traceparent=tracing.current(),
        idempotency_key=key,
        request_sha256=_fingerprint(scan, asked),
        max_open_jobs=context.settings.max_open_jobs,
        key=caller.key,
        retention_days=caller.retention_days(context),
    )
    job_id = job.id
    if created:
        context.storage.prepare_job(job_id)
        audit.append(session, caller.who, JOB_FILED, job=job_id, scan=scan.id)
    session.commit()
    if created:
        log.info("job.queued", extra={"job_id": str(job_id)})
        queue.ring(jobs.waiting(session, job_id))
    return _accepted(session, caller, job_id, {} if created else {"Idempotency-Replayed": "true"})


def _method(context: Context, scan: Scan, asked: JobOptions) -> Parameters:
    """The parameters, complete; the scan's modality has the method and the prior."""
    modality = Modality(scan.header["modality"])
    try:
        method = complete(asked.parameters, modality)
    except ValidationError as error:
        raise of_validation(error, ("parameters",)) from error
    require(method, [name for name in ("reference", "guide") if scan.header.get(f"has_{name}")])
    require_random(method, asked.seeds)
    card_of(method, modality, context.settings.priors_folders(scan.tenant))  # refuses a prior that is not there
    return method


def _slices(scan: Scan, asked: JobOptions) -> list[int]:
    count = int(scan.header["slices"])
    wanted = list(range(count)) if asked.slices is None else asked.slices
    if outside := [number for number in wanted if number >= count]:
        raise Invalid.at(
            "slices", f"the scan has {count} slices", found=f"{outside}", expected=f"numbers from 0 to {count - 1}"
        )
    return wanted


def _fingerprint(scan: Scan, asked: JobOptions) -> str:
    """Hash of what was asked for, however it was spelt: the same request has the same one."""
    asked_for: dict[str, Any] = asked.model_dump(mode="json", exclude={"scan_id"})
    asked_for |= {"scan": scan.sha256, "parameters": asked.parameters.model_dump(mode="json", exclude_unset=True)}
    return hashlib.sha256(json.dumps(asked_for, sort_keys=True).encode()).hexdigest()


def _accepted(session: Session, caller: Caller, job_id: uuid.UUID, headers: dict[str, str] | None = None) -> Response:
    """202 with the job as it stands."""
    body = views.one_job(session, caller.tenant, job_id).model_dump_json()
    headers = {"Location": f"/v1/jobs/{job_id}", "Retry-After": POLL_SECONDS, **(headers or {})}
    return Response(body, 202, headers, "application/json")


@router.get(
    "/v1/jobs",
    summary="Jobs, newest first",
    response_model=Page[JobItem],
    responses=answers({200: page(JOB_ITEM, "AZjC9Rsif-CKQZPH1eKm8A")}, 304, 422, 503),
)
def list_jobs(
    request: Request,
    context: ContextDep,
    caller: Reader,
    status: Status | None = None,
    scan_id: uuid.UUID | None = None,
    tag: Annotated[str | None, Query(description="`key:value`, or `key` for any value", max_length=321)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> Response:
    """`Link: rel="next"` leads to the next page. Verdicts and webhooks are told of one job at a time."""
    with context.sessions() as session:
        found = views.job_page(
            session, caller.tenant, status=status, scan_id=scan_id, tag=tag, limit=limit, cursor=cursor
        )
    return tagged_json(request, found, next_link(request, found.next_cursor))


@router.get(
    "/v1/jobs/{job_id}",
    summary="A job and how it stands",
    response_model=JobOut,
    responses=answers({200: JUDGED_JOB}, 304, 404, 422, 503),
)
async def get_job(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to hold the answer until the status changes")] = 0,
) -> Response:
    """Carries `Retry-After` until it has ended."""
    job = await _awaited(context, caller.tenant, job_id, wait)
    return tagged_json(request, job, {} if job.status.ended else {"Retry-After": POLL_SECONDS})


async def _awaited(context: Context, tenant: str, job_id: uuid.UUID, seconds: float) -> JobOut:
    """The job as soon as its status is another than now, at the latest after these seconds."""
    deadline = time.monotonic() + seconds
    with context.watcher.watch(job_id) as changed:
        first = job = await run_in_threadpool(views.read_job, context.reads, tenant, job_id)
        while not job.status.ended and job.status == first.status and (left := deadline - time.monotonic()) > 0:
            await context.watcher.wait(changed, left)
            job = await run_in_threadpool(views.read_job, context.reads, tenant, job_id)
            if context.watcher.closing:
                break
        return job


@router.post(
    "/v1/jobs/{job_id}/cancel",
    status_code=202,
    summary="Cancel a job",
    response_model=JobOut,
    responses=answers({202: JOB}, 404, 409, 422, 503),
)
def cancel_job(context: ContextDep, caller: Writer, job_id: uuid.UUID) -> Response:
    """Takes effect within seconds; a job that has ended cannot be cancelled."""
    with context.sessions() as session:
        jobs.request_cancel(session, job_id, caller.tenant)
        audit.append(session, caller.who, "job.cancelled", job=job_id)
        session.commit()
        return _accepted(session, caller, job_id)


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    summary="Retry a failed job",
    response_model=JobOut,
    responses=answers({202: JOB}, 404, 409, 422, 503),
)
def retry_job(context: ContextDep, caller: Writer, job_id: uuid.UUID) -> Response:
    """Goes on from its checkpoints."""
    with context.sessions() as session:
        jobs.retry(session, job_id, caller.tenant)
        audit.append(session, caller.who, "job.retried", job=job_id)
        session.commit()
        queue.ring(jobs.waiting(session, job_id))
        return _accepted(session, caller, job_id)


@router.delete("/v1/jobs/{job_id}", status_code=204, summary="Delete a job", responses=answers({}, 204, 404, 422, 503))
def delete_job(context: ContextDep, caller: Writer, job_id: uuid.UUID) -> Response:
    """Cancels it first; its results and checkpoints go with it."""
    with context.sessions() as session:
        jobs.delete(session, job_id, caller.tenant)
        audit.append(session, caller.who, "job.deleted", job=job_id)
        session.commit()
    context.storage.delete_job(job_id)
    return Response(status_code=204)
