"""Files that no row names, left behind by processes that were killed: found now and then, and removed."""

import fcntl
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.tables import Job, JobSlice, Scan, Status
from udig_recon.worker.storage.local import JOB_FOLDERS, Storage
from udig_recon.worker.storage.scans import forget

PART = ".*.part"
BATCH = 100  # jobs whose rows are read at once


def tidy(sessions: sessionmaker[Session], storage: Storage, seconds: float) -> int:
    """Remove what no row has named for so long; gives the number of files and folders.

    Rows are read after the files were listed: what they do not name then, nothing will name later.
    """
    before = storage.now() - seconds
    storage.finish_deletions()
    removed = sum(_remove_upload(path) for path in _old(storage.incoming.iterdir(), before))
    stored = storage.stored_scans() + storage.prepared_scans()
    old = set(_old((path for _, path in stored), before))
    scans = {(tenant, path.name) for tenant, path in stored if path in old}
    with sessions() as session:
        known = {(scan.tenant, scan.sha256) for scan in session.execute(select(Scan.tenant, Scan.sha256))}
    for tenant, sha256 in scans - known:
        with sessions.begin() as session:
            removed += forget(session, storage, tenant, sha256)
    folders = list(storage.jobs.iterdir())
    for start in range(0, len(folders), BATCH):
        removed += _tidy_jobs(sessions, storage, folders[start : start + BATCH], before)
    return removed


def _old(paths: Iterable[Path], before: float) -> list[Path]:
    """Those that were last changed before then. Some may go while they are looked at."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                found.append(path)
    return found


def _remove_upload(path: Path) -> bool:
    """Remove a file that came in, unless somebody holds its lock and so receives it still."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True


class _Files(NamedTuple):
    """What lies in the folder of a job."""

    parts: list[Path]  # left unfinished, and old
    made: list[Path]
    abandoned: bool  # whether the folder itself is old


class _Job(NamedTuple):
    """What a job's row says."""

    id: uuid.UUID
    result: str | None
    status: Status


def _tidy_jobs(sessions: sessionmaker[Session], storage: Storage, folders: Iterable[Path], before: float) -> int:
    found: dict[uuid.UUID, _Files] = {}
    for folder in folders:
        with suppress(FileNotFoundError, ValueError):
            found[uuid.UUID(folder.name)] = _files(folder, before)
    job_slices: defaultdict[uuid.UUID, list[JobSlice]] = defaultdict(list)
    with sessions() as session:
        for job_slice in session.scalars(select(JobSlice).where(JobSlice.job_id.in_(found))):
            job_slices[job_slice.job_id].append(job_slice)
        # Jobs last: of an attempt that has just ended either the slice still says that it runs, or the job names it.
        rows = session.execute(select(Job.id, Job.result, Job.status).where(Job.id.in_(found)))
        jobs = {row.id: _Job(*row) for row in rows}
    removed = 0
    for job_id, files in found.items():
        if (job := jobs.get(job_id)) is not None:
            named = _named(storage, job, job_slices[job_id])
            removed += _remove(files.parts + [path for path in files.made if not named(path)])
        elif files.abandoned:
            storage.delete_job(job_id)
            removed += 1
    return removed


def _files(folder: Path, before: float) -> _Files:
    made = [path for name in JOB_FOLDERS for path in (folder / name).glob("[!.]*")]
    return _Files(_old(folder.rglob(PART), before), made, bool(_old([folder], before)))


def _remove(unnamed: Sequence[Path]) -> int:
    for path in unnamed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(unnamed)


def _named(storage: Storage, job: _Job, job_slices: Sequence[JobSlice]) -> Callable[[Path], bool]:
    """Whether rows name a file or folder of a job, or may do so yet: a running attempt's are named soon."""
    running = [job_slice for job_slice in job_slices if job_slice.status == Status.RUNNING]
    slices = {storage.slice_result(job.id, job_slice.slice, job_slice.attempt) for job_slice in running}
    slices |= {storage.path(job_slice.result) for job_slice in job_slices if job_slice.result is not None}
    results = {storage.results(job.id, job_slice.attempt) for job_slice in running}
    results |= {storage.path(job.result)} if job.result is not None else set()
    # Failed by one slice, a job has the others cancelled; tried again, all go on.
    ended = {Status.SUCCEEDED, Status.CANCELLED} if job.status is Status.CANCELLED else {Status.SUCCEEDED}
    go_on = {str(job_slice.slice) for job_slice in job_slices if job_slice.status not in ended}

    def named(path: Path) -> bool:
        match path.parent.name:
            case "slices":
                return path in slices
            case "results":
                return path in results
            case "previews":
                return job.status is not Status.SUCCEEDED
            case "checkpoints":
                return path.name.split(".")[0] in go_on
        return True

    return named
