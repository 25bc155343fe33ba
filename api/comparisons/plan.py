"""Plan of a comparison: the jobs of each method on each scan that it applies to, with each seed."""

import uuid
from collections.abc import Sequence

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.api.comparisons.schemas import MOST_JOBS, MOST_SLICES, ComparedMethod, ComparisonIn
from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Invalid, NotFound
from udig_recon.api.jobs.validation import method_for, slices_of, task_for
from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.comparison.entries import sampling_of
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.parameters import Parameters
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.jobs import estimates
from udig_recon.worker.jobs.comparisons import Compared

_HEADER = TypeAdapter(ScanHeader)


def plan_runs(
    context: Context, session: Session, tenant: str, asked: ComparisonIn, limits: TenantLimits
) -> list[Compared]:
    """The jobs of a comparison: seed by seed, so that early entries are of all scans and methods."""
    scans = _scans(session, tenant, asked.scan_ids)
    _check_names(asked.methods)
    pairs = _pairs(scans, asked.methods)
    slices = {scan.id: slices_of(scan, asked.slices) for scan in scans}
    _check_number(len(asked.seeds), [len(slices[scan.id]) for scan, _ in pairs])
    completed = [_run_of(context, scan, asked.methods, number) for scan, number in pairs]
    tasks = [
        task_for(context, session, scan, method, slices[scan.id])
        for (scan, _), method in zip(pairs, completed, strict=True)
    ]
    memory = estimates.largest_memory(session, context.settings.alive_seconds)
    for (_, number), task in zip(pairs, tasks, strict=True):
        estimates.check(task, limits, memory, where=f"methods.{number}.")
    return [
        Compared(
            label=asked.methods[number].name,
            sampling=sampling_of(_HEADER.validate_python(scan.header)),
            scan=scan,
            method=method,
            slices=slices[scan.id],
            seed=seed,
            task=task,
        )
        for seed in asked.seeds
        for (scan, number), method, task in zip(pairs, completed, tasks, strict=True)
    ]


def _scans(session: Session, tenant: str, scan_ids: Sequence[uuid.UUID]) -> list[Scan]:
    """The tenant's scans of these ids."""
    found = {
        scan.id: scan for scan in session.scalars(select(Scan).where(Scan.tenant == tenant, Scan.id.in_(scan_ids)))
    }
    if missing := [str(each) for each in scan_ids if each not in found]:
        raise NotFound(f"there is no scan {', '.join(missing)}; GET /v1/scans lists those there are")
    return [found[each] for each in scan_ids]


def _check_names(methods: Sequence[ComparedMethod]) -> None:
    names = [method.name for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        detail = f"methods are told apart by their names, and several are called {', '.join(twice)}"
        raise Invalid.at("methods", detail, found=", ".join(twice), expected="a label of its own for each")


def _pairs(scans: Sequence[Scan], methods: Sequence[ComparedMethod]) -> list[tuple[Scan, int]]:
    """Each scan with the number of each method that applies to it.

    A method that applies to none of them stays, to be refused when it is completed.
    """
    there = {scan.header["modality"] for scan in scans}
    pairs = []
    for scan in scans:
        modality = scan.header["modality"]
        fitting = [
            number
            for number, method in enumerate(methods)
            if modality in method.parameters.modalities or there.isdisjoint(method.parameters.modalities)
        ]
        if not fitting:
            detail = f"scan {scan.id} is {modality}, which none of these methods reconstructs"
            raise Invalid.at("scan_ids", detail, found=str(scan.id), expected=f"a method for {modality} too")
        pairs += [(scan, number) for number in fitting]
    return pairs


def _check_number(seeds: int, slices: Sequence[int]) -> None:
    jobs, wanted = seeds * len(slices), seeds * sum(slices)
    for number, most, of in ((jobs, MOST_JOBS, "jobs"), (wanted, MOST_SLICES, "slices to reconstruct")):
        if number > most:
            detail = f"scans, methods and seeds make {number} {of}; a comparison has at most {most}"
            raise Invalid.at("body", detail, found=f"{number} {of}", expected=f"at most {most}")


def _run_of(context: Context, scan: Scan, methods: Sequence[ComparedMethod], number: int) -> Parameters:
    """The method of that number, complete for the scan."""
    where = ("methods", str(number), "parameters")
    try:
        return method_for(context, scan, methods[number].parameters, *where)
    except ReconstructionError as error:
        name, field = methods[number].name, f"methods.{number}.{error.field}"
        raise type(error)(
            f"{name} on scan {scan.id}: {error}", field=field, found=error.found, expected=error.expected
        ) from error
