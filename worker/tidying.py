"""Files that no row names, left behind by processes that were killed: found now and then, and removed."""

import fcntl
import shutil
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from worker.models import Chunk, Job, Scan, Status
from worker.scans import forget
from worker.storage import JOB_FOLDERS, Storage

PART = ".*.part"


def tidy(sessions: sessionmaker[Session], storage: Storage, seconds: float) -> int:
    """Remove what no row has named for so long; gives the number of files and folders.

    Rows are read after the files were listed: what they do not name then, nothing will name later.
    """
    before = storage.now() - seconds
    storage.finish_deletions()
    removed = sum(_remove_upload(path) for path in _old(storage.incoming.iterdir(), before))
    stored = storage.stored_scans()
    old = set(_old((path for _, path in stored), before))
    scans = {(tenant, path.name) for tenant, path in stored if path in old}
    with sessions() as session:
        known = {(scan.tenant, scan.sha256) for scan in session.execute(select(Scan.tenant, Scan.sha256))}
    for tenant, sha256 in scans - known:
        with sessions.begin() as session:
            removed += forget(session, storage, tenant, sha256)
    for folder in list(storage.jobs.iterdir()):
        with suppress(FileNotFoundError):
            removed += _tidy_job(sessions, storage, folder, before)
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


def _tidy_job(sessions: sessionmaker[Session], storage: Storage, folder: Path, before: float) -> int:
    try:
        job_id = uuid.UUID(folder.name)
    except ValueError:
        return 0
    parts = _old(folder.rglob(PART), before)
    made = [path for name in JOB_FOLDERS for path in (folder / name).glob("[!.]*")]
    abandoned = bool(_old([folder], before))
    with sessions() as session:
        job = session.get(Job, job_id)
        chunks = session.scalars(select(Chunk).where(Chunk.job_id == job_id)).all()
    if job is None:
        if abandoned:
            storage.delete_job(job_id)
        return int(abandoned)
    unnamed = parts + [path for path in made if not _is_named(storage, path, job, chunks)]
    for path in unnamed:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(unnamed)


def _is_named(storage: Storage, path: Path, job: Job, chunks: Sequence[Chunk]) -> bool:
    """Whether rows name a file or folder of a job, or may do so yet: a running attempt's are named soon."""
    running = [chunk for chunk in chunks if chunk.status == Status.RUNNING]
    match path.parent.name:
        case "slices":
            coming = {storage.slice_result(job.id, chunk.slice, chunk.attempt) for chunk in running}
            return path in coming or storage.relative(path) in {chunk.result for chunk in chunks}
        case "results":
            coming = {storage.results(job.id, chunk.attempt) for chunk in running}
            return path in coming or storage.relative(path) == job.result
        case "checkpoints":
            goes_on = {str(chunk.slice) for chunk in chunks if chunk.status not in (Status.SUCCEEDED, Status.CANCELLED)}
            return path.name.split(".")[0] in goes_on
    return True
