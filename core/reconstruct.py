"""Reconstruct a slice: one run of a method, an ensemble of seeds, and the driver that yields progress and the result.

`reconstruct_slice` is what service, command line, comparison and training run. Its events are consumed in a loop:

    problem = slice_problem(formats.read("scan.h5", [0]), 0, torch.device("cpu"))
    for event in reconstruct_slice(problem, complete(TV(), problem.modality), seed=0):
        match event:
            case Progress():
                print(event.iterate.step, event.metrics)
            case Finished():
                image = event.result.image
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from udig_recon.core import algorithms
from udig_recon.core.algorithms.tv import total_variation
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterate, Iterates, State, to_device
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.parameters import TV, Parameters
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.priors.card import Folders
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import ImageMetrics, SliceProblem, is_empty
from udig_recon.core.quality.assess import Assessment, assess
from udig_recon.core.results.store import SliceResult
from udig_recon.core.selection.output_variance import with_variance
from udig_recon.core.slice_order import WarmStart

BASELINE_WEIGHT = 1e-3
BASELINE_ITERATIONS = 20
"""Of total variation for the image that a prior's is compared with, where the method makes none: cheap, good enough."""

Curves = dict[str, list[float]]
"""Metrics of a run on the way by name, one value for each measured iterate; NaN where a value is unknown."""


def reconstruct(
    problem: SliceProblem,
    method: Parameters,
    *,
    seed: int,
    priors: Folders = None,
    state: State | None = None,
    warm_start: WarmStart | None = None,
) -> Iterates:
    """Run a method with one seed: iterates in the scan's units, of which the last one is the reconstruction.

    `method` is complete for the problem's modality. The same problem, method, seed, device and warm start give the same
    bits. With the `state` of an iterate the run continues after that iterate. `priors` are folders of priors beside the
    bundled ones. A slice without signal is an empty image.
    """
    A, y = problem.operator, problem.measurements
    if is_empty(y):
        empty = torch.zeros(1, *A.image_shape, device=y.device)
        yield Iterate(1, 1, empty, torch.zeros(()), prior_free_baseline=empty)
        return
    rng = torch.Generator(y.device).manual_seed(seed)
    scale, inputs = _in_intensity_scale(problem, method, priors, warm_start)
    for iterate in with_variance(algorithms.run(inputs, method, rng, state), state):
        baseline = iterate.prior_free_baseline
        yield iterate._replace(
            image=iterate.image * scale,
            # A run that has ended cannot continue.
            state=iterate.state if iterate.step < iterate.steps else None,
            prior_free_baseline=None if baseline is None else baseline * scale,
        )


def _in_intensity_scale(
    problem: SliceProblem, method: Parameters, priors: Folders, warm_start: WarmStart | None
) -> tuple[float, Inputs]:
    """Intensity scale of the slice, and its inputs divided by it; direct methods take the measurements as they are."""
    A, y = problem.operator, problem.measurements
    if method.is_direct:
        return 1.0, Inputs(y, A, {}, priors, warm_start)
    estimate = Inputs(y, A).cg_estimate()
    scale = intensity_scale(estimate)
    return scale, Inputs(y / scale, A, problem.side_images(estimate, scale), priors, warm_start)


def ensemble(
    problem: SliceProblem,
    method: Parameters,
    *,
    seed: int,
    seeds: int = 1,
    priors: Folders = None,
    state: State | None = None,
    warm_start: WarmStart | None = None,
    baseline: bool = True,
) -> Iterates:
    """Run a method with the seeds `seed`, `seed + 1`, ...; the last iterate is the mean of their images.

    Before that, an image is the mean of the finished seeds and the running one, which counts by its progress. The last
    iterate of several seeds has their standard deviation and their combined prior check. With `baseline` the last
    iterate of a method with a prior has the prior-free image too.
    """
    makes_baseline = baseline and method.needs_prior and not method.checks_prior
    for last in _seeds(problem, method, seed, seeds, priors, state, warm_start):
        yield last._replace(steps=last.steps + 1) if makes_baseline else last
    if not makes_baseline:
        return
    end = last._replace(step=last.steps + 1, steps=last.steps + 1)
    for image in _prior_free_images(problem):
        end = end._replace(prior_free_baseline=image)
        yield end._replace(step=last.step)
    yield end


def _prior_free_images(problem: SliceProblem) -> Iterator[Tensor]:
    """Images (1, C, H, W) of total variation on the way; the last one is the prior-free baseline."""
    A, y = problem.operator, problem.measurements
    if is_empty(y):
        yield torch.zeros(1, *A.image_shape, device=y.device)
        return
    scale, inputs = _in_intensity_scale(problem, TV(), None, None)
    states = total_variation(inputs.y, A, BASELINE_WEIGHT, torch.Generator(y.device), None)
    for state in islice(states, BASELINE_ITERATIONS):
        yield state["image"] * A.support * scale


