"""Stored results and slices of jobs: verified by digest, converted to other formats on demand."""

import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Damaged, Gone
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.files.checksummed_arrays import ARCHIVE_ERRORS
from udig_recon.core.results.hdf5 import read_slice
from udig_recon.core.results.output_format import OutputFormat
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import Job, JobSlice
from udig_recon.worker.storage import integrity, keys, previews
from udig_recon.worker.storage.accounting import recount
from udig_recon.worker.storage.integrity import Verified
from udig_recon.worker.storage.keys import RESULT_NAME, result_name

POST_AGAIN = "post the job again"
SIGNED_SECONDS = 300.0


@dataclass(frozen=True)
class StoredResult:
    """The result of a job that has succeeded."""

    job_id: uuid.UUID
    prefix: str  # of its files in the storage
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
    key: str | None  # of the slice alone; None: not done yet, or in the result
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
    name = result_name(wanted)
    key = f"{made.prefix}/{name}"
    try:
        return _verify_file(context, made, key)
    except FileNotFoundError:
        if name == RESULT_NAME:
            raise Gone(f"the files of this result are no longer kept; {POST_AGAIN}") from None
    except DamagedFile as error:
        if name == RESULT_NAME:
            raise damaged_result(context, made.job_id, key) from error
        _count(context, made.job_id, "converted", name)
    whole = result_file(context, made, OUTPUTS["h5"])
    context.storage.require(whole.info.size)
    try:
        with context.storage.local(whole.key) as source, context.storage.writing(key) as path:
            digest = convert(source, path, wanted)
    except FileNotFoundError:
        raise Gone(f"the files of this result are no longer kept; {POST_AGAIN}") from None
    except ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged_result(context, made.job_id, whole.key) from error
    with context.sessions.begin() as session:
        integrity.add_file(session, made.job_id, name, digest)
        recount(session, made.job_id)
    return context.verifier.check(context.storage, key, digest.sha256)


@dataclass(frozen=True)
class SignedResult:
    """Where a client may fetch a result file from the storage itself, for SIGNED_SECONDS."""

    url: str
    sha256: str


def signed_result(context: Context, made: StoredResult, wanted: OutputFormat, method: str) -> SignedResult | None:
    """Where GET or HEAD finds the result in that format at the storage itself; None: the storage signs nothing.

    Its size is compared with that of its row, its bytes are not: the client has their digest. A format that is not
    there yet is made first. Raises as `result_file`.
    """
    key = f"{made.prefix}/{result_name(wanted)}"
    signed = context.storage.sign(method, key, SIGNED_SECONDS)
    if signed is None:
        return None
    known = made.files.get(result_name(wanted))
    try:
        if known is not None and context.storage.info(key).size == known["bytes"]:
            return SignedResult(signed.url, known["sha256"])
    except (FileNotFoundError, DamagedFile):
        pass
    return SignedResult(signed.url, result_file(context, made, wanted).sha256)


def _verify_file(context: Context, made: StoredResult, key: str) -> Verified:
    """The file, compared with the digest of the row; one of an older version gets that now."""
    storage, name = context.storage, keys.name_of(key)
    if (known := made.files.get(name)) is not None:
        return context.verifier.check(storage, key, known["sha256"])
    digest = integrity.digest_of(storage, key)
    with suppress(FileNotFoundError):  # versions before digests in rows kept them beside the file
        digest = digest._replace(sha256=storage.read(f"{key}.sha256").decode())
    verified = context.verifier.check(storage, key, digest.sha256)
    with context.sessions.begin() as session:
        integrity.add_file(session, made.job_id, name, digest)
    return verified


def damaged_result(context: Context, job_id: uuid.UUID, key: str) -> Damaged:
    """The problem of a result file that is not what was written, once that is noted."""
    name = keys.name_of(key)
    context.verifier.forget(key)
    with context.sessions.begin() as session:
        integrity.note_job(session, job_id, name, "result")
    return Damaged(f"{name} of job {job_id} is damaged on the disk and is not sent; {POST_AGAIN}")


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
                with context.storage.local(whole.key) as path:
                    return read_slice(path, made.index)
            except DamagedFile as error:
                raise damaged_result(context, made.job_id, whole.key) from error
    if made.key is None:
        return _preview(context, made)
    name = keys.name_of(made.key)
    try:
        return SliceResult.from_bytes(context.storage.read(made.key), name, made.sha256)
    except FileNotFoundError:
        if made.whole is not None:
            return None
        # The job may have succeeded since its row was read: what slices it has are in its result now.
        again = _read_again(context, made)
        return None if again is None or again.whole is None else slice_result(context, again)
    except DamagedFile as error:
        with context.sessions.begin() as session:
            integrity.note_job(session, made.job_id, f"slices/{name}", "slice")
        detail = f"the image of slice {made.slice} is damaged on the disk; it is computed anew before the job ends"
        raise Damaged(detail) from error


def _read_again(context: Context, made: StoredSlice) -> StoredSlice | None:
    with context.sessions() as session:
        job, job_slice = session.get(Job, made.job_id), session.get(JobSlice, (made.job_id, made.slice))
        return None if job is None or job_slice is None else StoredSlice.of(job, job_slice)


def _preview(context: Context, made: StoredSlice) -> SliceResult | None:
    try:
        return previews.load(context.sessions, context.storage, made.job_id, made.slice)
    except FileNotFoundError:
        return None
    except DamagedFile:
        # The worker soon writes another one.
        previews.delete(context.sessions, context.storage, made.job_id, made.slice)
        _count(context, made.job_id, "preview", keys.name_of(keys.preview(made.job_id, made.slice)))
        return None
