"""Slices whose files were damaged are computed anew, a few times at most."""

import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from udig_recon.worker.database.tables import JobSlice, Status
from udig_recon.worker.jobs.leases import Claim, held
from udig_recon.worker.jobs.service import settle_stopped

MOST_RECOMPUTED = 3  # times that a slice is computed anew because its file was damaged


def requeue_damaged(session: Session, claim: Claim, damaged: Collection[int]) -> list[tuple[uuid.UUID, int]]:
    """Have slices computed anew whose files are damaged; what to ring for after the commit.

    The claimed slice, whose worker was to assemble, is done unless it is one of them. Raises LeaseLost, and
    DamagedTooOften, with nothing changed, for a slice that this was done to before.
    """
    own = Status.QUEUED if claim.slice in damaged else Status.SUCCEEDED
    job = held(session, claim, status=own, finished_at=func.now(), lease_until=None)
    again: dict[str, Any] = {"status": Status.QUEUED, "recomputed": JobSlice.recomputed + 1, "enqueued_at": func.now()}
    again |= dict.fromkeys(("result", "result_sha256", "metrics", "prior_check", "quality", "finished_at", "worker"))
    query = (
        update(JobSlice)
        .where(JobSlice.job_id == job.id, JobSlice.slice.in_(damaged))
        .values(**again, iteration=0)
        .returning(JobSlice.slice, JobSlice.recomputed)
        .execution_options(synchronize_session=False)
    )
    for slice_, recomputed in session.execute(query).all():
        if recomputed > MOST_RECOMPUTED:
            raise DamagedTooOften(slice_)
    settle_stopped(session, job)
    return [(job.id, slice_) for slice_ in sorted(damaged)]


class DamagedTooOften(Exception):
    """A slice's file was damaged again and again: the disk is not to be trusted."""

    def __init__(self, slice_: int) -> None:
        super().__init__(f"the file of slice {slice_} was damaged {MOST_RECOMPUTED + 1} times")
