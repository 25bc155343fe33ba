"""Panels of a comparison: one slice by each method, from stored results."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Conflict, Invalid, truncate
from udig_recon.api.jobs.results import score_title
from udig_recon.api.jobs.stored_files import StoredSlice, slice_result
from udig_recon.core.acquisition import frame_labels, frames_of
from udig_recon.core.results.png import insets_png
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import Job, JobSlice, Scan


@dataclass(frozen=True)
class PanelSlice:
    """A slice by one method."""

    label: str
    sampling: str
    scan_id: uuid.UUID
    seed: int
    slice: int
    spacing_mm: Sequence[float] | None  # (y, x); None: the scan was deleted
    frame: str | None  # which contrast, phase ... it is, where the scan has frames and is still there
    made: StoredSlice | None  # None: not done yet


def slices_of(session: Session, comparison_id: uuid.UUID) -> list[PanelSlice]:
    """All slices of a comparison, in the order in which its jobs were filed."""
    query = (
        select(Job, JobSlice, Scan.header["pixel_spacing_mm"], Scan.header["frames"])
        .join(JobSlice)
        .outerjoin(Scan, Scan.id == Job.scan_id)
        .where(Job.comparison_id == comparison_id)
        .order_by(Job.id, JobSlice.slice)
    )
    return [
        PanelSlice(
            label=compared["label"],
            sampling=compared["sampling"],
            scan_id=uuid.UUID(compared["scan"]),
            seed=job.seed,
            slice=job_slice.slice,
            spacing_mm=spacing_mm,
            frame=frame_labels(frames_of({"frames": frames}))[job_slice.slice] if frames else None,
            made=None if job.result is None and job_slice.result is None else StoredSlice.of(job, job_slice),
        )
        for job, job_slice, spacing_mm, frames in session.execute(query)
        if (compared := job.compared) is not None
    ]


def select_slices(slices: Sequence[PanelSlice], **wanted: object) -> list[PanelSlice]:
    """Those of the wanted scan, seed and slice that are done; where one is None, of the first that is."""
    for name, value in wanted.items():
        offered = dict.fromkeys(getattr(each, name) for each in slices)
        if value is not None and value not in offered:
            detail = f"{name} {value} is not of this comparison"
            raise Invalid.at(name, detail, found=str(value), expected=truncate(" | ".join(map(str, offered))))
        first = next((getattr(each, name) for each in slices if each.made is not None), None)
        slices = [each for each in slices if getattr(each, name) == (first if value is None else value)]
    done = [each for each in slices if each.made is not None]
    if not done:
        raise Conflict("no method has anything to see here yet")
    return done


def draw_panel(context: Context, slices: Sequence[PanelSlice]) -> bytes:
    """PNG of the reference, if there is one, and of what is stored of the slice by each method. Raises Damaged."""
    results: dict[str, SliceResult] = {}
    for each in slices:
        if each.made is not None and (found := slice_result(context, each.made)) is not None:
            results[each.label] = found
    if not results:
        raise Conflict("what the methods have made of this slice is no longer kept")
    reference = next(iter(results.values())).reference
    images = [
        (label if reference is None else score_title(label, result.image, reference), result.image)
        for label, result in results.items()
    ]
    title = "\n".join(filter(None, ("reference", slices[0].sampling, slices[0].frame)))
    return insets_png(title, reference, images, spacing_mm=slices[0].spacing_mm)
