"""Routes of the pages: the start, where a scan is brought, and a job."""

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Caller, Reader, Visitor
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.problems import NotFound
from udig_recon.api.jobs import queries
from udig_recon.api.jobs.schemas import JobOut
from udig_recon.api.pages.rendering import PageRoute, page
from udig_recon.api.scans import queries as scan_queries
from udig_recon.api.scans.schemas import ScanOut
from udig_recon.core.acquisition import frame_labels, frames_of
from udig_recon.core.metrics import METRICS, Metric
from udig_recon.core.parameters import MAX_SEEDS
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.access.keys import priority_name
from udig_recon.worker.database.tables import Priority

router = APIRouter(include_in_schema=False, route_class=PageRoute)
_SHOWN_METRICS = ("psnr", "ssim", "nmse", "data_residual", "validation_residual", "hallucination_share", "seed_std")


@router.get("/")
def show_start(request: Request, context: ContextDep, caller: Visitor) -> Response:
    """Drop a scan, choose a method, reconstruct."""
    destinations = [name for name, each in context.destinations.items() if each.allows(caller.tenant)]
    priorities = [priority_name(each) for each in Priority if caller.key is None or each <= caller.key.max_priority]
    return page(
        request,
        "start.html",
        outputs=list(OUTPUTS.values()),
        max_seeds=MAX_SEEDS,
        destinations=destinations,
        priorities=priorities,
    )


@router.get("/jobs/{job_id}")
def show_job(request: Request, context: ContextDep, caller: Reader, job_id: uuid.UUID) -> Response:
    """A job: progress, picture, rating, result."""
    return page(request, "job.html", is_part=False, **_job(context, caller, job_id))


@router.get("/jobs/{job_id}/summary")
def show_job_summary(request: Request, context: ContextDep, caller: Reader, job_id: uuid.UUID) -> Response:
    """The part of the job's page that changes with its status."""
    return page(request, "job_summary.html", is_part=True, **_job(context, caller, job_id))


def _job(context: Context, caller: Caller, job_id: uuid.UUID) -> dict[str, Any]:
    """What both show of a job."""
    with context.sessions() as session:
        job = queries.read_job(session, caller.tenant, job_id)
        scan = _scan(session, caller, job)
    direct_name = "FBP" if scan is not None and scan.modality == "ct" else "zero-filled"
    return {
        "job": job,
        "scan": scan,
        "labels": _labels(scan, job),
        "direct_name": direct_name,
        "views": _views(job, scan, direct_name),
        "metrics": _metrics(job),
        "outputs": list(OUTPUTS.values()),
    }


def _scan(session: Session, caller: Caller, job: JobOut) -> ScanOut | None:
    if job.scan_id is None:
        return None
    try:
        return scan_queries.scan_out(scan_queries.read_scan(session, caller.tenant, job.scan_id))
    except NotFound:  # deleted since the job was read
        return None


def _labels(scan: ScanOut | None, job: JobOut) -> list[str]:
    """Names of the job's slices: which contrast, phase ... each is, or else their numbers."""
    labels = frame_labels(frames_of({"frames": [frame.model_dump() for frame in scan.frames]})) if scan else []
    return [labels[number] if labels else str(number) for number in job.slice_numbers]


def _views(job: JobOut, scan: ScanOut | None, direct_name: str) -> list[tuple[str, str, bool]]:
    """Views of `preview.png`, their names, and whether the job's images have them once it has succeeded."""
    metrics = job.metrics
    has_reference = (scan is not None and scan.has_reference) or (metrics is not None and metrics.psnr is not None)
    has_map = metrics is not None and metrics.hallucination_share is not None
    return [
        ("magnitude", "Image", True),
        ("direct", direct_name[0].upper() + direct_name[1:], True),
        ("reference", "Reference", has_reference),
        ("error", "Error ×5", has_reference),
        ("deviation", "Deviation ×5", job.seeds > 1),
        ("hallucination", "Hallucination map", has_map),
    ]


def _metrics(job: JobOut) -> list[tuple[str, str]]:
    """Names and values of the metrics that people look at."""
    if job.metrics is None:
        return []
    found = {name: getattr(job.metrics, name) for name in _SHOWN_METRICS}
    return [
        (METRICS[name].title, _measured(METRICS[name], value)) for name, value in found.items() if value is not None
    ]


def _measured(metric: Metric, value: float) -> str:
    return f"{value:.{metric.digits}f} {metric.unit}".strip()
