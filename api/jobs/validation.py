"""Validation of a job against its scan, its tenant's limits and the installed priors."""

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.orm import Session

from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Invalid
from udig_recon.api.http.validation_errors import problem_of_validation
from udig_recon.api.jobs.schemas import JobOptions
from udig_recon.core.acquisition import Modality, frames_of, slice_number_range
from udig_recon.core.cost.estimate import Task
from udig_recon.core.parameters import Parameters, check_views, complete, require, require_random
from udig_recon.core.preprocessing.options import check_rotation_center
from udig_recon.core.priors.card import card_of
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.jobs import estimates
from udig_recon.worker.jobs.estimates import task_of


def method_for(context: Context, scan: Scan, method: Parameters, *where: str) -> Parameters:
    """The parameters, which stand at `where` in the request, complete; the scan's modality has method and prior.

    Raises Invalid, UnsupportedScan and MissingPrior.
    """
    modality = Modality(scan.header["modality"])
    try:
        method = complete(method, modality)
    except ValidationError as error:
        raise problem_of_validation(error, where) from error
    if modality is Modality.CT:
        check_views(method, int(scan.header["views"]))
        check_rotation_center(method.rotation_center, int(scan.header["detectors"]))
    require(method, [name for name in ("reference", "guide") if scan.header.get(f"has_{name}")])
    card_of(method, modality, context.settings.priors_folders(scan.tenant))  # refuses a prior that is not there
    return method


def task_for(
    context: Context,
    session: Session,
    scan: Scan,
    method: Parameters,
    slices: Sequence[int],
    *,
    seeds: int = 1,
    outputs: Sequence[str] = ("h5",),
) -> Task:
    """What a job will cost on this service."""
    folders = context.settings.priors_folders(scan.tenant)
    card = card_of(method, Modality(scan.header["modality"]), folders)
    factor = context.factors.of(session, method.method)
    return task_of(scan, method, slices, seeds=seeds, outputs=outputs, card=card, factor=factor)


def slices_of(scan: Scan, asked: Sequence[int] | None) -> list[int]:
    """The requested slice numbers, or all. Raises Invalid when the scan lacks one."""
    count = int(scan.header["slices"])
    if asked is None:
        return list(range(count))
    if outside := [number for number in asked if number >= count]:
        frames = frames_of(scan.header)
        detail = f"scan {scan.id} has {count} {'frames' if frames else 'slices'}"
        expected = f"numbers from {slice_number_range(count, frames)}"
        raise Invalid.at("slices", detail, found=f"{outside}", expected=expected)
    return list(asked)


def estimate_job(
    context: Context, session: Session, scan: Scan, asked: JobOptions, outputs: Sequence[str], limits: TenantLimits
) -> Task:
    """Complete parameters and cost of a job. Raises TooCostly beyond the limits."""
    method = method_for(context, scan, asked.parameters, "parameters")
    require_random(method, asked.seeds)
    slices = slices_of(scan, asked.slices)
    task = task_for(context, session, scan, method, slices, seeds=asked.seeds, outputs=outputs)
    memory = estimates.largest_memory(session, context.settings.alive_seconds)
    estimates.check(task, limits, memory, confirmed=asked.max_seconds is not None)
    return task


def time_limit(limits: TenantLimits, asked: float | None) -> float | None:
    """The requested time limit (s), or the tenant's. Raises Invalid beyond the tenant's."""
    most = limits.max_job_seconds
    if asked is not None and most is not None and asked > most:
        detail = f"a job of this tenant may compute for {most} s (max_job_seconds)"
        raise Invalid.at("max_seconds", detail, found=f"{asked:g}", expected=f"at most {most}")
    return most if asked is None else asked
