"""Retention: expired scans, jobs, comparisons and uploads lose their files, and later their rows; logins theirs."""

import time
from datetime import timedelta

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.login_sessions import delete_expired
from udig_recon.worker.access.quotas import is_unfinished
from udig_recon.worker.database.engine import notify
from udig_recon.worker.database.tables import (
    OPEN,
    Comparison,
    DeliveryState,
    DestinationDelivery,
    Job,
    ResumableUpload,
    Scan,
    WebhookDelivery,
)
from udig_recon.worker.storage import direct_uploads, keys, previews, uploads
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.scans import forget, is_in_use

MOST_AT_ONCE = 100
ROWS_AT_ONCE = 500  # jobs whose rows are deleted in one transaction
UPLOAD_TOLD = timedelta(days=7)  # so long an expired upload answers that it has expired
TOLD = timedelta(days=30)  # so long an expired job answers that its files are gone, rather than that it never was


def expire(sessions: sessionmaker[Session], storage: Storage, seconds: float = 0.0) -> int:
    """Delete expired scans, jobs and comparisons that are not in use, and expired uploads. Returns their number.

    Does so many of each kind at once that nobody waits for them, and goes on for up to so many seconds while there are
    more.
    """
    deadline = time.monotonic() + seconds
    deleted = found = _expire_some(sessions, storage)
    while found >= MOST_AT_ONCE and time.monotonic() < deadline:
        found = _expire_some(sessions, storage)
        deleted += found
    while _delete_rows(sessions) and time.monotonic() < deadline:
        pass
    return deleted


def _delete_rows(sessions: sessionmaker[Session]) -> bool:
    """Delete rows of jobs that expired long ago, with all that hangs on them; whether there may be more."""
    past = select(Job.id).where(Job.expired, Job.expires_at < func.now() - TOLD).order_by(Job.expires_at)
    some = past.limit(ROWS_AT_ONCE).with_for_update(skip_locked=True).cte("some")
    gone = delete(Job).where(Job.id.in_(select(some.c.id))).returning(Job.id)
    with sessions.begin() as session:
        found = session.scalars(gone.execution_options(synchronize_session=False)).all()
    return len(found) == ROWS_AT_ONCE


def _expire_some(sessions: sessionmaker[Session], storage: Storage) -> int:
    # A result that is still to be sent to an archive is kept until it was sent, or given up; and its scan, which may
    # tell whose it is.
    unsent = exists().where(DestinationDelivery.job_id == Job.id, DestinationDelivery.state == DeliveryState.PENDING)
    past_jobs = (Job.expires_at < func.now()) & ~Job.expired & Job.status.not_in(OPEN) & ~unsent
    unheard = exists().where(
        WebhookDelivery.comparison_id == Comparison.id, WebhookDelivery.state == DeliveryState.PENDING
    )
    is_open = exists().where(Job.comparison_id == Comparison.id, Job.status.in_(OPEN))
    past_comparisons = (Comparison.expires_at < func.now()) & ~is_open & ~unheard
    past_uploads = (ResumableUpload.expires_at < func.now()) & is_unfinished()
    in_use = exists().where(Job.scan_id == Scan.id, Job.status.in_(OPEN) | unsent)
    past_scans = (Scan.expires_at < func.now()) & ~in_use
    with sessions() as session:
        jobs = session.scalars(select(Job.id).where(past_jobs).limit(MOST_AT_ONCE)).all()
        scans = session.scalars(select(Scan.id).where(past_scans).limit(MOST_AT_ONCE)).all()
        unfinished = session.scalars(select(ResumableUpload.id).where(past_uploads).limit(MOST_AT_ONCE)).all()
        comparisons = session.scalars(select(Comparison.id).where(past_comparisons).limit(MOST_AT_ONCE)).all()
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
    for comparison_id in comparisons:
        with sessions.begin() as session:
            past = select(Comparison).where(Comparison.id == comparison_id, past_comparisons)
            for comparison in session.scalars(past.with_for_update(skip_locked=True)).all():
                _expire_comparison(session, comparison)
    for upload_id in unfinished:
        with sessions.begin() as session:
            of_it = select(ResumableUpload).where(ResumableUpload.id == upload_id, past_uploads)
            for upload in session.scalars(of_it.with_for_update(skip_locked=True)).all():
                _expire_upload(session, storage, upload)
    with sessions.begin() as session:
        told = ResumableUpload.stored_at.is_not(None) | (ResumableUpload.expires_at < func.now() - UPLOAD_TOLD)
        session.execute(delete(ResumableUpload).where(ResumableUpload.expires_at < func.now(), told))
        delete_expired(session)
    return len(jobs) + len(scans) + len(comparisons) + len(unfinished)


def _expire_job(session: Session, storage: Storage, job: Job) -> None:
    """Delete files before the row: an interrupted sweep repeats all of it. Text that a client wrote is deleted too."""
    storage.delete_prefix(keys.job(job.id))
    previews.delete_rows_of(session, job.id)
    job.expired, job.tags, job.idempotency_key, job.webhook_url = True, {}, None, None
    # One that is still to be told is told, and goes with the row.
    told = (WebhookDelivery.job_id == job.id, WebhookDelivery.state != DeliveryState.PENDING)
    session.execute(delete(WebhookDelivery).where(*told))
    without_tags = WebhookDelivery.data.op("||")(func.jsonb_build_object("tags", func.jsonb_build_object()))
    session.execute(update(WebhookDelivery).where(WebhookDelivery.job_id == job.id).values(data=without_tags))
    notify(session, job.id)
    audit.append(session, Who(job.tenant, audit.SWEEP), "job.expired", job=job.id)


def _expire_upload(session: Session, storage: Storage, upload: ResumableUpload) -> None:
    """Delete the file before the row says so: an interrupted sweep repeats both. The name that a client gave goes."""
    uploads.delete_file(storage, upload.id)
    if upload.part_bytes is not None:
        direct_uploads.delete(storage, upload.id)
    upload.expired, upload.filename, upload.sha256 = True, "", None
    audit.append(session, Who(upload.tenant, audit.SWEEP), "upload.expired", upload=upload.id)


def _expire_comparison(session: Session, comparison: Comparison) -> None:
    """Delete the row and the labels of a comparison; its jobs expire by themselves."""
    session.execute(update(Job).where(Job.comparison_id == comparison.id).values(compared=None, comparison_id=None))
    session.delete(comparison)
    audit.append(session, Who(comparison.tenant, audit.SWEEP), "comparison.expired", comparison=comparison.id)


def _expire_scan(session: Session, storage: Storage, scan: Scan) -> None:
    # Asked once the scan is held: a job that was filed while it was being found is seen only now.
    if session.scalar(select(Job.id).where(is_in_use(scan)).limit(1)):
        return
    session.delete(scan)
    audit.append(session, Who(scan.tenant, audit.SWEEP), "scan.expired", scan=scan.id)
    session.commit()
    forget(session, storage, scan.tenant, scan.sha256)
    session.commit()
