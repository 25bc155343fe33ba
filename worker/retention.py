"""What has been kept as long as its key wished: its files are deleted, and in time its rows."""

from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session, sessionmaker

from worker import audit
from worker.audit import Who
from worker.database import notify
from worker.models import OPEN, Job, Scan
from worker.scans import forget
from worker.storage import Storage

MOST_AT_ONCE = 100
TOLD = timedelta(days=30)  # so long an expired job answers that its files are gone, rather than that it never was


def expire(sessions: sessionmaker[Session], storage: Storage) -> int:
    """Delete what is past its time, as far as nobody works on it. Returns the number of scans and jobs."""
    past_jobs = (Job.expires_at < func.now()) & ~Job.expired & Job.status.not_in(OPEN)
    past_scans = (Scan.expires_at < func.now()) & ~exists().where(Job.scan_id == Scan.id, Job.status.in_(OPEN))
    with sessions() as session:
        jobs = session.scalars(select(Job.id).where(past_jobs).limit(MOST_AT_ONCE)).all()
        scans = session.scalars(select(Scan.id).where(past_scans).limit(MOST_AT_ONCE)).all()
    for job_id in jobs:
        with sessions.begin() as session:
            for job in session.scalars(
                select(Job).where(Job.id == job_id, past_jobs).with_for_update(skip_locked=True)
            ):
                _expire_job(session, storage, job)
    for scan_id in scans:
        with sessions() as session:
            found = select(Scan).where(Scan.id == scan_id, past_scans).with_for_update(skip_locked=True)
            for scan in session.scalars(found).all():
                _expire_scan(session, storage, scan)
    with sessions.begin() as session:
        session.execute(delete(Job).where(Job.expired, Job.expires_at < func.now() - TOLD))
    return len(jobs) + len(scans)


def _expire_job(session: Session, storage: Storage, job: Job) -> None:
    """Its files first: a sweep that is killed in between does it all again. What a client wrote into it goes too."""
    storage.delete_job(job.id)
    job.expired, job.tags, job.idempotency_key, job.webhook_url = True, {}, None, None
    notify(session, job.id)
    audit.append(session, Who(job.tenant, audit.SWEEP), "job.expired", job=job.id)


def _expire_scan(session: Session, storage: Storage, scan: Scan) -> None:
    session.delete(scan)
    audit.append(session, Who(scan.tenant, audit.SWEEP), "scan.expired", scan=scan.id)
    session.commit()
    forget(session, storage, scan.tenant, scan.sha256)
    session.commit()
