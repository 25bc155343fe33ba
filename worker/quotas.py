"""What one key may have: jobs open at once and within a day, and bytes of scans."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.models import OPEN, Audit, Job, Key, Scan

DAY = timedelta(days=1)
OPEN_RETRY_SECONDS = 30
BYTES_RETRY_SECONDS = 3600
JOB_FILED = "job.filed"


class QuotaReached(Exception):
    """The key has what it may have; `retry_after` says in how many seconds that may be otherwise."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def actor(key: Key) -> str:
    """How the audit log calls a key."""
    return f"key:{key.id}"


def check_open(session: Session, key: Key, more: int = 1) -> None:
    """Raise QuotaReached when the key may not have so many more open jobs. Exact while submissions are held."""
    if (most := key.max_open_jobs) is not None:
        mine = select(func.count()).select_from(Job).where(Job.key_id == key.id, Job.status.in_(OPEN))
        if (session.scalar(mine) or 0) + more > most:
            text = f"this key may have {most} jobs queued or running (max_open_jobs){_at_once(more)}"
            raise QuotaReached(text, OPEN_RETRY_SECONDS)


def check_day(session: Session, key: Key, more: int = 1) -> None:
    """Raise QuotaReached when the key may not file so many jobs more today. Exact as `check_open` is."""
    if (most := key.max_jobs_per_day) is not None:
        # Asked of the log: a job that was deleted was filed all the same.
        lately = (Audit.actor == actor(key)) & (Audit.at > func.now() - DAY) & (Audit.action == JOB_FILED)
        left = func.extract("epoch", func.min(Audit.at) + DAY - func.now())
        count, seconds = session.execute(select(func.count(), left).where(lately)).one()
        if count + more > most:
            text = f"this key may file {most} jobs in 24 hours (max_jobs_per_day){_at_once(more)}"
            raise QuotaReached(text, 1 + int(seconds or 0))


def _at_once(more: int) -> str:
    return "" if more == 1 else f"; this is {more} at once"


def check_bytes(session: Session, key: Key, more: int) -> None:
    """Raise QuotaReached when the key may not keep so many bytes more. Its other uploads wait until the commit."""
    if (most := key.max_stored_bytes) is None:
        return
    session.execute(select(func.pg_advisory_xact_lock(key.id.int & (1 << 63) - 1)))
    stored = session.scalar(select(func.coalesce(func.sum(Scan.size_bytes), 0)).where(Scan.key_id == key.id)) or 0
    if stored + more > most:
        raise QuotaReached(
            f"this key may keep {most} bytes of scans and keeps {stored} (max_stored_bytes); delete some",
            BYTES_RETRY_SECONDS,
        )
