"""Life of a comparison as changes of its rows: submit, cancel, delete. Its jobs are jobs like any; nothing commits."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.core.acquisition import frames_of
from udig_recon.core.cost.estimate import Task
from udig_recon.core.parameters import Parameters
from udig_recon.core.slice_order import reference_slices
from udig_recon.worker.access.admission import IllegalMove, admit, requested_resources
from udig_recon.worker.access.tenants import hold
from udig_recon.worker.database.engine import notify
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.tables import OPEN, Comparison, Job, Scan
from udig_recon.worker.jobs import lifecycle
from udig_recon.worker.jobs.estimates import columns
from udig_recon.worker.jobs.lifecycle import Submitter
from udig_recon.worker.storage.scans import end_of

OUTPUTS = ["h5"]


@dataclass(frozen=True)
class Compared:
    """One job of a comparison."""

    label: str  # what its method is called there
    sampling: str  # as `udig_recon.core.comparison` names that of its scan
    scan: Scan
    method: Parameters  # complete
    slices: Sequence[int]
    seed: int
    task: Task | None = None  # what it will cost


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """A comparison that is asked for: its jobs, and the request as it is stored."""

    tenant: str
    runs: Sequence[Compared]
    request: dict[str, Any]
    traceparent: str | None = None
    idempotency_key: str | None = None
    request_sha256: str | None = None  # of the body sent with the idempotency key
    max_seconds: float | None = None  # that each job may compute
    webhook_url: str | None = None  # told when the last of its jobs has ended


def submit(session: Session, request: ComparisonRequest, submitter: Submitter) -> tuple[Comparison, Sequence[Job]]:
    """Queue the jobs of a comparison, all of them or none; no jobs where the same key and request made it before.

    Raises TooManyOpenJobs, QuotaReached, IdempotencyConflict, and IllegalMove when a scan was deleted meanwhile.
    """
    tenant, runs = request.tenant, request.runs
    hold(session, tenant)
    known = lifecycle.by_key(session, Comparison, tenant, request.idempotency_key, request.request_sha256)
    if known is not None:
        return known, []
    estimated = [{} if run.task is None else columns(run.task, request.max_seconds) for run in runs]
    wanted = requested_resources([run.slices for run in runs], estimated)
    scan_ids = {run.scan.id for run in runs}
    admit(session, tenant, scan_ids, wanted, submitter.max_open_jobs, submitter.key, submitter.limits)
    owner = {
        "tenant": tenant,
        "key_id": None if submitter.key is None else submitter.key.id,
        "expires_at": end_of(submitter.retention_days),
    }
    comparison = Comparison(
        **owner,
        request=request.request,
        webhook_url=request.webhook_url,
        idempotency_key=request.idempotency_key,
        request_sha256=request.request_sha256,
    )
    session.add(comparison)
    session.flush()
    shared = owner | {
        "comparison_id": comparison.id,
        "tags": request.request["tags"],
        "traceparent": request.traceparent,
        "max_seconds": request.max_seconds,
    }
    # Workers take jobs by their ids: in this order.
    ids = sorted(new_id() for _ in runs)
    rows = [
        (shared | _row(job_id, run) | cost, reference_slices(run.slices, run.method, frames_of(run.scan.header)))
        for job_id, run, cost in zip(ids, runs, estimated, strict=True)
    ]
    return comparison, lifecycle.file(session, rows)


def _row(job_id: uuid.UUID, run: Compared) -> dict[str, Any]:
    return {
        "id": job_id,
        "scan_id": run.scan.id,
        "scan_warnings": lifecycle.warnings_of(run.scan),
        # The scan may be deleted before the comparison.
        "compared": {"label": run.label, "scan": str(run.scan.id), "sampling": run.sampling},
        "parameters": run.method.model_dump(mode="json"),
        "outputs": OUTPUTS,
        "slices": list(run.slices),
        "seed": run.seed,
    }


def cancel(session: Session, comparison: Comparison) -> Sequence[uuid.UUID]:
    """Cancel the jobs that have not ended; gives their ids. Raises IllegalMove when there are none."""
    going_on = _lock(session, comparison, only_open=True)
    if not going_on:
        raise IllegalMove(f"comparison {comparison.id} has ended: none of its jobs is queued or running")
    for job_id in going_on:
        lifecycle.request_cancel(session, job_id, comparison.tenant)
    return going_on


def delete(session: Session, comparison: Comparison) -> Sequence[uuid.UUID]:
    """Delete the rows of a comparison and of its jobs; gives the ids of those, whose files go after the commit."""
    job_ids = _lock(session, comparison)
    session.execute(sql_delete(Job).where(Job.id.in_(job_ids)))
    session.delete(comparison)
    for id_ in (*job_ids, comparison.id):
        notify(session, id_)
    return job_ids


def _lock(session: Session, comparison: Comparison, *, only_open: bool = False) -> Sequence[uuid.UUID]:
    """Its jobs, held in the order of their ids, as whoever holds several does: no deadlocks."""
    query = select(Job.id).where(Job.comparison_id == comparison.id).order_by(Job.id).with_for_update()
    return session.scalars(query.where(Job.status.in_(OPEN)) if only_open else query).all()
