"""Routes of the pages that list: jobs, comparisons, priors, workers and the queue; and of a comparison.

Each list is refreshed in place: htmx asks for its page again, and is answered with the list alone.
"""

import uuid
from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, StringConstraints
from sqlalchemy import false, func, select
from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Caller, Reader
from udig_recon.api.comparisons import panels
from udig_recon.api.comparisons import queries as comparison_queries
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.http.pagination import PageDep
from udig_recon.api.jobs import queries as job_queries
from udig_recon.api.jobs.schemas import NO_NUL
from udig_recon.api.pages.rendering import PageRoute, page
from udig_recon.api.system.methods import method_list
from udig_recon.api.system.workers import workers_and_queue
from udig_recon.core.comparison.ranking import rank_methods
from udig_recon.core.comparison.tables import NOTE, RATING_HEADINGS, rating_rows, sampling_tables
from udig_recon.core.parameters import METHODS
from udig_recon.core.priors.card import cards
from udig_recon.core.quality.rating import RatingLevel
from udig_recon.worker.database.tables import Scan, Status

router = APIRouter(include_in_schema=False, route_class=PageRoute)
PRESELECTED = ("udig_dip", "tv")
"""Methods of a new comparison."""
MOST_SCANS = 100
"""To choose from for a new comparison."""


def _none_if_empty(given: Any) -> Any:
    """Forms send empty text for what nobody chose."""
    return None if given == "" else given


Chosen = BeforeValidator(_none_if_empty)
MethodName = Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)]
TagFilter = Annotated[str, StringConstraints(max_length=321, pattern=NO_NUL)]


@router.get("/jobs")
def show_jobs(
    request: Request,
    context: ContextDep,
    caller: Reader,
    page_request: PageDep,
    status: Annotated[Status | None, Chosen, Query()] = None,
    rating: Annotated[RatingLevel | None, Chosen, Query()] = None,
    method: Annotated[MethodName | None, Chosen, Query()] = None,
    tag: Annotated[TagFilter | None, Chosen, Query()] = None,
    scan_id: Annotated[uuid.UUID | None, Chosen, Query()] = None,
    comparison_id: Annotated[uuid.UUID | None, Chosen, Query()] = None,
) -> Response:
    """Jobs, newest first, with their ratings and progress."""
    filters: dict[str, Any] = {
        "status": status,
        "rating": rating,
        "method": method,
        "tag": tag,
        "scan_id": scan_id,
        "comparison_id": comparison_id,
    }
    with context.sessions() as session:
        found = job_queries.job_page(session, caller.tenant, **filters, page=page_request)
        names = _scan_names(session, caller, {job.scan_id for job in found.items if job.scan_id is not None})
    query = urlencode({name: str(value) for name, value in filters.items() if value is not None})
    return _list_page(
        request,
        "jobs",
        jobs=found.items,
        names=names,
        filters=filters,
        query=f"?{query}" if query else "",
        page_request=page_request,
        next_cursor=found.next_cursor,
        statuses=[each.value for each in Status],
        ratings=get_args(RatingLevel),
        methods=sorted(METHODS),
    )


@router.get("/comparisons")
def show_comparisons(request: Request, context: ContextDep, caller: Reader, page_request: PageDep) -> Response:
    """Comparisons, newest first, with their progress."""
    with context.sessions() as session:
        found = comparison_queries.comparison_page(session, caller.tenant, page_request)
    return _list_page(
        request,
        "comparisons",
        comparisons=found.items,
        page_request=page_request,
        next_cursor=found.next_cursor,
    )


@router.get("/comparisons/new")
def show_comparison_form(request: Request, context: ContextDep, caller: Reader) -> Response:
    """The form of a new comparison."""
    query = (
        select(Scan.id, Scan.filename, Scan.created_at, Scan.header["modality"].astext.label("modality"))
        .add_columns(Scan.header["slices"].as_integer().label("slices"))
        .add_columns(func.coalesce(Scan.header["has_reference"].as_boolean(), false()).label("has_reference"))
        .where(Scan.tenant == caller.tenant)
        .order_by(Scan.id.desc())
        .limit(MOST_SCANS)
    )
    with context.sessions() as session:
        scans = session.execute(query).all()
    return page(request, "comparison_form.html", scans=scans, methods=method_list(), preselected=PRESELECTED)


@router.get("/comparisons/{comparison_id}")
def show_comparison(request: Request, context: ContextDep, caller: Reader, comparison_id: uuid.UUID) -> Response:
    """A comparison: progress, images, ranking, table."""
    with context.sessions() as session:
        found = comparison_queries.read_comparison(session, caller.tenant, comparison_id)
        entries = comparison_queries.slice_entries(session, comparison_id)
        planned = panels.slices_of(session, comparison_id)
        names = _scan_names(session, caller, found.scan_ids)
    template = "comparison_results.html" if _is_refresh(request) else "comparison.html"
    return page(
        request,
        template,
        found=found,
        names=names,
        slices={
            "scans": list(dict.fromkeys(each.scan_id for each in planned)),
            "numbers": sorted({each.slice for each in planned}),
            "seeds": sorted({each.seed for each in planned}),
        },
        tables=sampling_tables(entries),
        ratings=rating_rows(entries),
        rating_headings=RATING_HEADINGS,
        rankings=[each for each in rank_methods(entries) if each.methods],
        note=NOTE,
    )


@router.get("/priors")
def show_priors(request: Request, context: ContextDep, caller: Reader) -> Response:
    """Priors with their cards."""
    return page(request, "priors.html", cards=cards(context.settings.priors_folders(caller.tenant)))


@router.get("/workers")
def show_workers(request: Request, context: ContextDep, caller: Reader) -> Response:
    """Workers with what they are at, and the queue."""
    with context.sessions() as session:
        found = workers_and_queue(session, caller.tenant, context.settings.alive_seconds)
    return _list_page(request, "workers", workers=found.items, queue=found.queue)


def _list_page(request: Request, name: str, **shown: Any) -> Response:
    """A page with a list, or the list alone where htmx refreshes it."""
    template = f"{name}_list.html" if _is_refresh(request) else f"{name}.html"
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return page(request, template, here=here, **shown)


def _is_refresh(request: Request) -> bool:
    return "hx-request" in request.headers


def _scan_names(session: Session, caller: Caller, scan_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
    """Names of the files of scans that are still there."""
    query = select(Scan.id, Scan.filename).where(Scan.tenant == caller.tenant, Scan.id.in_(scan_ids))
    return {row.id: row.filename for row in session.execute(query)}
