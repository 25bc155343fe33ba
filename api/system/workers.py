"""Workers and the queue: who computes on what, which of the caller's slices, and how much waits by priority.

Keys belong to tenants, so that no one sees more than a tenant may: of another tenant's slice only that a worker is
busy. The queue's depth is over all tenants, as in /metrics.
"""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Reader
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.openapi.responses import responses
from udig_recon.api.system.schemas import QueueOut, WorkerOut, WorkersOut
from udig_recon.worker.access.keys import priority_name
from udig_recon.worker.database.tables import OPEN, Job, JobSlice, Priority, Status, Worker

router = APIRouter(tags=["workers"])
_WAITS = JobSlice.status == Status.QUEUED
_QUEUE = (
    select(
        Job.priority,
        func.count().filter(_WAITS).label("queued_slices"),
        func.count().filter(JobSlice.status == Status.RUNNING).label("running_slices"),
        func.count(Job.id.distinct()).filter(_WAITS).label("waiting_jobs"),
        func.extract("epoch", func.now() - func.min(JobSlice.queued_at).filter(_WAITS)).label("oldest_waiting_seconds"),
    )
    .join(JobSlice)
    .where(Job.status.in_(OPEN), Job.scan_id.is_not(None), JobSlice.status.in_(OPEN))
    .group_by(Job.priority)
)


@router.get("/v1/workers", summary="Workers and the queue", responses=responses({200: WorkersOut}, 503))
def list_workers(context: ContextDep, caller: Reader, response: Response) -> WorkersOut:
    """Workers that were seen within the last hour, by name, and the slices that wait, the most urgent first.

    `slice` is what a worker is at, where that is a slice of the caller's tenant.
    """
    response.headers["Cache-Control"] = "no-store"
    with context.sessions() as session:
        return workers_and_queue(session, caller.tenant, context.settings.alive_seconds)


def workers_and_queue(session: Session, tenant: str, alive_seconds: float) -> WorkersOut:
    """Workers as a tenant may see them, and the queue."""
    items = [_worker(row, alive_seconds) for row in session.execute(_workers(tenant)).mappings()]
    depths = {row["priority"]: row for row in session.execute(_QUEUE).mappings()}
    queue = [_depth(priority, depths.get(priority)) for priority in sorted(Priority, reverse=True)]
    return WorkersOut(items=items, queue=queue)


def _workers(tenant: str) -> Select[Any]:
    names = ("job_id", "slice", "iteration", "iterations", "claimed_at")
    own_slice = func.jsonb_build_object(*(part for name in names for part in (name, getattr(JobSlice, name))))
    return (
        select(
            *Worker.__table__.c,
            func.extract("epoch", func.now() - Worker.seen_at).label("heartbeat_age_seconds"),
            JobSlice.job_id.is_not(None).label("busy"),
            case((Job.tenant == tenant, own_slice)).label("slice"),
        )
        .outerjoin(JobSlice, (JobSlice.worker == Worker.name) & (JobSlice.status == Status.RUNNING))
        .outerjoin(Job, Job.id == JobSlice.job_id)
        .order_by(Worker.name)
    )


def _worker(row: Any, alive_seconds: float) -> WorkerOut:
    age = max(0.0, float(row["heartbeat_age_seconds"]))
    state = "lost" if age > alive_seconds else "busy" if row["busy"] else "idle"
    return WorkerOut.model_validate({**row, "heartbeat_age_seconds": round(age, 1), "state": state})


def _depth(priority: Priority, row: Any) -> QueueOut:
    none = dict.fromkeys(("queued_slices", "running_slices", "waiting_jobs"), 0)
    counted: dict[str, Any] = {**none, "oldest_waiting_seconds": None, **(row or {})}
    if (oldest := counted["oldest_waiting_seconds"]) is not None:
        counted["oldest_waiting_seconds"] = round(max(0.0, float(oldest)), 1)
    return QueueOut.model_validate({**counted, "priority": priority_name(priority)})
