"""What workers have stored of jobs, as it was written or not at all."""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Damaged, Gone
from udig_recon.core.files.atomic import DamagedFile, Digest
from udig_recon.core.files.checksummed_arrays import UNREADABLE
from udig_recon.core.results.hdf5 import read_slice
from udig_recon.core.results.output_format import OutputFormat
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import Job, JobSlice
from udig_recon.worker.storage import integrity
from udig_recon.worker.storage.accounting import recount
from udig_recon.worker.storage.integrity import Verified
from udig_recon.worker.storage.local import RESULT, preview_owner, result_name

POST_AGAIN = "post the job again"


@dataclass(frozen=True)
class StoredResult:
    """The result of a job that has succeeded."""

    job_id: uuid.UUID
    folder: str  # relative to DATA
    files: dict[str, Any]  # name -> sha256 and bytes

    @classmethod
    def of(cls, job: Job) -> "StoredResult":
        """As the job's row has it."""
        return cls(job.id, job.result or "", job.result_files or {})


@dataclass(frozen=True)
class StoredSlice:
    """What there is of one slice."""

    job_id: uuid.UUID
    slice: int
    index: int  # its place in the result
    whole: StoredResult | None  # once the job has succeeded
    file: str | None  # of the slice alone, relative to DATA; None: not done yet, or in the result
    sha256: str | None

    @classmethod
    def of(cls, job: Job, job_slice: JobSlice) -> "StoredSlice":
        """As the rows have it."""
        whole = None if job.result is None else StoredResult.of(job)
        index = job.slices.index(job_slice.slice)
        return cls(job.id, job_slice.slice, index, whole, job_slice.result, job_slice.result_sha256)


def result_file(context: Context, made: StoredResult, wanted: OutputFormat) -> Verified:
    """The result in that format, verified; converted on first demand, and anew where a converted file is damaged.

    Raises Gone, and Damaged where the result itself is. Two at once do not meet.
    """
    folder = context.storage.path(made.folder)
    name = result_name(wanted)
    try:
        return _verified(context, made, folder / name)
    except FileNotFoundError:
        if name == RESULT:
            raise Gone(f"the files of this result are no longer kept; {POST_AGAIN}") from None
    except DamagedFile as error:
        if name == RESULT:
            raise damaged_result(context, made.job_id, folder / name) from error
        _count(context, made.job_id, "converted", name)
    whole = result_file(context, made, OUTPUTS["h5"])
    context.storage.require(whole.stamp.size)
    try:
        digest = convert(whole.path, folder / name, wanted)
    except FileNotFoundError:
        raise Gone(f"the files of this result are no longer kept; {POST_AGAIN}") from None
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged_result(context, made.job_id, whole.path) from error
    with context.sessions.begin() as session:
        integrity.add_file(session, made.job_id, name, digest)
        recount(session, made.job_id)
    return context.verifier.check(folder / name, digest.sha256)


def _verified(context: Context, made: StoredResult, path: Path) -> Verified:
    """The file, compared with the digest of the row; one of an older version gets that now."""
    if (known := made.files.get(path.name)) is not None:
        return context.verifier.check(path, known["sha256"])
    found = Digest.of(path)
    beside = path.with_name(path.name + ".sha256")
    with suppress(FileNotFoundError):  # older versions kept the digest there, once a file was asked for
        found = found._replace(sha256=beside.read_text())
    verified = context.verifier.check(path, found.sha256)
    with context.sessions.begin() as session:
        integrity.add_file(session, made.job_id, path.name, found)
    return verified


def damaged_result(context: Context, job_id: uuid.UUID, path: Path) -> Damaged:
    """The problem of a result file that is not what was written, once that is noted."""
    context.verifier.forget(path)
    with context.sessions.begin() as session:
        integrity.note_job(session, job_id, path.name, "result")
    return Damaged(f"{path.name} of job {job_id} is damaged on the disk and is not sent; {POST_AGAIN}")


def _count(context: Context, job_id: uuid.UUID, kind: str, name: str) -> None:
    with context.sessions.begin() as session:
        integrity.count(session, kind, job_id=str(job_id), file=name)


def slice_result(context: Context, made: StoredSlice) -> SliceResult | None:
    """The latest image of the slice, None where there is none yet. Raises Damaged."""
    if made.whole is not None:
        # Slices of older versions have files of their own too, which may be left where the result is not.
        with suppress(Gone):
            whole = result_file(context, made.whole, OUTPUTS["h5"])
            try:
                return read_slice(whole.path, made.index)
            except DamagedFile as error:
                raise damaged_result(context, made.job_id, whole.path) from error
    if made.file is None:
        return _preview(context, made)
    path = context.storage.path(made.file)
    try:
        return SliceResult.load(path, made.sha256)
    except FileNotFoundError:
        if made.whole is not None:
            return None
        # The job may have succeeded since its row was read: what slices it has are in its result now.
        again = _read_again(context, made)
        return None if again is None or again.whole is None else slice_result(context, again)
    except DamagedFile as error:
        with context.sessions.begin() as session:
            integrity.note_job(session, made.job_id, f"slices/{path.name}", "slice")
        detail = f"the image of slice {made.slice} is damaged on the disk; it is computed anew before the job ends"
        raise Damaged(detail) from error


def _read_again(context: Context, made: StoredSlice) -> StoredSlice | None:
    with context.sessions() as session:
        job, job_slice = session.get(Job, made.job_id), session.get(JobSlice, (made.job_id, made.slice))
        return None if job is None or job_slice is None else StoredSlice.of(job, job_slice)


def _preview(context: Context, made: StoredSlice) -> SliceResult | None:
    path = context.storage.preview(made.job_id, made.slice)
    try:
        return SliceResult.load(path, owner=preview_owner(made.job_id, made.slice))
    except FileNotFoundError:
        return None
    except DamagedFile:
        # The worker soon shows another.
        path.unlink(missing_ok=True)
        _count(context, made.job_id, "preview", path.name)
        return None
