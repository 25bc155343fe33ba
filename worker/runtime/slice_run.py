"""Run of one claimed slice: the engine's events go to a progress reporter, a checkpointer and a shutdown guard."""

import logging
import math
import time
from contextlib import closing
from dataclasses import asdict

import torch
from pydantic import ValidationError

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.interruption import interruptible
from udig_recon.core.iterates import Iterate, State
from udig_recon.core.parameters import Parameters, parse
from udig_recon.core.problem import SliceProblem, forward_model_of, slice_problems
from udig_recon.core.reconstruct import Checkpoint, Finished, Progress, reconstruct_slice
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.jobs.state import LeaseLost
from udig_recon.worker.runtime.checkpoints import Checkpoints, fingerprint
from udig_recon.worker.runtime.heartbeat import LeaseKeeper, ProgressReport, waiting_for
from udig_recon.worker.runtime.prepared_scans import read_slice
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
OVERHEAD_SHARE = 0.01  # of the time at most goes into measuring iterates, and as much into checkpoints
UNKNOWN = ("extra_forbidden", "union_tag_invalid", "literal_error", "enum")  # pydantic's errors for a newer version
LAST_CHECKPOINT_SECONDS = 4.0  # a worker that shuts down waits this long for an iterate to continue from
LAST_ITERATE_SECONDS = 30.0  # and so long does a job whose time is up
STATE_FORMAT = 3  # of the content of checkpoints; another one cannot be continued


class NotKnown(UnsupportedScan):
    """A method, parameter or choice that this version does not know; a newer version does."""


class ShutdownRequested(Exception):
    """The worker shuts down; the next one continues from the last checkpoint."""


class YieldRequested(ShutdownRequested):
    """A more urgent slice waits; the worker that takes this one later continues from the last checkpoint."""


class OutOfTime(Exception):
    """The job has used up its seconds; a retry with more seconds continues from the last checkpoint."""


class ShutdownGuard:
    """Decides when a computation must stop: at once, at the next resumable iterate, or after a grace period."""

    def __init__(self, process: WorkerProcess, lease: LeaseKeeper) -> None:
        self._process, self._lease = process, lease
        self._stop_at: float | None = None

    def check(self) -> None:
        """Called in every inner loop. Raises LeaseLost at once, and other reasons to stop after their grace period."""
        self._lease.mark_active()
        if self._lease.lost:
            raise LeaseLost
        if self._process.shutting_down:
            self._stop_after(LAST_CHECKPOINT_SECONDS, ShutdownRequested)
        elif self._lease.out_of_time:
            self._stop_after(LAST_ITERATE_SECONDS, OutOfTime)

    def reason(self) -> type[Exception] | None:
        """Why the run should stop at the next iterate that it can continue from; None: it should not."""
        if self._process.shutting_down:
            return ShutdownRequested
        if self._lease.out_of_time:
            return OutOfTime
        return YieldRequested if self._lease.yield_requested else None

    def _stop_after(self, seconds: float, reason: type[Exception]) -> None:
        if self._stop_at is None:
            self._stop_at = time.monotonic() + seconds
        if time.monotonic() > self._stop_at:
            raise reason


class ProgressReporter:
    """Decides which iterates are measured, and reports those to the lease keeper."""

    def __init__(self, lease: LeaseKeeper, guard: ShutdownGuard, period: float) -> None:
        self._lease, self._guard, self._period = lease, guard, period
        self._next_at = 0.0
        self._began = 0.0

    def is_due(self) -> bool:
        """Whether it is time to measure an iterate; never while the run must stop, whose checkpoint comes first."""
        self._began = time.monotonic()
        return self._began >= self._next_at and self._guard.reason() is None

    def report(self, progress: Progress) -> None:
        """Report a measured iterate with its preview, and pause in proportion to what that took."""
        iterate, metrics = progress.iterate, progress.metrics
        point = Point(
            iteration=iterate.step,
            iterations=iterate.steps,
            seconds=progress.seconds,
            loss=finite(float(iterate.loss)),
            data_residual=None if metrics is None else finite(metrics.data_residual),
            psnr=None if metrics is None else finite(metrics.psnr),
            ssim=None if metrics is None else finite(metrics.ssim),
        )
        self._lease.report(ProgressReport(point, progress.preview()))
        now = time.monotonic()
        self._next_at = now + pause_after(now - self._began, self._period)


