"""Ratings of jobs: the worst of their slices', in the row of the job, by which lists are filtered."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.quality.rating import Rating, RatingLevel, worst
from udig_recon.worker.database.tables import Job, JobSlice, Status

MOST_AT_ONCE = 500


def rating_of(qualities: Iterable[dict[str, Any] | None]) -> RatingLevel:
    """Rating level of a job by its slices' `quality`; `unrated` where an old worker rated none of them."""
    ratings = {index: Rating.from_json(each) for index, each in enumerate(qualities) if each is not None}
    return worst(ratings).level if ratings else "unrated"


def rate_ended(sessions: sessionmaker[Session]) -> int:
    """Rate up to MOST_AT_ONCE succeeded jobs without a rating, which older versions finished; gives their number."""
    unrated = (Job.status == Status.SUCCEEDED) & Job.rating.is_(None)
    with sessions.begin() as session:
        # Some other worker may be at them. None of these jobs changes its slices any more.
        query = select(Job.id).where(unrated).order_by(Job.id).limit(MOST_AT_ONCE)
        found = session.scalars(query.with_for_update(skip_locked=True)).all()
        if not found:
            return 0
        qualities = defaultdict[uuid.UUID, list[dict[str, Any] | None]](list)
        slices = select(JobSlice.job_id, JobSlice.quality).where(JobSlice.job_id.in_(found))
        for job_id, quality in session.execute(slices):
            qualities[job_id].append(quality)
        by_level = defaultdict[RatingLevel, list[uuid.UUID]](list)
        for job_id in found:
            by_level[rating_of(qualities[job_id])].append(job_id)
        for level, jobs in by_level.items():
            session.execute(update(Job).where(Job.id.in_(jobs)).values(rating=level))
    return len(found)
