"""Endpoints of comparisons: submit, get, list, table, ranking, panel, cancel, delete."""

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller, Reader, Writer, record_access
from udig_recon.api.comparisons import panels, queries
from udig_recon.api.comparisons.plan import plan_runs
from udig_recon.api.comparisons.schemas import ComparisonIn, ComparisonItem, ComparisonOut, RankingOut
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.conditional import json_with_etag, negotiate_format, with_etag
from udig_recon.api.http.json_body import json_body, request_body
from udig_recon.api.http.pagination import Page, PageDep, page_response
from udig_recon.api.http.problems import Conflict
from udig_recon.api.jobs.long_poll import POLL_SECONDS, wait_for_change
from udig_recon.api.openapi.content import SCAN_ID, Content
from udig_recon.api.openapi.responses import responses
from udig_recon.api.webhooks.delivery import check_webhook_url
from udig_recon.core.comparison.entries import Entry
from udig_recon.core.comparison.ranking import rank_methods
from udig_recon.core.comparison.tables import TableForm, render
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.jobs.comparisons import ComparisonRequest
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
router = APIRouter(tags=["comparisons"])
_EXAMPLE_ENTRY = Entry(
    method="udig_dip",
    scan=SCAN_ID,
    sampling="4x",
    slice=0,
    seed=0,
    psnr=33.2,
    ssim=0.91,
    nmse=0.008,
    data_residual=0.041,
    seconds=118.6,
    prior_evaluations=240,
    optimizer_steps=0,
)
_TABLES = [Content.text(form.media_type, render([_EXAMPLE_ENTRY], form)) for form in TableForm]
_PANEL = Content.binary("image/png", "(bytes of the picture)")
_ACCEPT = {"name": "Accept", "in": "header", "required": False, "schema": {"type": "string"}, "example": "text/csv"}


@router.post(
    "/v1/comparisons",
    status_code=202,
    summary="Submit a comparison of methods",
    response_model=ComparisonOut,
    responses=responses({202: ComparisonOut}, 404, 409, 413, 415, 422, 429, 503, 507),
    openapi_extra=request_body(ComparisonIn),
)
async def create_comparison(
    context: ContextDep,
    caller: Writer,
    asked: Annotated[ComparisonIn, json_body(ComparisonIn, "a comparison")],
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="same key and body: the first comparison again")
    ] = None,
) -> Response:
    """A job for each method on each scan with each seed, all of them or none; they count as any others do.

    Where the scans are of both modalities a method is tried on those that it applies to.
    """
    async with context.submission_queue.turn(caller.tenant):
        return await run_in_threadpool(_file, context, caller, asked, idempotency_key)


def _file(context: Context, caller: Caller, asked: ComparisonIn, key: str | None) -> Response:
    check_webhook_url(context.settings, asked.webhook_url)
    with context.sessions() as session:
        limits = limits_of(session, caller.tenant, context.settings)
        comparison = ComparisonRequest(
            tenant=caller.tenant,
            runs=plan_runs(context, session, caller.tenant, asked, limits),
            request=_as_stored(asked),
            traceparent=tracing.current(),
            idempotency_key=key,
            request_sha256=_fingerprint(asked),
            max_seconds=limits.max_job_seconds,
            webhook_url=asked.webhook_url,
        )
        read = partial(queries.read_comparison, session, caller.tenant)
        submitted = context.jobs.submit_comparison(session, comparison, caller.submitter(context, limits), read)
    return _accepted_response(submitted.answer, {} if submitted.created else {"Idempotency-Replayed": "true"})


def _as_stored(asked: ComparisonIn) -> dict[str, Any]:
    """The request with the names of its methods and the parameters that were given; presets differ by modality."""
    methods = [
        {"label": each.name, "parameters": each.parameters.model_dump(mode="json", exclude_unset=True)}
        for each in asked.methods
    ]
    return asked.model_dump(mode="json", exclude={"methods", "webhook_url"}) | {"methods": methods}


def _fingerprint(asked: ComparisonIn) -> str:
    """Hash of the request, for its idempotency key; the spelling of the JSON does not matter."""
    told = {} if asked.webhook_url is None else {"webhook_url": asked.webhook_url}
    return hashlib.sha256(json.dumps(_as_stored(asked) | told, sort_keys=True).encode()).hexdigest()


def _accepted_response(found: ComparisonOut, headers: dict[str, str] | None = None) -> Response:
    """202 with the comparison as it stands."""
    headers = {"Location": f"/v1/comparisons/{found.id}", "Retry-After": POLL_SECONDS, **(headers or {})}
    return Response(found.model_dump_json(), 202, headers, "application/json")


def _standing(context: Context, caller: Caller, comparison_id: uuid.UUID) -> ComparisonOut:
    with context.sessions() as session:
        return queries.read_comparison(session, caller.tenant, comparison_id)


@router.get(
    "/v1/comparisons",
    summary="List comparisons, newest first",
    response_model=Page[ComparisonItem],
    responses=responses({200: Page[ComparisonItem]}, 304, 422, 503),
)
def list_comparisons(
    request: Request,
    context: ContextDep,
    caller: Reader,
    page: PageDep,
) -> Response:
    """`Link: rel="next"` leads to the next page. GET /v1/comparisons/{comparison_id} adds entries and errors."""
    with context.sessions() as session:
        found = queries.comparison_page(session, caller.tenant, page)
    return page_response(request, found)


