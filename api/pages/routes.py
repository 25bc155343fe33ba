"""Routes of the pages: the start, where a scan is brought, and a job."""

import uuid

from fastapi import APIRouter, Request, Response

from udig_recon.api.access.authentication import Reader, Visitor
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.jobs import queries
from udig_recon.api.pages.rendering import PageRoute, page

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
def show_start(request: Request, _: Visitor) -> Response:
    """Drop a scan, choose a method, reconstruct."""
    return page(request, "start.html")


@router.get("/jobs/{job_id}")
def show_job(request: Request, context: ContextDep, caller: Reader, job_id: uuid.UUID) -> Response:
    """A job: progress, picture, rating, result."""
    with context.sessions() as session:
        job = queries.read_job(session, caller.tenant, job_id)
    return page(request, "job.html", job=job)


@router.get("/jobs/{job_id}/summary")
def show_job_summary(request: Request, context: ContextDep, caller: Reader, job_id: uuid.UUID) -> Response:
    """The part of the job's page that changes with its status."""
    with context.sessions() as session:
        job = queries.read_job(session, caller.tenant, job_id)
    return page(request, "job_summary.html", job=job)
