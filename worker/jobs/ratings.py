"""Ratings of jobs: the worst of their slices', in the row of the job, by which lists are filtered."""

import uuid
from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.quality.rating import Rating, RatingLevel, worst_level
from udig_recon.worker.database.tables import Job, JobSlice, Status

MOST_AT_ONCE = 500
ROWS_AT_ONCE = 200  # of slices, whose reasons are text


def rating_of(qualities: Iterable[dict[str, Any] | None]) -> RatingLevel:
    """Rating level of a job by its slices' `quality`; `unrated` where an old worker rated none of them."""
    levels = {Rating.from_json(each).level for each in qualities if each is not None}
    return worst_level(levels) if levels else "unrated"


def rate_ended(sessions: sessionmaker[Session]) -> int:
    """Rate up to MOST_AT_ONCE succeeded jobs without a rating, which older versions finished; gives their number."""
    unrated = (Job.status == Status.SUCCEEDED) & Job.rating.is_(None)
    with sessions.begin() as session:
        # Some other worker may be at them. None of these jobs changes its slices any more.
        query = select(Job.id).where(unrated).order_by(Job.id).limit(MOST_AT_ONCE)
        found = session.scalars(query.with_for_update(skip_locked=True)).all()
        if not found:
            return 0
        slices = select(JobSlice.job_id, JobSlice.quality).where(JobSlice.job_id.in_(found)).order_by(JobSlice.job_id)
        rows = session.execute(slices.execution_options(yield_per=ROWS_AT_ONCE))
        levels = dict.fromkeys(found, rating_of([]))
        levels |= {
            job: rating_of(row.quality for row in of_job) for job, of_job in groupby(rows, lambda row: row.job_id)
        }
        by_level = defaultdict[RatingLevel, list[uuid.UUID]](list)
        for job, level in levels.items():
            by_level[level].append(job)
        for level, jobs in by_level.items():
            session.execute(update(Job).where(Job.id.in_(jobs)).values(rating=level))
    return len(found)
