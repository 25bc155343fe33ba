"""Accounting of stored bytes: the objects of a job are measured once it has ended; until then its estimate counts."""

import uuid
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.tables import OPEN, Job
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage

MOST_AT_ONCE = 100
SETTLED = timedelta(seconds=10)  # after its end a worker still deletes slices and checkpoints


def count_ended(sessions: sessionmaker[Session], storage: Storage, settled: timedelta = SETTLED) -> int:
    """Measure up to MOST_AT_ONCE jobs that have ended and were not measured since; gives their number."""
    uncounted = (
        Job.stored_bytes.is_(None) & ~Job.expired & Job.status.not_in(OPEN) & (Job.finished_at < func.now() - settled)
    )
    with sessions() as session:
        found = session.scalars(select(Job.id).where(uncounted).limit(MOST_AT_ONCE)).all()
    for job_id in found:
        size = storage.size(keys.job(job_id))
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id, uncounted).values(stored_bytes=size))
    return len(found)


def recount(session: Session, job_id: uuid.UUID) -> None:
    """Have an ended job measured again: it has more objects than before."""
    session.execute(update(Job).where(Job.id == job_id, Job.status.not_in(OPEN)).values(stored_bytes=None))
