"""Upper bound on the expensive evaluations of a run, counted from its parameters. Torch-free.

`tests/core/test_cost.py` holds the counts against those of real runs.
"""

from dataclasses import dataclass, replace
from typing import Any

from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters import (
    DAPS,
    DCDP,
    DDS,
    DPS,
    MCG,
    OES,
    SIRT,
    TV,
    ASeqDIP,
    CGSense,
    DiffPIR,
    EarlyStoppingParameters,
    Fit,
    HoldoutParameters,
    L1Wavelet,
    Parameters,
    REDDiff,
    Sampler,
    ScoreMRI,
    SelfGuidedDIP,
    UDiGDIP,
)

# Of the algorithms; a test holds them to theirs.
TRIED_WEIGHTS = 6
TV_TRIAL_ITERATIONS, WAVELET_TRIAL_ITERATIONS = 20, 60
TV_INNER_ITERATIONS = 4
TV_PASSES, WAVELET_PASSES = 90, 120  # image operations of an iteration
TV_ALONE, TV_FOLLOWING = (12, 60), (50, 15)  # iterations of a judged run: with each weight, and with the best
TRIAL_SHARE, FINAL_FOLLOWING = 0.5, 0.3
START_CG_ITERATIONS, START_SIRT_ITERATIONS = 8, 100
DATA_ONLY_ITERATIONS = 20
LOOKS = 100
NORM_ITERATIONS = 24  # of Lanczos' method for |A|
JOINT_MAPS_NORMALS = 240.0
REFIT_MAPS_NORMALS = 28.0  # of one fit of the coil maps to a purified image: measured, it takes as long
ASSESSED_NORMALS = {True: 30.0, False: 3.0}  # of a method with a prior, and without: the misfit and the direct image


@dataclass(frozen=True)
class Evaluations:
    """Numbers of evaluations, each image of a batch counted. A forward or adjoint model is half a normal one, A^H A."""

    normals: float = 0.0
    passes: float = 0.0  # operations on every pixel of an image
    prior_calls: float = 0.0
    prior_gradients: float = 0.0  # evaluations with their gradient
    unet_updates: float = 0.0
    unet_calls: float = 0.0
    residual_updates: float = 0.0
    residual_calls: float = 0.0
    batch: int = 1  # images that go through at once, at most
    batch_is_coils: bool = False  # each of them is of one coil

    def __add__(self, other: "Evaluations") -> "Evaluations":
        mine, others = vars(self), vars(other)
        summed = {name: mine[name] + others[name] for name in mine if name not in ("batch", "batch_is_coils")}
        batch = max(self.batch, other.batch)
        return Evaluations(**summed, batch=batch, batch_is_coils=self.batch_is_coils or other.batch_is_coils)

    def times(self, number: float) -> "Evaluations":
        """The numbers multiplied by a count."""
        kept = ("batch", "batch_is_coils")
        return replace(self, **{name: number * value for name, value in vars(self).items() if name not in kept})


def of_run(method: Parameters, coils: int = 1, *, follows: bool = False) -> Evaluations:
    """Evaluations of one run, of one slice with one seed, to its end; `follows`: the slice has a reference slice."""
    start = Evaluations(normals=2.0 if method.is_direct else START_CG_ITERATIONS + 2.0)
    counts = method.evaluations()
    if counts is not None and not isinstance(method, EarlyStoppingParameters):
        return start + Evaluations(**counts)
    match method:
        case UDiGDIP():
            return start + _udig_dip(method, coils, follows=follows)
        case TV():
            tries = 1 if method.weight is not None else TRIED_WEIGHTS
            return start + _tv(tries * TV_TRIAL_ITERATIONS + method.iterations)
        case L1Wavelet():
            steps = (TRIED_WEIGHTS if method.weight is None else 1) * WAVELET_TRIAL_ITERATIONS + method.iterations
            return start + Evaluations(normals=1.0 * steps, passes=WAVELET_PASSES * steps)
        case EarlyStoppingParameters():
            once = start + _evaluations_of_one_run(method, coils)
            stages = 2 if method.holdout_share != 0 and method.refit else 1
            looks = 0.5 * LOOKS if method.holdout_share != 0 else 0.0
            return once.times(stages) + Evaluations(normals=looks)
        case HoldoutParameters():
            return start + Evaluations(normals=2.0, passes=20.0)
    return start + _default_evaluations(method)


def _default_evaluations(method: Parameters) -> Evaluations:
    """For methods of other distributions without counts: one A^H A, and one prior evaluation, per iteration."""
    steps = float(getattr(method, "iterations", getattr(method, "steps", 1)))
    return Evaluations(normals=steps, passes=10.0 * steps, prior_calls=steps if method.needs_prior else 0.0)


def of_setup(method: Parameters, modality: Modality, coils: int = 1, *, finds_norm: bool = True) -> Evaluations:
    """Evaluations that a slice needs once, whatever its seeds: norm, fitted coil maps, assessment.

    The norm of a scan whose projector is not stored is found on a coarse grid, and costs nothing then.
    """
    joint = JOINT_MAPS_NORMALS if method.fits_maps and modality is Modality.MRI and coils > 1 else 0.0
    norm = NORM_ITERATIONS if finds_norm else 0.0
    setup = Evaluations(normals=norm + ASSESSED_NORMALS[method.needs_prior] + joint, passes=norm * 10)
    if method.needs_prior and not method.checks_prior:
        setup += _tv(DATA_ONLY_ITERATIONS)
    return setup


