"""Endpoints of results: files in any output format, and previews as PNG while a job runs."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from udig_recon.api.access.authentication import Caller, Reader, record_access
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.conditional import file_headers, file_response, negotiate_format, not_modified, with_etag
from udig_recon.api.http.problems import Conflict, Gone, Invalid, NotFound
from udig_recon.api.jobs import queries, stored_files
from udig_recon.api.jobs.schemas import OutputName
from udig_recon.api.openapi.content import Content
from udig_recon.api.openapi.responses import FILE_REQUEST_HEADERS, request_header, responses
from udig_recon.core import metrics
from udig_recon.core.acquisition import frame_labels, frames_of
from udig_recon.core.results import png
from udig_recon.core.results.output_format import Image
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.core.results.store import SliceResult
from udig_recon.core.results.views import draw_view, views_of
from udig_recon.worker.database.tables import Job, JobSlice, Scan, Status

router = APIRouter(tags=["results"])
_RESULT = [Content.binary(each.media_type, "(bytes of the file)") for each in OUTPUTS.values()]
_PREVIEW = Content.binary("image/png", "(bytes of the picture)")
View = Literal["magnitude", "direct", "reference", "error", "direct_error", "comparison", "deviation", "hallucination"]
WANTS = {
    "reference": "the scan has no reference",
    "error": "the scan has no reference",
    "direct_error": "the scan has no reference",
    "deviation": "the job has one seed, or no two are done yet",
    "hallucination": "the method has no prior, or the slice is not finished yet",
}
WINDOW_LEVELS = "Window-Levels"
"""Header of a preview: the black and the white level that it was drawn with, in the image's unit."""
_LEVEL = r"-?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?"


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="The result as a file",
    response_class=Response,
    responses=responses({200: _RESULT}, 206, 304, 307, 404, 406, 409, 410, 416, 422, 500, 503, 507),
    openapi_extra={"parameters": [request_header("Accept", "image/png"), *FILE_REQUEST_HEADERS]},
)
def get_job_result(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    format_: Annotated[
        OutputName | None, Query(alias="format", description="wins over Accept; neither: the job's first output")
    ] = None,
) -> Response:
    """A format that is not among the job's outputs is written on the first request for it.

    307: the file lies in a bucket, at an address that is good for some minutes (RESULT_REDIRECT). `Repr-Digest` of this
    answer is that of the file.
    """
    with context.sessions() as session:
        job = queries.job_row(session, caller.tenant, job_id)
    if job.expired:
        raise _gone(job)
    if job.status is not Status.SUCCEEDED or job.result is None:
        raise Conflict(f"the job is {job.status}; a result is there once it has succeeded", job_status=job.status)
    # A job may have been posted with a format that is not installed any more.
    first = OUTPUTS.get(job.outputs[0], OUTPUTS["h5"])
    accept = request.headers.get("accept", "")
    wanted = OUTPUTS[format_] if format_ else negotiate_format(accept, first, OUTPUTS.values())
    result = stored_files.StoredResult.of(job)
    method = "HEAD" if request.scope.get("head") else "GET"
    if context.settings.result_redirect and (signed := stored_files.signed_result(context, result, wanted, method)):
        headers = {**file_headers(signed.sha256), "Vary": "Accept"}
        if not_modified(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        record_access(context, caller, "result.read", job=job_id)
        return Response(status_code=307, headers={**headers, "Location": signed.url})
    file = stored_files.result_file(context, result, wanted)
    headers = {**file_headers(file.sha256), "Vary": "Accept"}
    if not_modified(request, headers["ETag"], file.info.modified):
        return Response(status_code=304, headers=headers)
    record_access(context, caller, "result.read", job=job_id)
    damaged = partial(stored_files.damaged_result, context, job_id, file.key)
    return file_response(request, file, wanted.media_type, f"{job_id}{wanted.suffix}", headers, damaged)


def _gone(job: Job) -> Gone:
    return Gone(f"what job {job.id} made is no longer kept; post scan and job again")


@router.get(
    "/v1/jobs/{job_id}/preview.png",
    summary="A picture, also while the job runs",
    response_class=Response,
    responses=responses({200: _PREVIEW}, 304, 404, 409, 410, 422, 500, 503),
)
def get_job_preview(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    slice_: Annotated[int | None, Query(alias="slice", ge=0, description="none: the first that can be shown")] = None,
    _iteration: Annotated[Literal["latest"], Query(alias="iteration", description="which one of the slice")] = "latest",
    view: Annotated[View, Query(description="what is drawn")] = "magnitude",
    window: Annotated[
        str | None,
        Query(
            description="`low,high`: black and white level in the image's unit; none: 0 and nearly the brightest of "
            "the slice",
            pattern=f"^{_LEVEL},{_LEVEL}$",
            max_length=80,
        ),
    ] = None,
) -> Response:
    """`direct` is the zero-filled image or filtered back-projection, and `comparison` sets it beside the image.

    `reference`, `error` and `direct_error` (both times 5) need a scan with a reference. `deviation` (times 5) is that
    of several seeds; `hallucination` marks what a prior may have invented, in red. Errors and deviations are drawn
    from 0 to the width of the window. The header `Window-Levels` tells the levels.
    """
    levels = None if window is None else _levels(window)
    shown = _latest(context, caller, job_id, slice_)
    drawn = levels or png.display_window(shown.result.image)
    picture = _picture(shown, view, levels)
    headers = {WINDOW_LEVELS: f"{drawn[0]:.6g},{drawn[1]:.6g}"}
    answer = with_etag(request, picture, "image/png", headers)
    if answer.status_code == 200:
        record_access(context, caller, "preview.read", job=job_id)
    return answer


@dataclass(frozen=True)
class _Latest:
    """The latest image of a slice, and what its picture tells of it."""

    result: SliceResult
    method: str
    spacing_mm: Sequence[float] | None  # (y, x); not known any more once the scan was deleted
    frame: str | None  # where the scan has frames, and is still there


def _levels(window: str) -> png.Window:
    """Black and white level of a request. Raises Invalid."""
    low, high = map(float, window.split(","))
    if not low < high < math.inf:
        raise Invalid.at("window", "black is not below white", found=window, expected="low,high with low < high")
    return low, high


def _picture(latest: _Latest, view: View, levels: png.Window | None) -> bytes:
    """The view on a window; without one on that of the slice, or for an error that of the reference."""
    shown, spacing_mm = latest.result, latest.spacing_mm
    if view == "comparison":
        return png.comparison_png(_panels(latest), shown.reference, spacing_mm=spacing_mm)
    if (picture := draw_view(view, shown, levels, spacing_mm)) is not None:
        return picture
    detail = f"there is no {view} to draw: {WANTS[view]}"
    raise Invalid.at("view", detail, found=view, expected=" | ".join(("comparison", *views_of(shown))))


def _latest(context: Context, caller: Caller, job_id: uuid.UUID, slice_: int | None) -> _Latest:
    """The latest image of the slice, or of the first that has one."""
    with context.sessions() as session:
        job = queries.job_row(session, caller.tenant, job_id)
        if job.expired:
            raise _gone(job)
        job_slices = session.scalars(select(JobSlice).where(JobSlice.job_id == job_id)).all()
        slices = {job_slice.slice: stored_files.StoredSlice.of(job, job_slice) for job_slice in job_slices}
        header = session.scalar(select(Scan.header).where(Scan.id == job.scan_id)) or {}
    if slice_ is not None and slice_ not in slices:
        found = ", ".join(str(number) for number in job.slices)
        raise Invalid.at("slice", f"slice {slice_} is not of this job", found=str(slice_), expected=found)
    labels = frame_labels(frames_of(header))
    for number in job.slices if slice_ is None else [slice_]:
        if (shown := stored_files.slice_result(context, slices[number])) is not None:
            frame = labels[number] if labels else None
            return _Latest(shown, job.parameters["method"], header.get("pixel_spacing_mm"), frame)
    if job.status.ended:
        raise NotFound(f"the job is {job.status} and left nothing to see")
    raise Conflict(f"the job is {job.status} and has nothing to see yet", job_status=job.status)


def _panels(latest: _Latest) -> list[tuple[str, Image]]:
    shown = latest.result
    name = "FBP" if shown.image_complex is None else "zero-filled"
    panels = [(name, shown.direct), (latest.method, shown.image)]
    if shown.reference is not None:
        titled = [(score_title(name, image, shown.reference), image) for name, image in panels]
        panels = [("reference", shown.reference), *titled]
    if latest.frame is not None:
        panels[0] = (f"{panels[0][0]}\n{latest.frame}", panels[0][1])
    return panels


def score_title(name: str, image: Image, reference: Image) -> str:
    """A title with what an image is worth."""
    return f"{name}\nPSNR {metrics.psnr(image, reference):.2f} dB  SSIM {metrics.ssim(image, reference):.3f}"
