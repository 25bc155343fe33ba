"""Compute slices again whose stored files were damaged, a few times at most."""

import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.worker.database.tables import JobSlice, Status
from udig_recon.worker.jobs import state
from udig_recon.worker.jobs.claims import Claim

MOST_RECOMPUTED = 3  # times that a slice is computed again because its file was damaged
OUTCOME = ("result", "result_sha256", "metrics", "prior_check", "quality")


def requeue_damaged(session: Session, claim: Claim, damaged: Collection[int]) -> list[tuple[uuid.UUID, int]]:
    """Queue the slices again whose files are damaged; the messages to send after the commit.

    The claimed slice, whose worker was to assemble, is done unless it is one of them. Raises LeaseLost, and
    DamagedTooOften for a slice that was computed again too often: the caller then rolls back.
    """
    again: dict[str, Any] = {"recomputed": JobSlice.recomputed + 1, "enqueued_at": func.now(), "iteration": 0}
    again |= dict.fromkeys(OUTCOME)
    if claim.slice in damaged:
        job = state.move_slice(session, claim, Status.QUEUED, **again)
    else:
        job = state.move_slice(session, claim, Status.SUCCEEDED)
    others = set(damaged) - {claim.slice}
    state.move_slices(session, job.id, [Status.SUCCEEDED], Status.QUEUED, JobSlice.slice.in_(others), **again)
    counts = select(JobSlice.slice, JobSlice.recomputed).where(JobSlice.job_id == job.id, JobSlice.slice.in_(damaged))
    for slice_, recomputed in session.execute(counts).all():
        if recomputed > MOST_RECOMPUTED:
            raise DamagedTooOften(slice_)
    state.follow_stopped_slice(session, job)
    return [(job.id, slice_) for slice_ in sorted(damaged)]


class DamagedTooOften(Exception):
    """A slice's file was damaged again and again: the disk is not to be trusted."""

    def __init__(self, slice_: int) -> None:
        super().__init__(f"the file of slice {slice_} was damaged {MOST_RECOMPUTED + 1} times")
