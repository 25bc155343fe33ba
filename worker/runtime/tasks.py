"""What a worker does when the doorbell rings: claim a slice, compute it, and settle what became of it."""

import gc
import logging
import os
import shutil
import signal
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch
from sqlalchemy.orm import Session
from structlog.contextvars import bound_contextvars

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.interruption import interruptible
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.jobs import failures as problems
from udig_recon.worker.jobs import leases, queue
from udig_recon.worker.jobs.failures import Problem
from udig_recon.worker.jobs.leases import Fenced
from udig_recon.worker.jobs.recompute import DamagedTooOften, requeue_damaged
from udig_recon.worker.runtime import memory_fit as fitting
from udig_recon.worker.runtime.assemble import DamagedSlices, assemble
from udig_recon.worker.runtime.heartbeat import Heart
from udig_recon.worker.runtime.process import Place
from udig_recon.worker.runtime.slice_run import NotKnown, Outcome, OutOfTime, Released, Run, Yielded
from udig_recon.worker.storage import integrity
from udig_recon.worker.storage.data_folder import ForeignFolder
from udig_recon.worker.storage.local import is_full
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
MISSING_SECONDS = 3600.0  # that a worker waits for the file of a scan, from when it first missed it
MISSING_PAUSE_SECONDS = 30.0  # between two looks at one job's
UNKNOWN_SECONDS = 3600.0  # that a job which this version does not know waits for a newer one, from when it was queued


def reconstruct_chunk(place: Place, job_id: uuid.UUID, slice_: int) -> None:
    """Do the chunk whose turn it is, whichever was rung for; nothing when none waits."""
    place.heard += 1
    if place.ending.is_set() or not _has_its_folder(place):
        queue.ring([(job_id, slice_)])
        return
    asked_at = datetime.now(UTC)
    with place.sessions.begin() as session:
        total = place.shared_memory_bytes
        room = None if total is None else fitting.room(session, place.name, total)
        claim = leases.claim(session, place.name, place.settings.lease_seconds, place.left, room)
    if claim is None:
        return
    tracing.record("slice.wait", claim.traceparent, claim.queued_at, claim.claimed_at)
    tracing.record("slice.claim", claim.traceparent, asked_at, datetime.now(UTC))
    which: dict[str, str | int] = {"job_id": str(claim.job_id), "slice": claim.slice, "attempt": claim.attempt}
    with tracing.span("slice", claim.traceparent, which), bound_contextvars(**which):
        log.info("slice.started")
        preview = place.storage.preview(claim.job_id, claim.slice)
        with Heart(place.sessions, claim, place.settings, preview) as heart, place.working(heart):
            _work(place, heart)


def _has_its_folder(place: Place) -> bool:
    """Whether the data folder is the service's; a worker that finds another ends."""
    try:
        return place.confirm_data_folder()
    except ForeignFolder as error:
        log.error("data_folder.mismatched", extra={"error": str(error)})
        os.kill(os.getpid(), signal.SIGTERM)
        return False


def _work(place: Place, heart: Heart) -> None:
    """Bring the claim to one of its ends: done, failed, given back, or lost to another."""
    try:
        _finish(place, heart)
    except Fenced:
        log.info("slice.cancelled" if heart.cancelled else "slice.lease_lost")
    except Yielded:
        give_back(heart, yielded=True)
    except Released:
        give_back(heart)
    except OutOfTime:
        _fail(heart, problems.time_limit(heart.claim.max_seconds or 0.0))
    except ScanMissing:
        _wait_for_scan(place, heart)
    except NotKnown as error:
        _leave(place, heart, error)
    except ReconstructionError as error:
        _fail(heart, problems.unusable(error))
    except DamagedFile:
        _fail_by_scan(heart)
    except OutOfMemory as error:
        _fail(heart, problems.out_of_memory(heart.claim.slice, place.device_name, str(error)))
    except AWAY as error:
        # The lease runs out, and whoever reaches the database first goes on from the checkpoint.
        log.warning("database.unavailable", extra={"error": type(error).__name__})
    except Exception as error:
        full = is_full(error)
        cause = problems.disk_full(heart.claim.slice) if full else problems.internal(heart.claim.slice, error)
        if _fail(heart, cause) and not full:
            # Not raised: Celery would log the exception's words, which may quote the scan.
            log.exception("slice.failed")


def give_back(heart: Heart, *, yielded: bool = False) -> None:
    """Let another worker go on with the claim; `yielded`: when there is nothing more urgent."""
    try:
        heart.settle(lambda session: leases.release(session, heart.claim, yielded=yielded))
    except Fenced:
        return
    queue.ring([(heart.claim.job_id, heart.claim.slice)])
    log.info("slice.preempted" if yielded else "slice.released")


