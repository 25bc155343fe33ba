"""Orphan cleanup: delete stored objects that no row refers to, left behind by processes that were killed."""

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.tables import Job, JobSlice, Scan, Status
from udig_recon.worker.storage import keys, uploads
from udig_recon.worker.storage.base import Group, Storage
from udig_recon.worker.storage.scans import forget

BATCH = 100  # jobs whose rows are read at once


def delete_orphans(sessions: sessionmaker[Session], storage: Storage, seconds: float, batch: int = BATCH) -> int:
    """Delete objects that no row has referred to for so many seconds; gives how many.

    Rows are read after the objects were listed: an object without a row then never gets one.
    """
    removed = delete_leftovers(sessions, storage, seconds)
    before = storage.now() - seconds
    scans = {
        keys.scan_of(each.key)
        for collection in (keys.SCANS, keys.PREPARED, keys.IDENTITIES)
        for each in storage.list(collection)
        if each.modified < before
    }
    with sessions() as session:
        known = {(scan.tenant, scan.sha256) for scan in session.execute(select(Scan.tenant, Scan.sha256))}
    for tenant, sha256 in scans - known:
        with sessions.begin() as session:
            removed += forget(session, storage, tenant, sha256)
    removed += _delete_parts(sessions, storage, before)
    groups = storage.groups_with_keys()
    while some := list(islice(groups, batch)):
        removed += _delete_of_jobs(sessions, storage, some, before)
    return removed


def delete_leftovers(sessions: sessionmaker[Session], storage: Storage, seconds: float) -> int:
    """Delete what writes, fetches and uploads that were cut off so long ago left; gives how many.

    Where that lies on each machine (`Storage.local_scratch`), each of them calls this for itself.
    """
    before = (time.time() if storage.local_scratch else storage.now()) - seconds
    removed = storage.remove_leftovers(before)
    old = set(uploads.leftovers(storage, before))
    with sessions() as session:
        unneeded = uploads.without_row(session, old)
    for upload_id in unneeded:
        uploads.delete_file(storage, upload_id)
    return removed + len(unneeded)


def _delete_parts(sessions: sessionmaker[Session], storage: Storage, before: float) -> int:
    """Delete parts of uploads that became scans, have expired or were deleted: signed requests outlive them."""
    found: dict[uuid.UUID, list[str]] = defaultdict(list)
    for each in storage.list(keys.PARTS):
        with suppress(ValueError):
            if each.modified < before:
                found[uuid.UUID(each.key.split("/")[1])].append(each.key)
    with sessions() as session:
        unneeded = uploads.without_row(session, found)
    removed = [key for upload_id in unneeded for key in found[upload_id]]
    for key in removed:
        storage.delete(key)
    return len(removed)


class _Objects(NamedTuple):
    """The objects of a job."""

    keys: list[str]
    is_old: bool  # whether the group itself was last changed long ago


class _Job(NamedTuple):
    """What a job's row says."""

    id: uuid.UUID
    result: str | None
    status: Status
    expired: bool


def _delete_of_jobs(sessions: sessionmaker[Session], storage: Storage, groups: Iterable[Group], before: float) -> int:
    listed: dict[uuid.UUID, _Objects] = {}
    for group in groups:
        try:
            job_id = uuid.UUID(keys.name_of(group.name))
        except ValueError:
            continue
        listed[job_id] = _Objects(list(group.keys), group.modified < before)
    job_slices: defaultdict[uuid.UUID, list[JobSlice]] = defaultdict(list)
    with sessions() as session:
        for job_slice in session.scalars(select(JobSlice).where(JobSlice.job_id.in_(listed))):
            job_slices[job_slice.job_id].append(job_slice)
        # Jobs last: of an attempt that has just ended, either its slice still runs or its job refers to the result.
        rows = session.execute(select(Job.id, Job.result, Job.status, Job.expired).where(Job.id.in_(listed)))
        jobs = {row.id: _Job(*row) for row in rows}
    removed = 0
    for job_id, objects in listed.items():
        if (job := jobs.get(job_id)) is not None and not job.expired:
            is_referenced = _reference_check(job, job_slices[job_id])
            orphans = {key for key in objects.keys if not is_referenced(key)}
            attempts = {key.rpartition("/")[0] for key in orphans if _kind(job, key) == "results"}
            single = {key for key in orphans if _kind(job, key) != "results"}
            for prefix in attempts:
                storage.delete_prefix(prefix)
            for key in single:
                storage.delete(key)
            removed += len(attempts) + len(single)
        elif objects.is_old:
            storage.delete_prefix(keys.job(job_id))
            removed += 1
    return removed


def _kind(job: _Job, key: str) -> str:
    """The part of a key that follows the job's group: checkpoints, previews, slices or results."""
    return key.removeprefix(f"{keys.job(job.id)}/").split("/")[0]


def _reference_check(job: _Job, job_slices: Sequence[JobSlice]) -> Callable[[str], bool]:
    """Whether rows refer to an object of the job, or may do so soon: those of an attempt that runs."""
    running = [job_slice for job_slice in job_slices if job_slice.status == Status.RUNNING]
    slices = {keys.slice_result(job.id, job_slice.slice, job_slice.attempt) for job_slice in running}
    slices |= {job_slice.result for job_slice in job_slices if job_slice.result is not None}
    results = {keys.results(job.id, job_slice.attempt) for job_slice in running}
    if job.result is not None:
        results.add(job.result)
    # Failed by one slice, a job has the others cancelled; a retry continues all of them.
    ended = {Status.SUCCEEDED, Status.CANCELLED} if job.status is Status.CANCELLED else {Status.SUCCEEDED}
    resumable = {str(job_slice.slice) for job_slice in job_slices if job_slice.status not in ended}

    def is_referenced(key: str) -> bool:
        match _kind(job, key):
            case "slices":
                return key in slices
            case "results":
                return key.rpartition("/")[0] in results
            case "previews":
                return job.status is not Status.SUCCEEDED
            case "checkpoints":
                return keys.name_of(key).split(".")[0] in resumable
        return True

    return is_referenced
