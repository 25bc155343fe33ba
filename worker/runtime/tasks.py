"""Task of a worker: claim a slice, compute it, and commit its outcome."""

import gc
import hashlib
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import torch
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from udig_recon.core.allocator import release_freed_memory
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.interruption import interruptible
from udig_recon.core.reconstruct import Finished
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import failures, leases, queue
from udig_recon.worker.jobs.failures import Problem
from udig_recon.worker.jobs.recompute import DamagedTooOften, requeue_damaged
from udig_recon.worker.jobs.state import LeaseLost
from udig_recon.worker.runtime.assemble import DamagedSlices, assemble, delete_slices
from udig_recon.worker.runtime.heartbeat import LeaseKeeper, waiting_for
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.slice_run import (
    NotKnown,
    OutOfTime,
    ShutdownRequested,
    SliceRun,
    YieldRequested,
    finite,
)
from udig_recon.worker.storage import integrity, keys, previews
from udig_recon.worker.storage.base import StorageUnavailable, is_full
from udig_recon.worker.storage.data_folder import ForeignFolder
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
Done = TypeVar("Done")
FOLDER_PAUSE_SECONDS = 1.0  # until a worker asks again whose storage this is
LONGEST_STORAGE_PAUSE = 30.0  # until a worker asks a storage again that does not answer
MISSING_SECONDS = 3600.0  # that a worker waits for the file of a scan, from when it first missed it
MISSING_PAUSE_SECONDS = 30.0  # between two looks at one job's
UNKNOWN_SECONDS = 3600.0  # that a job which this version does not know waits for a newer one, from when it was queued


def run_next_slice(process: WorkerProcess, job_id: uuid.UUID, slice_: int) -> None:
    """Claim and compute the slice whose turn it is, whichever the message named; nothing when none waits."""
    process.messages_received += 1
    if process.shutting_down or not _has_its_folder(process):
        queue.enqueue([(job_id, slice_)])
        process.shutdown.wait(FOLDER_PAUSE_SECONDS)
        return
    asked_at = datetime.now(UTC)
    with process.sessions.begin() as session:
        lease_seconds, room = process.settings.lease_seconds, process.room(session)
        claim = leases.claim(session, process.name, lease_seconds, process.skipped_jobs, room)
    if claim is None:
        return
    tracing.record("slice.wait", claim.traceparent, claim.queued_at, claim.claimed_at)
    tracing.record("slice.claim", claim.traceparent, asked_at, datetime.now(UTC))
    which: dict[str, str | int] = {"job_id": str(claim.job_id), "slice": claim.slice, "attempt": claim.attempt}
    with tracing.span("slice", claim.traceparent, which), bound_contextvars(**which):
        log.info("slice.started")
        with LeaseKeeper(process.sessions, claim, process.settings, process.storage) as lease, process.holding(lease):
            _work(process, lease)
    # Between two slices the memory is the other workers'.
    release_freed_memory()
    process.shutdown.wait(process.storage_pause)  # the slice is given back: whose storage answers may have it


def _has_its_folder(process: WorkerProcess) -> bool:
    """Whether the data folder is the service's; a worker that finds another ends."""
    try:
        return process.confirm_data_folder()
    except ForeignFolder as error:
        log.error("data_folder.mismatched", extra={"error": str(error)})
        os.kill(os.getpid(), signal.SIGTERM)
        return False


def _work(process: WorkerProcess, lease: LeaseKeeper) -> None:
    """Bring the claim to one of its ends: done, failed, given back, or lost to another."""
    try:
        _finish(process, lease)
    except LeaseLost:
        log.info("slice.cancelled" if lease.cancelled else "slice.lease_lost")
    except YieldRequested:
        give_back(lease, yielded=True)
    except ShutdownRequested:
        give_back(lease)
    except OutOfTime:
        _fail(lease, failures.time_limit(lease.claim.max_seconds or 0.0))
    except ScanMissing:
        _wait_for_scan(process, lease)
    except NotKnown as error:
        _leave(process, lease, error)
    except ReconstructionError as error:
        _fail(lease, failures.unusable(error))
    except DamagedFile:
        _fail_by_scan(lease)
    except StorageUnavailable:
        _note_unavailable(process)
        give_back(lease)
    except OutOfMemory as error:
        _fail(lease, failures.out_of_memory(lease.claim.slice, process.device_name, str(error)))
    except AWAY as error:
        # The lease runs out, and whoever reaches the database first goes on from the checkpoint.
        log.warning("database.unavailable", extra={"error": type(error).__name__})
    except Exception as error:
        full = is_full(error)
        cause = failures.disk_full(lease.claim.slice) if full else failures.internal(lease.claim.slice, error)
        if _fail(lease, cause) and not full:
            # Not raised: Celery would log the exception's words, which may quote the scan.
            log.exception("slice.failed")