@router.get(
    "/v1/comparisons/{comparison_id}",
    summary="A comparison with its results so far",
    response_model=ComparisonOut,
    responses=responses({200: ComparisonOut}, 304, 404, 422, 503),
)
async def get_comparison(
    request: Request,
    context: ContextDep,
    caller: Reader,
    comparison_id: uuid.UUID,
    wait: Annotated[float, Query(ge=0, le=60, description="seconds to hold the answer until the status changes")] = 0,
) -> Response:
    """Carries `Retry-After` until all its jobs have ended. A failed job that is retried sets it going again."""
    # In a thread: with hundreds of entries it takes long enough to keep all others waiting in the event loop.
    read = partial(run_in_threadpool, _standing, context, caller, comparison_id)
    found = await wait_for_change(context, caller, request, comparison_id, read, wait)
    return json_with_etag(request, found, {} if found.status.ended else {"Retry-After": POLL_SECONDS})


@router.get(
    "/v1/comparisons/{comparison_id}/table",
    summary="Table 1 of the paper, over these scans",
    response_class=Response,
    responses=responses({200: _TABLES}, 304, 404, 406, 409, 422, 503),
    openapi_extra={"parameters": [_ACCEPT]},
)
def get_comparison_table(
    request: Request,
    context: ContextDep,
    caller: Reader,
    comparison_id: uuid.UUID,
    format_: Annotated[TableForm | None, Query(alias="format", description="wins over Accept; neither: md")] = None,
) -> Response:
    """Mean and standard deviation over scans, slices and seeds of the jobs that have succeeded, and what is printed."""
    entries = _read_entries(context, caller, comparison_id)
    wanted = format_ or negotiate_format(request.headers.get("accept", ""), TableForm.MD, TableForm, "a table")
    return with_etag(request, render(entries, wanted).encode(), wanted.media_type, {"Vary": "Accept"})


@router.get(
    "/v1/comparisons/{comparison_id}/ranking",
    summary="The methods in order, with a paired test",
    response_model=Page[RankingOut],
    responses=responses({200: Page[RankingOut]}, 304, 404, 409, 422, 503),
)
def get_comparison_ranking(request: Request, context: ContextDep, caller: Reader, comparison_id: uuid.UUID) -> Response:
    """By PSNR, one ranking for each modality: each method against the first on the slices that both have."""
    found = rank_methods(_read_entries(context, caller, comparison_id))
    return json_with_etag(request, Page(items=[RankingOut.model_validate(each) for each in found]))


def _read_entries(context: Context, caller: Caller, comparison_id: uuid.UUID) -> Sequence[Entry]:
    with context.sessions() as session:
        queries.comparison_row(session, caller.tenant, comparison_id)
        entries = queries.slice_entries(session, comparison_id)
    if not entries:
        raise Conflict("no job of the comparison has succeeded yet")
    return entries


@router.get(
    "/v1/comparisons/{comparison_id}/panel.png",
    summary="One slice by each method, as a picture",
    response_class=Response,
    responses=responses({200: _PANEL}, 304, 404, 409, 422, 500, 503),
)
def get_comparison_panel(
    request: Request,
    context: ContextDep,
    caller: Reader,
    comparison_id: uuid.UUID,
    scan_id: Annotated[uuid.UUID | None, Query(description="none: the first that can be shown")] = None,
    seed: Annotated[int | None, Query(ge=0, lt=1 << 63, description="none: the first that can be shown")] = None,
    slice_: Annotated[int | None, Query(alias="slice", ge=0, description="none: the first that can be shown")] = None,
) -> Response:
    """The reference, if there is one, then the methods that are done with this slice.

    Part of each is enlarged, and where there is a reference its error times 5.
    """
    with context.sessions() as session:
        queries.comparison_row(session, caller.tenant, comparison_id)
        slices = panels.slices_of(session, comparison_id)
    found = panels.select_slices(slices, scan_id=scan_id, seed=seed, slice=slice_)
    answer = with_etag(request, panels.draw_panel(context, found), "image/png")
    if answer.status_code == 200:
        record_access(context, caller, "panel.read", comparison=comparison_id)
    return answer


@router.post(
    "/v1/comparisons/{comparison_id}/cancel",
    status_code=202,
    summary="Cancel a comparison",
    response_model=ComparisonOut,
    responses=responses({202: ComparisonOut}, 404, 409, 422, 503),
)
def cancel_comparison(context: ContextDep, caller: Writer, comparison_id: uuid.UUID) -> Response:
    """Cancels those of its jobs that have not ended; what they have found stays."""
    with context.sessions() as session:
        comparison = queries.comparison_row(session, caller.tenant, comparison_id, for_change=True)
        read = partial(queries.read_comparison, session, caller.tenant)
        found = context.jobs.cancel_comparison(session, comparison, caller.who, read)
    return _accepted_response(found)


@router.delete(
    "/v1/comparisons/{comparison_id}",
    status_code=204,
    summary="Delete a comparison",
    responses=responses({}, 204, 404, 422, 503),
)
def delete_comparison(context: ContextDep, caller: Writer, comparison_id: uuid.UUID) -> Response:
    """Its jobs are cancelled and deleted with it, and their results."""
    with context.sessions() as session:
        comparison = queries.comparison_row(session, caller.tenant, comparison_id, for_change=True)
        context.jobs.delete_comparison(session, comparison, caller.who)
    return Response(status_code=204)
