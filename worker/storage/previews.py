"""Previews: the latest image of each slice that runs, as the API shows it."""

import uuid

from udig_recon.core.results.store import SliceResult
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage


def save(storage: Storage, job_id: uuid.UUID, slice_: int, result: SliceResult) -> None:
    """Replace the preview of a slice. Raises OSError, FileNotFoundError where the job was deleted."""
    storage.put(keys.preview(job_id, slice_), result.to_bytes(_owner(job_id, slice_)))


def load(storage: Storage, job_id: uuid.UUID, slice_: int) -> SliceResult:
    """The preview of a slice. Raises FileNotFoundError, or DamagedFile where it is not what was written for it."""
    key = keys.preview(job_id, slice_)
    return SliceResult.from_bytes(storage.read(key), keys.name_of(key), owner=_owner(job_id, slice_))


def delete(storage: Storage, job_id: uuid.UUID, slice_: int) -> None:
    """Delete the preview of a slice, if there is one."""
    storage.delete(keys.preview(job_id, slice_))


def _owner(job_id: uuid.UUID, slice_: int) -> str:
    """The job and slice, written into the preview itself: no row has its digest."""
    return f"{job_id}/{slice_}"