@dataclass(frozen=True, eq=False)
class FinishedSeeds:
    """Running moments of the finished seeds: mean image, and mean and squared deviations of the magnitudes."""

    count: int
    mean: Tensor  # (1, C, H, W)
    mean_magnitude: Tensor  # (1, 1, H, W)
    squares: Tensor  # (1, 1, H, W): sum of squared deviations from the mean magnitude, updated as Welford (1962) does
    checks: list[dict[str, Any]]
    residuals: list[float]  # on held-out measurements

    def with_seed(self, last: Iterate, magnitude: Tensor) -> "FinishedSeeds":
        """Moments with one more seed, of which this is the last iterate."""
        count, difference = self.count + 1, magnitude - self.mean_magnitude
        mean_magnitude = self.mean_magnitude + difference / count
        residual = last.validation_residual
        return FinishedSeeds(
            count,
            self.mean + (last.image - self.mean) / count,
            mean_magnitude,
            self.squares + difference * (magnitude - mean_magnitude),
            self.checks if last.prior_check is None else [*self.checks, asdict(last.prior_check)],
            self.residuals if residual is None else [*self.residuals, residual],
        )

    def mean_with(self, running: Iterate) -> Tensor:
        """Mean image of the finished seeds and of the running one, weighted by its progress."""
        if self.count == 0:
            return running.image
        share = running.step / max(1, running.steps)
        return (self.count * self.mean + share * running.image) / (self.count + share)

    @property
    def deviation(self) -> Tensor | None:
        """Standard deviation of the magnitudes; None with fewer than two seeds."""
        return (self.squares / (self.count - 1)).sqrt() if self.count > 1 else None

    def state(self, inner: Callable[[], State] | None) -> State:
        """State to continue from: within a seed that has the state `inner`, or before the next seed."""
        return {**vars(self), "inner": None if inner is None else inner()}


def _seeds(
    problem: SliceProblem,
    method: Parameters,
    seed: int,
    seeds: int,
    priors: Folders,
    state: State | None,
    warm_start: WarmStart | None,
) -> Iterates:
    if seeds == 1:
        yield from reconstruct(problem, method, seed=seed, priors=priors, state=state, warm_start=warm_start)
        return
    finished, inner = _restore_seeds(problem, state)
    for number in range(finished.count, seeds):
        run = reconstruct(problem, method, seed=seed + number, priors=priors, state=inner, warm_start=warm_start)
        for iterate in run:
            if iterate.step < iterate.steps:
                yield iterate._replace(
                    step=number * iterate.steps + iterate.step,
                    steps=seeds * iterate.steps,
                    image=finished.mean_with(iterate),
                    state=None if iterate.state is None else partial(finished.state, iterate.state),
                    deviation=finished.deviation,
                )
        finished = finished.with_seed(iterate, problem.operator.magnitude(iterate.image))
        inner = None
        last = iterate._replace(
            image=finished.mean,
            deviation=finished.deviation,
            step=finished.count * iterate.steps,
            steps=seeds * iterate.steps,
        )
        if finished.count < seeds:
            yield last._replace(state=partial(finished.state, None), prior_check=None)
    check = PriorCheck.combine([PriorCheck.from_stored(each) for each in finished.checks]) if finished.checks else None
    residual = math.fsum(finished.residuals) / len(finished.residuals) if finished.residuals else None
    yield last._replace(state=None, prior_check=check, validation_residual=residual)


def _restore_seeds(problem: SliceProblem, state: State | None) -> tuple[FinishedSeeds, State | None]:
    """Moments of the finished seeds, and the state of the running one."""
    device = problem.measurements.device
    if state is None:
        zero = torch.zeros(1, *problem.operator.image_shape, device=device)
        return FinishedSeeds(0, zero, zero[:, :1], zero[:, :1], [], []), None
    finished = {name: value for name, value in state.items() if name != "inner"}
    return FinishedSeeds(**to_device(finished, device)), state["inner"]