class Checkpointer:
    """Saves checkpoints now and then, at most for a hundredth of the time."""

    def __init__(self, checkpoints: Checkpoints, period: float) -> None:
        self._checkpoints, self._period = checkpoints, period
        self._saved_at = time.monotonic()

    def save_if_due(self, checkpoint: Checkpoint) -> None:
        """Save this checkpoint if the pause since the last one is over, unless that one is still being written."""
        now = time.monotonic()
        if self._checkpoints.busy or now - self._saved_at < pause_after(self._checkpoints.seconds, self._period):
            return
        self._save(checkpoint)
        self._saved_at = now

    def save_now(self, checkpoint: Checkpoint) -> None:
        """Save this checkpoint and wait until it is written."""
        self._save(checkpoint)
        self._checkpoints.wait()

    @tracing.span("slice.checkpoint")
    def _save(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.save(checkpoint.step, checkpoint.make_state())


class SliceRun:
    """The computation of one claimed slice in this process."""

    def __init__(self, process: WorkerProcess, lease: LeaseKeeper) -> None:
        self._process, self._lease, self._claim = process, lease, lease.claim
        self.method: Parameters = _parse(self._claim.parameters)
        self.modality = Modality(self._claim.scan_header["modality"])
        self.versions = process.versions(self.method, self.modality, self._claim.tenant)
        made_by = fingerprint(
            format=STATE_FORMAT,
            parameters=self._claim.parameters,
            seed=self._claim.seed,
            seeds=self._claim.seeds,
            warm_start=None if self._claim.warm_start is None else asdict(self._claim.warm_start),
            scan=self._claim.scan_sha256,
            prior=self.versions.get("prior_sha256"),
            software=[self.versions["software"], self.versions["torch"]],
            device=process.device.type,
        )
        claim = self._claim
        self.checkpoints = Checkpoints(process.storage, claim.job_id, claim.slice, made_by, lambda: lease.holds_lease)

    def compute(self) -> Finished:
        """Compute the slice.

        Raises LeaseLost, ShutdownRequested, OutOfTime, DamagedFile for the scan, and the errors of the engine.
        """
        guard = ShutdownGuard(self._process, self._lease)
        reporter = ProgressReporter(self._lease, guard, self._process.settings.snapshot_seconds)
        began = time.monotonic()
        with interruptible(guard.check):
            state = self.checkpoints.load(self._process.device)
            if state is not None:
                log.info("slice.resumed", extra={"step": state["step"]})
            problem = self._problem(guard, None if state is not None else reporter, began)
            return self._run(problem, guard, reporter, state, began)

    def _problem(self, guard: ShutdownGuard, reporter: ProgressReporter | None, began: float) -> SliceProblem:
        """The problem to solve; while its model is refined, the reporter shows direct reconstructions."""
        with tracing.span("slice.read"), waiting_for(self._process.storage, self._lease):
            scan = read_slice(self._process, self._claim)
        fit_maps = self.method.fits_maps
        refined = fit_maps and forward_model_of(scan).refine is not None
        with tracing.span("slice.maps"):
            problems = slice_problems(
                scan, 0, self._process.device, fit_maps=fit_maps, preprocessing=self.method.preprocessing
            )
            for problem in problems:
                guard.check()
                if self._process.shutting_down:
                    raise ShutdownRequested
                if refined and reporter is not None and reporter.is_due():
                    direct = Iterate(0, 0, problem.direct(), torch.tensor(math.nan))
                    metrics = problem.image_metrics(direct.image)
                    reporter.report(Progress(problem, direct, time.monotonic() - began, metrics))
        return problem

    @tracing.span("slice.iterate")
    def _run(
        self,
        problem: SliceProblem,
        guard: ShutdownGuard,
        reporter: ProgressReporter,
        state: State | None,
        began: float,
    ) -> Finished:
        checkpointer = Checkpointer(self.checkpoints, self._process.settings.checkpoint_seconds)
        events = reconstruct_slice(
            problem,
            self.method,
            seed=self._claim.seed,
            seeds=self._claim.seeds,
            priors=self._process.settings.priors_folders(self._claim.tenant),
            state=state,
            warm_start=self._claim.warm_start,
            every=lambda _: reporter.is_due(),
            began=began,
        )
        with closing(events):
            for event in events:
                guard.check()
                match event:
                    case Progress() if event.metrics is not None:
                        reporter.report(event)
                    case Checkpoint():
                        reason = guard.reason()
                        if reason is not None:
                            checkpointer.save_now(event)
                            raise reason
                        checkpointer.save_if_due(event)
                    case Finished():
                        return event
        raise AssertionError("the engine ended without a result")


def pause_after(spent: float, period: float) -> float:
    """Seconds to pause after a measurement or checkpoint that took `spent`: the period, or more to keep it cheap."""
    return max(period, spent / OVERHEAD_SHARE)


def finite(value: float | None) -> float | None:
    """A finite number for JSON; None for infinite and undefined ones."""
    return value if value is not None and math.isfinite(value) else None


def _parse(parameters: dict[str, object]) -> Parameters:
    """The method of a row. Raises NotKnown for one of a newer version, UnsupportedScan for a value out of bounds."""
    try:
        return parse(parameters)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "method"
        kind = NotKnown if first["type"] in UNKNOWN else UnsupportedScan
        raise kind(f"this worker's version does not take the parameters: {field}: {first['msg']}") from error