def _wait_for_scan(place: Place, heart: Heart) -> None:
    """Let a worker that sees the scan's file have the job; it fails when the file does not come back for long."""
    job_id = heart.claim.job_id
    if place.misses(job_id) < MISSING_SECONDS:
        place.leave(job_id, MISSING_PAUSE_SECONDS)
        log.error("scan.missing", extra={"pause": MISSING_PAUSE_SECONDS})
        give_back(heart)
    else:
        _fail(heart, problems.scan_missing(heart.claim.slice, MISSING_SECONDS))


def _leave(place: Place, heart: Heart, error: NotKnown) -> None:
    """Let a worker of a newer version have the job; it fails when none has come for long."""
    claim = heart.claim
    if place.leave(claim.job_id, UNKNOWN_SECONDS - (claim.claimed_at - claim.queued_at).total_seconds()):
        log.warning("job.unsupported", extra={"error": str(error)})
        give_back(heart)
    else:
        _fail(heart, problems.unusable(error))


def _fail_by_scan(heart: Heart) -> None:
    """The scan's bytes are not those that were brought; every job on it would be wrong."""
    claim = heart.claim
    heart.ask(lambda session: integrity.note_scan(session, claim.tenant, claim.scan_sha256))
    _fail(heart, problems.damaged("the stored scan", "post the scan again, then retry the job"))


def _fail(heart: Heart, problem: Problem) -> bool:
    """Whether the job failed by this; not, when the claim is another's by now."""
    try:
        heart.settle(lambda session: leases.fail_job(session, heart.claim, problem))
    except Fenced:
        log.info("slice.lease_lost")
        return False
    log.warning("job.failed", extra={"problem": problem["type"]})
    return True


class ScanMissing(Exception):
    """The file of a scan that has a row is not below this worker's DATA: a share that is not mounted, say."""


def _finish(place: Place, heart: Heart) -> None:
    # Before anything is written: where the scan is not, nobody would find what this worker writes either.
    if not place.storage.scan(heart.claim.scan_sha256, heart.claim.tenant).is_file():
        raise ScanMissing
    place.found(heart.claim.job_id)
    place.storage.prepare_job(heart.claim.job_id)
    if heart.claim.result is not None or _finish_slice(place, heart, Run(place, heart)):
        _finish_job(place, heart)


def _finish_slice(place: Place, heart: Heart, run: Run) -> bool:
    """Compute the slice; whether it was the last one of its job."""
    claim, storage = heart.claim, place.storage
    outcome = _computed(run)
    heart.confirm()
    path = storage.slice_result(claim.job_id, claim.slice, claim.attempt)
    written = storage.relative(path)
    result = replace(outcome.result, versions=run.versions)
    storage.require(result.size_bytes)
    digest = result.save(path)

    def accept(session: Session) -> tuple[bool, list[tuple[uuid.UUID, int]]]:
        told = (outcome.metrics, outcome.prior_check, outcome.quality, digest.sha256)
        last = leases.store_slice(session, claim, written, *told)
        return last, leases.call_followers(session, claim)

    try:
        last, freed = heart.settle(accept)
    except Fenced:
        if not heart.ask(lambda session: leases.is_accepted(session, claim, written)):
            path.unlink(missing_ok=True)
            raise
        # Whoever follows is rung for by the sweep.
        last, freed = False, []
    if freed:
        queue.ring(freed)
    run.checkpoints.clear()
    storage.preview(claim.job_id, claim.slice).unlink(missing_ok=True)  # it is in the result
    log.info("slice.succeeded")
    return last


def _finish_job(place: Place, heart: Heart) -> None:
    def check() -> None:
        heart.show_life()
        if heart.lost:
            raise Fenced
        if place.ending.is_set():
            raise Released

    claim = heart.claim
    try:
        with interruptible(check):
            folder, versions, files = assemble(place, claim)
    except DamagedSlices as error:
        _recompute(heart, error.slices)
        return
    try:
        heart.settle(lambda session: leases.succeed_job(session, claim, folder, versions, files))
    except Fenced:
        if not heart.ask(lambda session: leases.is_accepted(session, claim, folder)):
            shutil.rmtree(place.storage.path(folder), ignore_errors=True)
            raise
    place.storage.drop_slices(claim.job_id)
    log.info("job.succeeded")


def _recompute(heart: Heart, slices: Sequence[int]) -> None:
    """Have the slices computed anew whose files are damaged."""

    def requeue(session: Session) -> list[tuple[uuid.UUID, int]]:
        again = requeue_damaged(session, heart.claim, slices)
        for slice_ in slices:
            integrity.count(session, "slice", slice=slice_)
        return again

    try:
        again = heart.settle(requeue)
    except DamagedTooOften as error:
        _fail(heart, problems.damaged(str(error), "look after the disk, then retry the job"))
    else:
        queue.ring(again)


class OutOfMemory(Exception):
    """The device has not enough memory for a slice."""


def _computed(run: Run) -> Outcome:
    """The slice; when memory runs out, tried again once with all of it."""
    try:
        return run.compute()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        log.warning("memory.exhausted", extra={"error": str(error)})
    gc.collect()
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
