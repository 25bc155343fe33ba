"""The claim of a worker on a slice: what it needs to know to compute it, and the fence of its writes."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session, aliased

from udig_recon.core.slice_order import WarmStart
from udig_recon.worker.database.tables import Job, JobSlice, Scan, Status


@dataclass(frozen=True)
class Claim:
    """A slice that this process may work on as long as its lease lives: a view of its row, its job and its scan."""

    job_id: uuid.UUID
    tenant: str
    slice: int
    attempt: int  # the fence: grows with every claim
    parameters: dict[str, Any]
    seed: int
    seeds: int
    outputs: list[str]
    slices: list[int]  # of the job
    max_seconds: float | None  # that the job may compute
    scan_sha256: str
    scan_header: dict[str, Any]
    result: str | None  # file of the slice, which is done: the job is to be assembled
    queued_at: datetime
    claimed_at: datetime
    traceparent: str | None  # of the request that filed the job
    warm_start: WarmStart | None  # the weight that was found for the slice's reference slice

    def is_mine(self) -> ColumnElement[bool]:
        """Whether a row is this slice and still runs by this claim: the fence, in the WHERE of every write."""
        this_slice = and_(JobSlice.job_id == self.job_id, JobSlice.slice == self.slice)
        return and_(this_slice, JobSlice.attempt == self.attempt, JobSlice.status == Status.RUNNING)


def read_claim(session: Session, job_id: uuid.UUID, slice_: int) -> Claim:
    """Read the claim on a slice that was just taken."""
    reference = aliased(JobSlice)
    query = (
        select(
            JobSlice.job_id,
            JobSlice.slice,
            JobSlice.attempt,
            JobSlice.result,
            JobSlice.queued_at,
            JobSlice.claimed_at,
            JobSlice.reference_slice,
            reference.prior_check,
            Job.tenant,
            Job.parameters,
            Job.seed,
            Job.seeds,
            Job.outputs,
            Job.slices,
            Job.max_seconds,
            Job.traceparent,
            Scan.sha256.label("scan_sha256"),
            Scan.header.label("scan_header"),
        )
        .join(Job, Job.id == JobSlice.job_id)
        .join(Scan, Scan.id == Job.scan_id)
        .outerjoin(reference, and_(reference.job_id == JobSlice.job_id, reference.slice == JobSlice.reference_slice))
        .where(JobSlice.job_id == job_id, JobSlice.slice == slice_)
    )
    columns = session.execute(query).one()._asdict()
    number, prior_check = columns.pop("reference_slice"), columns.pop("prior_check")
    return Claim(**columns, warm_start=None if number is None else WarmStart.from_check(number, prior_check))
