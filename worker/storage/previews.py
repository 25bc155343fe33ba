"""Previews: the latest image of each slice that runs, as the API shows it.

They are objects of the storage, or rows of an unlogged table where that takes no object that is replaced every few
seconds: a bucket bills each put. A crash of the database's server loses the rows; a worker soon writes others.
"""

import uuid

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import Preview
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage

ROW_SECONDS = 10.0  # between two previews of a slice that are rows; objects come with every snapshot


def pause_seconds(storage: Storage) -> float:
    """The least pause between two previews of a slice."""
    return 0.0 if storage.keeps_previews else ROW_SECONDS


def save(
    sessions: sessionmaker[Session], storage: Storage, job_id: uuid.UUID, slice_: int, result: SliceResult
) -> None:
    """Replace the preview of a slice. Raises OSError, FileNotFoundError where the job was deleted."""
    content = result.to_bytes(_owner(job_id, slice_))
    if storage.keeps_previews:
        storage.put(keys.preview(job_id, slice_), content)
        return
    row = insert(Preview).values(job_id=job_id, slice=slice_, content=content)
    newer = {"content": row.excluded.content, "written_at": func.now()}
    try:
        with sessions.begin() as session:
            session.execute(row.on_conflict_do_update(index_elements=["job_id", "slice"], set_=newer))
    except IntegrityError:
        raise FileNotFoundError(keys.preview(job_id, slice_)) from None


def load(sessions: sessionmaker[Session], storage: Storage, job_id: uuid.UUID, slice_: int) -> SliceResult:
    """The preview of a slice. Raises FileNotFoundError, or DamagedFile where it is not what was written for it."""
    key = keys.preview(job_id, slice_)
    if storage.keeps_previews:
        content = storage.read(key)
    else:
        with sessions() as session:
            row = select(Preview.content).where(Preview.job_id == job_id, Preview.slice == slice_)
            found = session.scalar(row)
        if found is None:
            raise FileNotFoundError(key)
        content = found
    return SliceResult.from_bytes(content, keys.name_of(key), owner=_owner(job_id, slice_))


def delete(sessions: sessionmaker[Session], storage: Storage, job_id: uuid.UUID, slice_: int) -> None:
    """Delete the preview of a slice, if there is one."""
    if storage.keeps_previews:
        storage.delete(keys.preview(job_id, slice_))
        return
    with sessions.begin() as session:
        session.execute(delete_rows(Preview).where(Preview.job_id == job_id, Preview.slice == slice_))


def delete_all(sessions: sessionmaker[Session], storage: Storage, job_id: uuid.UUID) -> None:
    """Delete the previews of a job."""
    if storage.keeps_previews:
        for each in storage.list(keys.previews(job_id)):
            storage.delete(each.key)
        return
    with sessions.begin() as session:
        delete_rows_of(session, job_id)


def delete_rows_of(session: Session, job_id: uuid.UUID) -> None:
    """Delete the previews of a job that are rows. Commits nothing."""
    session.execute(delete_rows(Preview).where(Preview.job_id == job_id))


def _owner(job_id: uuid.UUID, slice_: int) -> str:
    """The job and slice, written into the preview itself: no row has its digest."""
    return f"{job_id}/{slice_}"