@dataclass(frozen=True, eq=False)
class Progress:
    """One iterate of the running slice."""

    problem: SliceProblem
    iterate: Iterate
    seconds: float  # since the run began, over all its parts
    metrics: ImageMetrics | None  # None: the iterate was not measured

    def preview(self) -> SliceResult:
        """Images of this iterate, without curves and rating."""
        return _slice_result(self.problem, self.iterate, {})


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A point that the run can continue from: `make_state()` is the `state` of `reconstruct_slice`."""

    step: int
    make_state: Callable[[], State]


@dataclass(frozen=True, eq=False)
class Finished:
    """The reconstructed slice and its metrics, by the names of `udig_recon.core.metrics.METRICS`."""

    result: SliceResult
    metrics: dict[str, float | None]


Event = Progress | Checkpoint | Finished


def every_iterations(count: int) -> Callable[[int], bool]:
    """A schedule for `reconstruct_slice`: measure each iterate whose step is a multiple of `count`."""
    return lambda step: step % count == 0


TENTH = every_iterations(10)


def reconstruct_slice(
    problem: SliceProblem,
    method: Parameters,
    *,
    seed: int,
    seeds: int = 1,
    priors: Folders = None,
    state: State | None = None,
    warm_start: WarmStart | None = None,
    every: Callable[[int], bool] = TENTH,
    rated: bool = True,
    counter: CostCounter | None = None,
    began: float | None = None,
) -> Generator[Event, None, None]:
    """Reconstruct a slice and yield events: `Progress` of each iterate, `Checkpoint`s, and `Finished` at the end.

    A `Checkpoint` follows the `Progress` of an iterate that the run can continue from; `state` is what its `make_state`
    returned. Metrics and curves are of the iterates whose step `every` is true for, and of the last one. `rated` says
    whether the result gets a rating, which for a method with a prior costs a short prior-free reconstruction. `counter`
    counts the cost, `began` is the time (`time.monotonic`) from which seconds count.
    """
    counter = CostCounter(problem.measurements.device) if counter is None else counter
    recorder = _Recorder(problem, counter, time.monotonic() if began is None else began, state)
    iterates = ensemble(
        problem,
        method,
        seed=seed,
        seeds=seeds,
        priors=priors,
        state=None if state is None else state["run"],
        warm_start=warm_start,
        baseline=rated,
    )
    with counter.counting(_prior_of(method, problem, priors)):
        for iterate in counter.measure_time(iterates):
            is_due = iterate.step == iterate.steps or every(iterate.step)
            metrics = recorder.measure(iterate) if is_due and iterate.step != recorder.measured_step else None
            yield Progress(problem, iterate, recorder.seconds, metrics)
            if iterate.state is not None:
                yield Checkpoint(iterate.step, partial(recorder.state, iterate.step, iterate.state))
        if metrics is None:
            metrics = recorder.measure(iterate)
            yield Progress(problem, iterate, recorder.seconds, metrics)
    measured = {**asdict(metrics), **_own_metrics(iterate), **counter.counts}
    if rated:
        assessment = assess(problem, method, iterate)
        result = _slice_result(problem, iterate, recorder.curves, assessment)
        yield Finished(result, {**measured, **assessment.metrics})
    else:
        yield Finished(_slice_result(problem, iterate, recorder.curves), measured)


def finish(events: Iterator[Event]) -> Finished:
    """Consume the events of `reconstruct_slice`; the last one."""
    for event in events:
        if isinstance(event, Finished):
            return event
    raise ValueError("the events end without a result; expected those of reconstruct_slice")


def _prior_of(method: Parameters, problem: SliceProblem, priors: Folders) -> nn.Module | None:
    """The prior that a method evaluates; None for methods without one. Raises MissingPrior."""
    if not method.needs_prior:
        return None
    return load_prior(getattr(method, "prior", None), problem.modality, priors, problem.measurements.device)


class _Recorder:
    """Metrics of the measured iterates of a run, its curves, and its seconds over all its parts."""

    def __init__(self, problem: SliceProblem, counter: CostCounter, began: float, state: State | None) -> None:
        self._problem, self._counter, self._began = problem, counter, began
        self._seconds_before = 0.0
        self.curves: Curves = {}
        self.measured_step: int | None = None
        if state is not None:
            self._seconds_before = state["seconds"]
            self.curves = {name: list(values) for name, values in state["curves"].items()}
            self.measured_step = state["measured_step"]
            counter.resume(state, state["computing_seconds"])

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def measure(self, iterate: Iterate) -> ImageMetrics:
        """Measure an iterate and add it to the curves."""
        metrics = self._problem.with_operator(iterate.operator).image_metrics(iterate.image)
        self.measured_step = iterate.step
        values = {
            "iteration": iterate.step,
            "seconds": self.seconds,
            "loss": float(iterate.loss),
            "data_residual": metrics.data_residual,
            "noise_discrepancy": metrics.noise_discrepancy,
            **_own_metrics(iterate),
            **self._counter.counts,
        }
        if metrics.psnr is not None and metrics.ssim is not None:
            values |= {"psnr": metrics.psnr, "ssim": metrics.ssim}
        for name, value in values.items():
            self.curves.setdefault(name, []).append(math.nan if value is None else value)
        return metrics

    def state(self, step: int, run: Callable[[], State]) -> State:
        """State of the whole run at an iterate whose own state `run` makes."""
        with torch.no_grad():
            return {
                "run": run(),
                "step": step,
                "seconds": self.seconds,
                "computing_seconds": self._counter.seconds,
                "measured_step": self.measured_step,
                "curves": self.curves,
                **self._counter.counts,
            }


def _own_metrics(iterate: Iterate) -> dict[str, float | None]:
    """Metrics that the algorithm itself reports, without a reference."""
    variance = iterate.iterate_variance
    return {
        "validation_residual": iterate.validation_residual,
        "iterate_variance": None if variance is None else float(variance),
    }


def _slice_result(
    problem: SliceProblem, iterate: Iterate, curves: Curves, assessment: Assessment | None = None
) -> SliceResult:
    return SliceResult(
        image=problem.magnitude(iterate.image),
        image_complex=problem.complex_image(iterate.image),
        direct=problem.direct_image,
        reference=problem.reference_for(iterate.image),
        curves=dict(curves),
        prior_check=iterate.prior_check,
        rating=None if assessment is None else assessment.rating,
        deviation=None if iterate.deviation is None else problem.crop(iterate.deviation),
        hallucination=None if assessment is None else assessment.hallucination,
    )
