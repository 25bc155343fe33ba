"""Guarded uDiG-DIP: a prior check on held-out measurements weighs the prior's image against total variation's.

A share of the measurements is held out, never of the calibration centre. Three stages follow:

1. Total variation, its weight by the held-out measurements, of all data.
2. A trial run of uDiG-DIP without the held-out measurements, which its iterates are validated with.
3. uDiG-DIP of all data, up to the noise level whose iterate was best in the trial.

The image is x_tv + a (x_prior - x_tv) with the a in [0, 1] of least error on the held-out measurements, computed from
the images made without them (Yaman et al. 2022). Where the prior helps so little that chance may explain it in so few
measurements, a is made smaller, down to 0 where it does not help.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.initial_estimate import initial_estimate
from udig_recon.core.algorithms.tv import WEIGHTS, total_variation
from udig_recon.core.algorithms.udig_dip import noise_level, udig_dip
from udig_recon.core.coils.joint_maps import has_coil_maps
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import UNSET, Iterate, Iterates, Misfit, Stage, State, run_stages
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.selection.holdout import validation_error, validation_part
from udig_recon.core.selection.weight_search import WeightSearch, solve_regularised

TRIAL_SHARE = 0.5
"""Length of the trial run, as a share of `outer_iterations`."""
SKIPPED_LEVELS = 1 / 3
"""Share of the noise levels that a final run with a warm start skips, since it starts from the trial's image."""
VALIDATION_PERIOD = 0.1
"""Share of the trial run from one validated iterate to the next."""
WHOLE = 0.9
"""From this weight on the prior's image is taken alone: the trial is shorter than the final run, which is better."""


class Lengths(NamedTuple):
    """Lengths of the first and of the last stage."""

    tv: tuple[int, int]  # iterations of total variation with each candidate weight, and with the best on all data
    tv_share: float  # what total variation counts for in the progress, as a share of `outer_iterations`
    final: float  # of the run on all data, as a share of `outer_iterations`


ALONE = Lengths(tv=(12, 60), tv_share=0.3, final=1.0)
WARM_STARTED = Lengths(tv=(50, 15), tv_share=0.25, final=0.3)
"""The weight of total variation is known, and the run on all data starts from the trial's image."""


@dataclass
class Findings:
    """Results that the stages leave one another."""

    train: Tensor  # mask of the measurements that are not held out
    tv: Tensor = UNSET  # (1, C, H, W) total variation of all data; set by the first stage, as what follows
    tv_train: Tensor = UNSET  # of the training part
    tv_error: float = 0.0  # mean squared, on the held-out measurements
    tv_weight: float = 0.0
    start_error: float = 0.0  # of the trial's start
    best: Tensor = UNSET  # (1, C, H, W) best image of the trial, its start included
    best_error: float = math.inf
    best_at: float = 0.0  # its place, as a share of the trial
    best_maps: Tensor = UNSET  # coil maps (coils, H, W) fitted to the best image; unset where none are fitted
    ood_score: float | None = None  # of the best image

    def fitted(self, A: LinearOperator) -> LinearOperator:
        """The model with the coil maps of the best image."""
        return with_maps(A, self.best_maps)