def _note_unavailable(process: WorkerProcess) -> None:
    """Have this worker pause, longer each time, before it asks the storage again."""
    process.storage_pause = min(LONGEST_STORAGE_PAUSE, 2 * process.storage_pause or 1.0)
    log.warning("storage.unavailable", extra={"pause": process.storage_pause})


def _until_stored(process: WorkerProcess, lease: LeaseKeeper, step: Callable[[], Done]) -> Done:
    """What a step on the storage returns, as soon as that answers: what was computed must not be lost by its pause.

    Raises LeaseLost and ShutdownRequested.
    """
    while True:
        try:
            with waiting_for(process.storage, lease):
                found = step()
            process.storage_pause = 0.0
            return found
        except StorageUnavailable:
            _note_unavailable(process)
        with lease.waiting():
            process.shutdown.wait(process.storage_pause)
        lease.mark_active()
        if lease.lost:
            raise LeaseLost
        if process.shutting_down:
            raise ShutdownRequested


@contextmanager
def _left_to_cleanup() -> Iterator[None]:
    """What a storage that does not answer keeps of this the orphan cleanup deletes later."""
    try:
        yield
    except StorageUnavailable:
        log.warning("storage.unavailable", extra={"pause": 0.0})


def give_back(lease: LeaseKeeper, *, yielded: bool = False) -> None:
    """Let another worker go on with the claim; `yielded`: when there is nothing more urgent."""
    try:
        lease.commit(lambda session: leases.release(session, lease.claim, yielded=yielded))
    except LeaseLost:
        return
    queue.enqueue([(lease.claim.job_id, lease.claim.slice)])
    log.info("slice.preempted" if yielded else "slice.released")


def _wait_for_scan(process: WorkerProcess, lease: LeaseKeeper) -> None:
    """Let a worker that sees the scan's file have the job; it fails when the file does not come back for long."""
    job_id = lease.claim.job_id
    if process.missing_scan_seconds(job_id) < MISSING_SECONDS:
        process.skip(job_id, MISSING_PAUSE_SECONDS)
        log.error("scan.missing", extra={"pause": MISSING_PAUSE_SECONDS})
        give_back(lease)
    else:
        _fail(lease, failures.scan_missing(lease.claim.slice, MISSING_SECONDS))


def _leave(process: WorkerProcess, lease: LeaseKeeper, error: NotKnown) -> None:
    """Let a worker of a newer version have the job; it fails when none has come for long."""
    claim = lease.claim
    if process.skip(claim.job_id, UNKNOWN_SECONDS - (claim.claimed_at - claim.queued_at).total_seconds()):
        log.warning("job.unsupported", extra={"error": str(error)})
        give_back(lease)
    else:
        _fail(lease, failures.unusable(error))


def _fail_by_scan(lease: LeaseKeeper) -> None:
    """The scan's bytes are not those that were brought; every job on it would be wrong."""
    claim = lease.claim
    lease.query(lambda session: integrity.note_scan(session, claim.tenant, claim.scan_sha256))
    _fail(lease, failures.damaged_file("the stored scan", "post the scan again, then retry the job"))


def _fail(lease: LeaseKeeper, problem: Problem) -> bool:
    """Whether the job failed by this; not, when the claim is another's by now."""
    try:
        lease.commit(lambda session: leases.fail_job(session, lease.claim, problem))
    except LeaseLost:
        log.info("slice.lease_lost")
        return False
    log.warning("job.failed", extra={"problem": problem["type"]})
    return True


