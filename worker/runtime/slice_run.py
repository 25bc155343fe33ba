"""One slice computed: read, iterate, look now and then, keep checkpoints, go on from one."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from udig_recon.core.acquisition import Modality
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.interruption import interruptible
from udig_recon.core.iterates import Iterate, State
from udig_recon.core.parameters import Parameters, parse
from udig_recon.core.priors.load import load_prior
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.ensemble import ensemble
from udig_recon.core.reconstruct import Quality, SliceProblem, slice_problems
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.jobs.state import LeaseLost
from udig_recon.worker.runtime.checkpoints import Checkpoints, fingerprint
from udig_recon.worker.runtime.heartbeat import LeaseKeeper, ProgressReport
from udig_recon.worker.runtime.prepared_scans import read_slice
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
WATCHING_SHARE = 0.01  # of the time at most goes into looking at iterates, and as much into keeping them
UNKNOWN = ("extra_forbidden", "union_tag_invalid", "literal_error", "enum")  # what pydantic says of a newer version's
LAST_CHECKPOINT_SECONDS = 4.0  # a worker that ends waits this long for an iterate to go on from
LAST_ITERATE_SECONDS = 30.0  # and so long does a job whose time is up


class NotKnown(UnsupportedScan):
    """Parameters with a method, knob or choice that this version has never heard of; a newer one has."""


class ShutdownRequested(Exception):
    """The worker ends; its last checkpoint is what the next one goes on from."""


class YieldRequested(ShutdownRequested):
    """Something more urgent waits; whoever takes the slice later goes on from its last checkpoint."""


class OutOfTime(Exception):
    """The job has used up its seconds; its last checkpoint is what a retry with more of them goes on from."""


@dataclass(frozen=True)
class Outcome:
    """A finished slice."""

    result: SliceResult
    metrics: dict[str, float | None]

    @property
    def prior_check(self) -> dict[str, Any] | None:
        """What it was judged by, where it was."""
        return None if self.result.prior_check is None else self.result.prior_check.as_json()

    @property
    def quality(self) -> dict[str, Any] | None:
        """What it is worth."""
        return None if self.result.rating is None else self.result.rating.as_json()


class SliceRun:
    """The computation of one claimed slice in this process."""

    def __init__(self, process: WorkerProcess, lease: LeaseKeeper) -> None:
        self._process, self._lease, self._claim = process, lease, lease.claim
        self.method: Parameters = _understood(self._claim.parameters)
        self.modality = Modality(self._claim.scan_header["modality"])
        self.versions = process.versions(self.method, self.modality, self._claim.tenant)
        made_by = fingerprint(
            parameters=self._claim.parameters,
            seed=self._claim.seed,
            seeds=self._claim.seeds,
            warm_start=None if self._claim.warm_start is None else asdict(self._claim.warm_start),
            scan=self._claim.scan_sha256,
            prior=self.versions.get("prior_sha256"),
            software=[self.versions["software"], self.versions["torch"]],
            device=process.device.type,
        )
        folder = process.storage.checkpoints(self._claim.job_id)
        self.checkpoints = Checkpoints(folder, self._claim.slice, made_by, lambda: lease.holds_lease)
        self._meter = CostCounter(process.device)
        self._seconds_before = 0.0
        self._curves: dict[str, list[float]] = {}
        self._leave_by: float | None = None

    def compute(self) -> Outcome:
        """Compute the slice.

        Raises LeaseLost, ShutdownRequested, OutOfTime, DamagedFile for the scan, and the errors of the engine.
        """
        with interruptible(self._check):
            return self._computed()

    def _check(self) -> None:
        """Asked for in every inner loop: those that end the computation wait for no iterate, or not for long."""
        self._lease.mark_active()
        if self._lease.lost:
            raise LeaseLost
        if self._process.shutting_down:
            self._leave_unless(LAST_CHECKPOINT_SECONDS, ShutdownRequested)
        elif self._lease.out_of_time:
            self._leave_unless(LAST_ITERATE_SECONDS, OutOfTime)

    def _leave_unless(self, seconds: float, how: type[Exception]) -> None:
        """Leave so long after this was said first, unless an iterate to go on from comes before."""
        if self._leave_by is None:
            self._leave_by = time.monotonic() + seconds
        if time.monotonic() > self._leave_by:
            raise how

    def _computed(self) -> Outcome:
        self._began = time.monotonic()
        kept = self.checkpoints.load(self._process.device) or {}
        if kept:
            log.info("slice.resumed", extra={"step": kept["step"]})
            self._seconds_before, self._curves = kept["seconds"], kept["curves"]
            self._meter.resume(kept, 0.0)
        problem = self._problem(shown=not kept)
        with self._meter.counting(self._prior()):
            last, quality = self._iterate(problem, kept.get("state"))
        found = assess(problem, self.method, last)
        result = replace(
            self._seen(problem, last, dict(self._curves)), rating=found.rating, hallucination=found.hallucination
        )
        measured = {**asdict(quality), **_signals(last), **found.metrics, **self._spent}
        return Outcome(result, {name: _finite(value) for name, value in measured.items()})

    def _prior(self) -> nn.Module | None:
        """The prior that the method evaluates."""
        if not self.method.needs_prior:
            return None
        folders = self._process.settings.priors_folders(self._claim.tenant)
        return load_prior(getattr(self.method, "prior", None), self.modality, folders, self._process.device)

    @property
    def _spent(self) -> dict[str, int]:
        """Evaluations and updates so far, over all attempts."""
        return self._meter.counts

    def _problem(self, shown: bool) -> SliceProblem:
        """What is to be solved; while coil maps are fitted to it, what needs no iteration can be seen."""
        with tracing.span("slice.read"):
            scan = read_slice(self._process, self._claim)
        fits_maps = self.method.fits_maps and self.modality is Modality.MRI
        look_at = 0.0
        with tracing.span("slice.maps"):
            for problem in slice_problems(scan, 0, self._process.device, fit_maps=fits_maps):
                self._check()
                if self._process.shutting_down:
                    raise ShutdownRequested
                began = time.monotonic()
                plain = problem.plain()
                self._plain = problem.magnitude(plain)
                if fits_maps and shown and began >= look_at:
                    self._tell(problem, Iterate(0, 0, plain, torch.tensor(math.nan)))
                    look_at = _rested(began, self._process.settings.snapshot_seconds)
        return problem

    @tracing.span("slice.iterate")
    def _iterate(self, problem: SliceProblem, state: dict[str, Any] | None) -> tuple[Iterate, Quality]:
        settings = self._process.settings
        look_at, kept_at, looked_at_step = 0.0, time.monotonic(), -1
        iterates = ensemble(
            problem,
            self.method,
            seed=self._claim.seed,
            seeds=self._claim.seeds,
            priors=settings.priors_folders(self._claim.tenant),
            state=state,
            warm_start=self._claim.warm_start,
        )
        for iterate in iterates:
            self._stop_if_told(iterate)
            now = time.monotonic()
            if now >= look_at and iterate.step != looked_at_step:
                quality = self._look(problem, iterate)
                looked_at_step = iterate.step
                look_at = _rested(now, settings.snapshot_seconds)
            if iterate.state is not None and self._keeping_is_due(now - kept_at):
                self._keep(iterate.step, iterate.state)
                kept_at = now
        if iterate.step != looked_at_step:
            quality = self._look(problem, iterate)
        return iterate, quality

    def _keeping_is_due(self, since: float) -> bool:
        """Whether so many seconds after a checkpoint it is time for the next, unless that one is being written yet."""
        if self.checkpoints.busy:
            return False
        return since >= pause_after(self.checkpoints.seconds, self._process.settings.checkpoint_seconds)

    def _stop_if_told(self, iterate: Iterate) -> None:
        self._check()
        how = self._told_to_stop()
        if how is not None and iterate.state is not None:
            self._keep(iterate.step, iterate.state)
            self.checkpoints.wait()
            raise how

    def _told_to_stop(self) -> type[Exception] | None:
        """How to stop at an iterate that can be gone on from."""
        if self._process.shutting_down:
            return ShutdownRequested
        if self._lease.out_of_time:
            return OutOfTime
        return YieldRequested if self._lease.yield_requested else None

    def _look(self, problem: SliceProblem, iterate: Iterate) -> Quality:
        """Measure an iterate, have it told and shown, and remember it in the curves."""
        quality, point = self._tell(problem, iterate)
        signals = {"noise_discrepancy": quality.noise_discrepancy, **_signals(iterate)}
        for name, value in {**asdict(point), **signals}.items():
            if name in signals or (value is not None and name != "iterations"):
                self._curves.setdefault(name, []).append(math.nan if value is None else float(value))
        return quality

    def _tell(self, problem: SliceProblem, iterate: Iterate) -> tuple[Quality, Point]:
        quality = problem.quality(iterate.image)
        point = Point(
            iteration=iterate.step,
            iterations=iterate.steps,
            seconds=self._seconds_before + time.monotonic() - self._began,
            loss=_finite(float(iterate.loss)),
            data_residual=_finite(quality.data_residual),
            psnr=_finite(quality.psnr),
            ssim=_finite(quality.ssim),
        )
        self._lease.report(ProgressReport(point, self._seen(problem, iterate, {})))
        return quality, point

    def _seen(self, problem: SliceProblem, iterate: Iterate, curves: dict[str, list[float]]) -> SliceResult:
        image = iterate.image
        return SliceResult(
            image=problem.magnitude(image),
            image_complex=problem.complex_image(image),
            direct=self._plain,
            reference=problem.reference_for(image),
            curves=curves,
            prior_check=iterate.prior_check,
            deviation=None if iterate.deviation is None else problem.shown(iterate.deviation),
        )

    @tracing.span("slice.checkpoint")
    def _keep(self, step: int, state: Callable[[], State]) -> None:
        seconds = self._seconds_before + time.monotonic() - self._began
        with torch.no_grad():
            content = {"state": state(), "step": step, "seconds": seconds, "curves": self._curves, **self._spent}
            self.checkpoints.save(step, content)


def _signals(iterate: Iterate) -> dict[str, float | None]:
    """What an iterate says of itself, without a reference."""
    variance = iterate.iterate_variance
    return {
        "validation_residual": iterate.validation_residual,
        "iterate_variance": None if variance is None else float(variance),
    }


def pause_after(spent: float, period: float) -> float:
    """Seconds until the next look or checkpoint, after one that cost so many: a period, or what keeps it cheap."""
    return max(period, spent / WATCHING_SHARE)


def _rested(began: float, period: float) -> float:
    """When to look again, after a look that began then."""
    now = time.monotonic()
    return now + pause_after(now - began, period)


def _finite(value: float | None) -> float | None:
    """Infinite and undefined numbers have no place in JSON."""
    return value if value is not None and math.isfinite(value) else None


def _understood(parameters: dict[str, Any]) -> Parameters:
    """The method as this version knows it. Raises NotKnown, or UnsupportedScan for a value out of bounds."""
    try:
        return parse(parameters)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "method"
        kind = NotKnown if first["type"] in UNKNOWN else UnsupportedScan
        raise kind(f"this worker's version does not take the parameters: {where}: {first['msg']}") from error
