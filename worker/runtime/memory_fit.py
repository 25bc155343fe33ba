"""Memory admission: which slices fit beside the running ones of a machine or a GPU, by the estimates of their jobs."""

import uuid
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from udig_recon.worker.database import locks
from udig_recon.worker.database.tables import Job, JobSlice, Status, Worker

PASSED_BY = timedelta(minutes=2)  # so long others may begin before a slice that is too large for what is free


class Room(NamedTuple):
    """Memory of a machine or a GPU, of which some is in use."""

    total: int
    free: int

    def fits(self) -> ColumnElement[bool]:
        """Condition that a job's slices may start. A slice larger than the machine may start when it has all of it."""
        return func.least(func.coalesce(Job.memory_bytes, 0), self.total) <= self.free

    def takes(self, session: Session, job_id: uuid.UUID) -> bool:
        """Whether a slice of the job may start."""
        return bool(session.scalar(select(self.fits()).where(Job.id == job_id)))

    def is_kept_for(self, session: Session, job_id: uuid.UUID) -> bool:
        """Whether a slice of the job has waited so long that the machine is kept free for it."""
        since = select(func.min(JobSlice.queued_at)).where(JobSlice.job_id == job_id, JobSlice.status == Status.QUEUED)
        ended = select(func.max(JobSlice.finished_at)).where(JobSlice.job_id == job_id)
        # From when it began to wait, or had its last turn.
        last = func.greatest(since.scalar_subquery(), ended.scalar_subquery())
        return bool(session.scalar(select(last < func.now() - PASSED_BY)))


def room(session: Session, worker: str, total: int) -> Room:
    """Memory that the other workers of this machine leave free. None of them claims until the transaction ends."""
    machine, _, _ = worker.partition(":")
    locks.acquire_machine(session, machine)
    others = JobSlice.worker.startswith(f"{machine}:", autoescape=True) & (JobSlice.worker != worker)
    query = select(func.coalesce(func.sum(func.coalesce(Job.memory_bytes, 0)), 0)).join(
        JobSlice, JobSlice.job_id == Job.id
    )
    taken = session.scalar(query.where(JobSlice.status == Status.RUNNING, others)) or 0
    return Room(total, max(0, total - int(taken)))


def gpu_room(session: Session, worker: str, gpu: str, total: int, free: int) -> Room:
    """Memory that the other workers on a GPU leave free. None of them claims until the transaction ends.

    `free` is what the driver tells, and counts beside running slices only: they may not have taken all they will, and
    other programs may have some. Alone on the GPU a slice is tried in any case.
    """
    locks.acquire_machine(session, gpu)
    query = (
        select(func.count(), func.coalesce(func.sum(func.coalesce(Job.memory_bytes, 0)), 0))
        .select_from(JobSlice)
        .join(Job, Job.id == JobSlice.job_id)
        .join(Worker, Worker.name == JobSlice.worker)
        .where(JobSlice.status == Status.RUNNING, Worker.gpu == gpu, Worker.name != worker)
    )
    running, taken = session.execute(query).one()
    return Room(total, max(0, min(total - int(taken), free)) if running else total)