def udig_dip_guarded(inputs: Inputs, p: UDiGDIP, rng: Generator, state: State | None = None) -> Iterates:
    """uDiG-DIP with a prior check, or without one where `holdout_share` is 0.

    The last iterate has the prior check. With a warm start the weight of total variation is that of the reference
    slice, and the run on all data is a short one from the trial's best image; the check stays.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    if not p.checks_prior:
        z = initial_estimate(inputs, p.start, rng)
        return udig_dip(y, A, z, build_network(inputs, p, rng), prior, p, rng, state)
    train = A.partition(p.holdout_share, "lines", rng) if state is None else state["carry"]["train"].to(y.device)
    found = Findings(train)
    lengths = ALONE if inputs.warm_start is None else WARM_STARTED
    trial_steps = max(1, round(TRIAL_SHARE * p.outer_iterations))
    final_steps = max(1, round(lengths.final * p.outer_iterations))
    stages = [
        Stage(
            lambda inner: reconstruct_tv(inputs, lengths.tv, found, rng, inner),
            max(1, round(lengths.tv_share * p.outer_iterations)),
        ),
        Stage(lambda inner: run_trial(inputs, p, trial_steps, found, rng, inner), trial_steps),
        Stage(lambda inner: run_final(inputs, p, final_steps, found, rng, inner), final_steps),
    ]
    return run_stages(stages, found, state, y.device)


def reconstruct_tv(
    inputs: Inputs, iterations: tuple[int, int], found: Findings, rng: Generator, state: State | None
) -> Iterates:
    """Stage 1: total variation of all data, its weight found by the held-out measurements."""
    weights = list(WEIGHTS) if inputs.warm_start is None else [inputs.warm_start.tv_weight]
    search = WeightSearch(weights, found.train)
    for iterate in solve_regularised(total_variation, inputs.y, inputs.A, search, iterations, rng, state):
        # What the stage found is left after its last iterate, where no run can resume.
        yield iterate if iterate.step < iterate.steps else iterate._replace(state=None)
    found.tv, found.tv_train = iterate.image, search.image
    found.tv_error, found.tv_weight = min(search.errors), search.weight


def run_trial(inputs: Inputs, p: UDiGDIP, steps: int, found: Findings, rng: Generator, state: State | None) -> Iterates:
    """Stage 2: uDiG-DIP of the training part, its iterates validated by the held-out measurements."""
    training = inputs.restrict(found.train)
    z = found.tv_train if p.start == "tv" else initial_estimate(training, p.start, rng)
    if state is None:
        error = float(validation_error(inputs.A, inputs.y, found.train, z))
        found.start_error, found.best_error, found.best = error, error, z
    period = max(1, round(VALIDATION_PERIOD * steps))
    network, prior = build_network(inputs, p, rng), inputs.load_prior(p.prior)
    shortened = p.model_copy(update={"outer_iterations": steps})
    for iterate in udig_dip(training.y, training.A, z, network, prior, shortened, rng, state):
        is_last = iterate.step == steps
        maps = maps_of(iterate.operator)
        fitted = with_maps(inputs.A, maps)
        if iterate.state is not None and (iterate.step % period == 0 or is_last):
            error = float(validation_error(fitted, inputs.y, found.train, iterate.image))
            if error < found.best_error:
                found.best_error, found.best, found.best_at = error, iterate.image, iterate.step / steps
                found.best_maps = maps
        # The trial's own model lacks the held-out measurements, which misfits shown on the way are of too.
        shown = iterate._replace(operator=None if fitted is inputs.A else fitted)
        yield shown._replace(state=None) if is_last else shown
    score = inputs.load_ood_scorer(p.prior)
    found.ood_score = None if score is None else score(found.best)


def run_final(inputs: Inputs, p: UDiGDIP, steps: int, found: Findings, rng: Generator, state: State | None) -> Iterates:
    """Stage 3: uDiG-DIP of all data as far as the trial was good, blended with total variation."""
    image, check = found.tv, check_prior(inputs, p, found)
    y, A = inputs.y, found.fitted(inputs.A) if check.prior_weight > 0 else inputs.A
    last = round(found.best_at * p.outer_iterations)
    if check.prior_weight > 0:
        z, p = start_final(inputs, p, last, found, rng)
        network, prior = build_network(inputs, p, rng), inputs.load_prior(p.prior)
        for iterate in udig_dip(y, A, z, network, prior, p, rng, state):
            image = torch.lerp(found.tv, iterate.image, check.prior_weight)
            if iterate.step >= min(last, iterate.steps):
                break
            yield iterate._replace(image=image, steps=steps)
        A = iterate.operator or A
    yield Iterate(
        steps,
        steps,
        image,
        Misfit(A, image, y),
        prior_check=check,
        validation_residual=check.validation_residual,
        prior_free_baseline=found.tv,
        operator=None if A is inputs.A else A,
    )


def start_final(inputs: Inputs, p: UDiGDIP, last: int, found: Findings, rng: Generator) -> tuple[Tensor, UDiGDIP]:
    """The image that the final run, whose iteration `last` is its last, starts from, and its noise levels."""
    if inputs.warm_start is not None and last > 0:
        levels = {
            "outer_iterations": max(1, round(WARM_STARTED.final * last)),
            "noise_level": noise_level(round(SKIPPED_LEVELS * last), p),
            "final_noise_level": noise_level(last - 1, p),
        }
        return found.best, p.model_copy(update=levels)
    if p.start == "tv":
        return found.tv, p
    return initial_estimate(inputs, p.start, rng), p


def check_prior(inputs: Inputs, p: UDiGDIP, found: Findings) -> PriorCheck:
    """The prior check of the trial, with the weight of the prior's image."""
    errors = {"tv": found.tv_error, "udig_dip": found.best_error}
    if p.start != "tv":
        errors["start"] = found.start_error
    held_out = validation_part(inputs.A, inputs.y, found.train)
    # Tiny, so that nothing is divided by zero where all held-out measurements are zero.
    energy = float(held_out.abs().square().mean()) + torch.finfo(torch.float32).tiny
    A, y = inputs.A.unweighted(inputs.y)
    check = PriorCheck(
        prior_weight=0.0,
        best_at=found.best_at,
        residuals={name: math.sqrt(error / energy) for name, error in errors.items()},
        noise=A.noise_level(y) / math.sqrt(energy),
        ood_score=found.ood_score,
        tv_weight=found.tv_weight,
        reference_slice=None if inputs.warm_start is None else inputs.warm_start.slice,
    )
    weight = blend_weight(inputs, found) * check.trust
    return replace(check, prior_weight=1.0 if weight >= WHOLE else weight)


def blend_weight(inputs: Inputs, found: Findings) -> float:
    """The a in [0, 1] of least |p_tv + a (p_prior - p_tv) - y|^2 over the held-out measurements.

    p are what the images predict, each with the coil maps that it was made with.
    """
    A, y = inputs.A, inputs.y
    with torch.no_grad():
        predicted = A.forward(found.tv_train)
        residual = validation_part(A, y - predicted, found.train)
        difference = validation_part(A, found.fitted(A).forward(found.best) - predicted, found.train)
    energy = float(difference.abs().square().sum())
    weight = float((difference.conj() * residual).real.sum()) / energy if energy > 0 else 0.0
    return min(max(weight, 0.0), 1.0)


def maps_of(A: LinearOperator | None) -> Tensor:
    """Coil maps (coils, H, W) of a model; UNSET of none."""
    return A.maps if A is not None and has_coil_maps(A) else UNSET


def with_maps(A: LinearOperator, maps: Tensor) -> LinearOperator:
    """The model with coil maps in place of its own; itself where they are UNSET."""
    return A.with_maps(maps) if maps.numel() and has_coil_maps(A) else A


def build_network(inputs: Inputs, p: UDiGDIP, rng: Generator) -> torch.nn.Module:
    """The network f with random weights."""
    return inputs.build_network(p.network, inputs.A.image_shape[0], rng)