class ScanMissing(Exception):
    """The file of a scan that has a row is not below this worker's DATA: a share that is not mounted, say."""


def _finish(process: WorkerProcess, lease: LeaseKeeper) -> None:
    # Before anything is written: where the scan is not, nobody would find what this worker writes either.
    if not process.storage.exists(keys.scan(lease.claim.scan_sha256, lease.claim.tenant)):
        raise ScanMissing
    process.storage_pause = 0.0
    process.note_scan_found(lease.claim.job_id)
    process.storage.create_group(keys.job(lease.claim.job_id))
    if lease.claim.result is not None or _finish_slice(process, lease, SliceRun(process, lease)):
        _finish_job(process, lease)


def _finish_slice(process: WorkerProcess, lease: LeaseKeeper, run: SliceRun) -> bool:
    """Compute the slice; whether it was the last one of its job."""
    claim, storage = lease.claim, process.storage
    finished = _compute(run)
    written = keys.slice_result(claim.job_id, claim.slice, claim.attempt)
    result = replace(finished.result, versions=run.versions)
    content = result.to_bytes()

    def store() -> None:
        lease.verify_lease()
        storage.require(len(content))
        storage.put(written, content)

    _until_stored(process, lease, store)
    sha256 = hashlib.sha256(content).hexdigest()

    def accept(session: Session) -> tuple[bool, list[tuple[uuid.UUID, int]]]:
        last = leases.store_slice(
            session,
            claim,
            written,
            {name: finite(value) for name, value in finished.metrics.items()},
            None if result.prior_check is None else result.prior_check.as_json(),
            None if result.rating is None else result.rating.as_json(),
            sha256,
        )
        return last, leases.release_dependents(session, claim)

    try:
        last, freed = lease.commit(accept)
    except LeaseLost:
        if not lease.query(lambda session: leases.is_accepted(session, claim, written)):
            with _left_to_cleanup():
                storage.delete(written)
            raise
        # Whoever follows is rung for by the sweep.
        last, freed = False, []
    if freed:
        queue.enqueue(freed)
    with _left_to_cleanup():
        run.checkpoints.clear()
        previews.delete(process.sessions, storage, claim.job_id, claim.slice)  # the image is in the result
    log.info("slice.succeeded")
    return last


def _finish_job(process: WorkerProcess, lease: LeaseKeeper) -> None:
    def check() -> None:
        lease.mark_active()
        if lease.lost:
            raise LeaseLost
        if process.shutting_down:
            raise ShutdownRequested

    claim = lease.claim
    try:
        with interruptible(check):
            folder, versions, files = _until_stored(process, lease, lambda: assemble(process, claim))
    except DamagedSlices as error:
        _recompute(lease, error.slices)
        return
    try:
        lease.commit(lambda session: leases.succeed_job(session, claim, folder, versions, files))
    except LeaseLost:
        if not lease.query(lambda session: leases.is_accepted(session, claim, folder)):
            with _left_to_cleanup():
                process.storage.delete_prefix(folder)
            raise
    with _left_to_cleanup():
        delete_slices(process.sessions, process.storage, claim.job_id)
    log.info("job.succeeded")


def _recompute(lease: LeaseKeeper, slices: Sequence[int]) -> None:
    """Have the slices computed anew whose files are damaged."""

    def requeue(session: Session) -> list[tuple[uuid.UUID, int]]:
        again = requeue_damaged(session, lease.claim, slices)
        for slice_ in slices:
            integrity.count(session, "slice", slice=slice_)
        return again

    try:
        again = lease.commit(requeue)
    except DamagedTooOften as error:
        _fail(lease, failures.damaged_file(str(error), "look after the disk, then retry the job"))
    else:
        queue.enqueue(again)


class OutOfMemory(Exception):
    """The device has not enough memory for a slice."""


def _compute(run: SliceRun) -> Finished:
    """Compute the slice; when memory runs out, once more after all unused memory is freed."""
    try:
        return run.compute()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        log.warning("memory.exhausted", extra={"error": str(error)})
    gc.collect()
    release_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return run.compute()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(str(error) or "no further memory was given") from None


def _is_out_of_memory(error: Exception) -> bool:
    # torch's CPU allocator has no exception of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
