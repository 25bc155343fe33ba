"""Use cases on jobs and comparisons: submit, retry, cancel, delete.

Each is one transaction, which it commits: rows, audit log and the wake-up of listeners together. Messages for workers
and the removal of files follow the commit. `lifecycle` and `comparisons` change the rows.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.quotas import JOB_FILED
from udig_recon.worker.database.tables import Comparison
from udig_recon.worker.jobs import comparisons, lifecycle
from udig_recon.worker.jobs.comparisons import ComparisonRequest
from udig_recon.worker.jobs.lifecycle import JobRequest, Retry, Submitter
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage, StorageUnavailable

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Read = Callable[[uuid.UUID], Answer]
"""Reads the answer to the caller. Called before the commit: nothing may fail after it that denies the change."""


@dataclass(frozen=True)
class Submitted(Generic[Answer]):
    """A submitted job or comparison."""

    answer: Answer
    created: bool  # False: the idempotency key had made it before


class JobService:
    """Use cases on jobs; `enqueue` sends the messages for workers, `storage` holds the files of jobs."""

    def __init__(self, storage: Storage, enqueue: Callable[[Iterable[tuple[uuid.UUID, int]]], object]) -> None:
        self._storage, self._enqueue = storage, enqueue

    def submit(
        self,
        session: Session,
        request: JobRequest,
        submitter: Submitter,
        read: Read[Answer],
        *,
        scan_uploaded: bool = False,
    ) -> Submitted[Answer]:
        """Submit a job, unless its idempotency key has made one before; `scan_uploaded`: its scan came with it.

        Raises as `lifecycle.submit`.
        """
        job, created = lifecycle.submit(session, request, submitter)
        job_id, scan_id = job.id, request.scan.id
        answer = read(job_id)
        if not created:
            return Submitted(answer, created)
        messages = lifecycle.waiting(session, job_id)
        self._storage.create_group(keys.job(job_id))
        if scan_uploaded:
            audit.append(session, submitter.who, audit.SCAN_UPLOADED, scan=scan_id)
        audit.append(session, submitter.who, JOB_FILED, job=job_id, scan=scan_id)
        session.commit()
        log.info("job.queued", extra={"job_id": str(job_id)})
        self._enqueue(messages)
        return Submitted(answer, created)

    def submit_comparison(
        self, session: Session, request: ComparisonRequest, submitter: Submitter, read: Read[Answer]
    ) -> Submitted[Answer]:
        """Submit a comparison and its jobs, all of them or none. Raises as `comparisons.submit`."""
        comparison, jobs = comparisons.submit(session, request, submitter)
        comparison_id, ids = comparison.id, [{"job": job.id, "scan": job.scan_id} for job in jobs]
        answer = read(comparison_id)
        if not jobs:
            return Submitted(answer, created=False)
        messages = lifecycle.waiting(session, *(job.id for job in jobs))
        audit.append(session, submitter.who, "comparison.filed", comparison=comparison_id)
        audit.extend(session, submitter.who, JOB_FILED, ids)
        session.commit()
        log.info("comparison.queued", extra={"comparison_id": str(comparison_id), "jobs": len(ids)})
        self._enqueue(messages)
        return Submitted(answer, created=True)

    def retry(
        self, session: Session, job_id: uuid.UUID, retry: Retry, submitter: Submitter, read: Read[Answer]
    ) -> Answer:
        """Queue a failed job again. Raises as `lifecycle.retry`."""
        lifecycle.retry(session, job_id, retry, submitter)
        answer, messages = read(job_id), lifecycle.waiting(session, job_id)
        audit.append(session, submitter.who, "job.retried", job=job_id)
        session.commit()
        self._enqueue(messages)
        return answer

    def cancel(self, session: Session, job_id: uuid.UUID, who: Who, read: Read[Answer]) -> Answer:
        """Cancel a job. Raises as `lifecycle.request_cancel`."""
        lifecycle.request_cancel(session, job_id, who.tenant)
        answer = read(job_id)
        audit.append(session, who, "job.cancelled", job=job_id)
        session.commit()
        return answer

    def delete(self, session: Session, job_id: uuid.UUID, who: Who) -> None:
        """Delete a job, whatever it does, and its files. Raises UnknownJob."""
        lifecycle.delete(session, job_id, who.tenant)
        audit.append(session, who, "job.deleted", job=job_id)
        session.commit()
        self._delete_files([job_id])

    def cancel_comparison(self, session: Session, comparison: Comparison, who: Who, read: Read[Answer]) -> Answer:
        """Cancel the jobs of a comparison that have not ended. Raises IllegalMove where there are none."""
        job_ids = comparisons.cancel(session, comparison)
        answer = read(comparison.id)
        self._record(session, who, "cancelled", comparison.id, job_ids)
        session.commit()
        return answer

    def delete_comparison(self, session: Session, comparison: Comparison, who: Who) -> None:
        """Delete a comparison, its jobs and their files."""
        comparison_id, job_ids = comparison.id, comparisons.delete(session, comparison)
        self._record(session, who, "deleted", comparison_id, job_ids)
        session.commit()
        self._delete_files(job_ids)

    def _delete_files(self, job_ids: Iterable[uuid.UUID]) -> None:
        """Delete the files of jobs that are deleted; what a storage that does not answer keeps goes as orphans."""
        try:
            for job_id in job_ids:
                self._storage.delete_prefix(keys.job(job_id))
        except StorageUnavailable as error:
            log.warning("storage.unavailable", extra={"error": error.reason})

    def _record(
        self, session: Session, who: Who, action: str, comparison_id: uuid.UUID, job_ids: Sequence[uuid.UUID]
    ) -> None:
        """Write into the audit log what was done to a comparison and to each of its jobs."""
        audit.append(session, who, f"comparison.{action}", comparison=comparison_id)
        audit.extend(session, who, f"job.{action}", [{"job": job_id} for job_id in job_ids])