def _tv(steps: int) -> Evaluations:
    # A search applies A^H A once more for each weight.
    return Evaluations(normals=TV_INNER_ITERATIONS * steps + 10.0, passes=TV_PASSES * steps)


def _udig_dip(p: UDiGDIP, coils: int, *, follows: bool) -> Evaluations:
    k = p.outer_iterations
    if not p.checks_prior:
        return _start(p.start) + _walk(p, k, coils)
    weights, (trial, final) = (1, TV_FOLLOWING) if follows else (TRIED_WEIGHTS, TV_ALONE)
    steps = weights * trial + final
    length = max(1, round(TRIAL_SHARE * k)) + (FINAL_FOLLOWING * k if follows else k)
    starts = Evaluations() if p.start == "tv" else _start(p.start).times(2)
    return _tv(steps) + starts + _walk(p, length, coils) + Evaluations(prior_calls=2.0, normals=20.0)


def _walk(p: UDiGDIP, k: float, coils: int) -> Evaluations:
    """Evaluations of so many outer iterations."""
    purifications = k / p.purification_period if p.purification_period <= k else 1.0
    pulled = (p.consistency_iterations + 1) * p.samples if p.consistency_iterations else 0
    shown = pulled * k if p.output == "consistent" else 0.0
    # A period's first iteration refits; the trial and the final run may each begin one more.
    refits = k / p.maps_period + 2 if p.maps_period and coils > 1 else 0.0
    updates, calls = p.inner_iterations * k, 2.0 * p.samples * k if p.inner_iterations else 0.0
    # An update leads all inputs at once, whose gradients are of as many images.
    updates *= p.samples
    unet = p.network == "unet"
    return Evaluations(
        normals=purifications * pulled + shown + updates + refits * REFIT_MAPS_NORMALS,
        passes=20.0 * p.samples * k,
        prior_calls=purifications * p.prior_calls * p.samples,
        unet_updates=updates if unet else 0.0,
        unet_calls=calls if unet else 0.0,
        residual_updates=0.0 if unet else updates,
        residual_calls=0.0 if unet else calls,
        batch=p.samples,
    )


def _start(name: str) -> Evaluations:
    match name:
        case "tv":
            return _tv(TRIED_WEIGHTS * TV_TRIAL_ITERATIONS + 100)
        case "sirt":
            return Evaluations(normals=START_SIRT_ITERATIONS + 2.0, passes=10.0 * START_SIRT_ITERATIONS)
    return Evaluations(normals=START_CG_ITERATIONS + 2.0)


def _evaluations_of_one_run(p: EarlyStoppingParameters, coils: int) -> Evaluations:
    """Evaluations of one run of an iterative method, without its refit."""
    if (counts := p.evaluations()) is not None:
        return Evaluations(**counts)
    match p:
        case CGSense() | SIRT():
            return Evaluations(normals=1.5 * p.iterations, passes=12.0 * p.iterations)
        case Fit():
            return _fit(p)
        case Sampler():
            return _sampler(p, coils)
    return _default_evaluations(p)


def _fit(p: Fit) -> Evaluations:
    updates = p.iterations + (p.mask_iterations if isinstance(p, OES) else 0)
    once = Evaluations(normals=float(updates), unet_updates=float(updates), passes=20.0 * updates)
    match p:
        case SelfGuidedDIP():
            return replace(once, unet_updates=float(updates * p.draws), batch=p.draws)
        case ASeqDIP():
            return replace(once, unet_calls=updates / p.inner_iterations)
    return once


def _sampler(p: Sampler, coils: int) -> Evaluations:
    """Evaluations of one walk down the noise levels."""
    each: dict[str, Any]
    match p:
        case DPS():
            each = {"prior_gradients": 1, "normals": 1}
        case DDS() | DiffPIR():
            each = {"prior_calls": 1, "normals": p.consistency_iterations + 1}
        case DAPS():
            drawn = p.langevin_steps or p.consistency_iterations + 2
            each = {"prior_calls": p.prior_calls, "normals": drawn, "passes": 8 * drawn}
        case REDDiff():
            each = {"prior_calls": 1, "normals": 1}
        case ScoreMRI():
            each = {"prior_calls": 2, "normals": 3}
        case MCG():
            each = {"prior_calls": 1, "prior_gradients": 1, "normals": p.projection_iterations + 5}
        case DCDP():
            each = {"prior_calls": p.prior_calls, "normals": p.consistency_iterations + 1}
        case _:
            each = {"prior_calls": 1, "normals": 2}
    separate = isinstance(p, ScoreMRI) and p.coils == "separate"
    batch = coils if separate else p.samples
    step = Evaluations(**{"passes": 30, **each}).times(batch)
    if separate:
        # A step through the models of single coils costs what one through that of all does.
        step = replace(step, normals=step.normals / coils)
    shown = Evaluations(normals=0.5 * p.steps)
    return replace(step.times(p.steps) + shown, batch=batch, batch_is_coils=separate)
