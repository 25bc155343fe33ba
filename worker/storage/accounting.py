"""Bytes of jobs as they lie on the disk, counted once they have ended: until then their estimates count."""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.tables import OPEN, Job
from udig_recon.worker.storage.local import Storage

log = logging.getLogger(__name__)
MOST_AT_ONCE = 100
SETTLED = timedelta(seconds=10)  # after its end a worker still removes what is needed no more


def count_ended(sessions: sessionmaker[Session], storage: Storage, settled: timedelta = SETTLED) -> int:
    """Count some jobs that have ended and were not counted since; gives their number."""
    uncounted = (
        Job.stored_bytes.is_(None) & ~Job.expired & Job.status.not_in(OPEN) & (Job.finished_at < func.now() - settled)
    )
    with sessions() as session:
        found = session.scalars(select(Job.id).where(uncounted).limit(MOST_AT_ONCE)).all()
    for job_id in found:
        size = bytes_of(storage.job(job_id))
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id, uncounted).values(stored_bytes=size))
    return len(found)


def recount(session: Session, job_id: uuid.UUID) -> None:
    """Have a job counted again: it has more files than before."""
    session.execute(update(Job).where(Job.id == job_id, Job.status.not_in(OPEN)).values(stored_bytes=None))


def bytes_of(folder: Path) -> int:
    """Bytes of all files of a folder; some may go while they are counted."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield (Path(where) / name).lstat().st_size
