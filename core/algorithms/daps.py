"""DAPS: at each noise level a clean image is drawn given the noisy one and the data, then noised to the next level."""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain, noise_variance
from udig_recon.core.inputs import Inputs
from udig_recon.core.interruption import check_interruption
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import proximal
from udig_recon.core.parameters import DAPS
from udig_recon.core.priors.noise_levels import noise_schedule, normal_like
from udig_recon.core.priors.purify import Denoiser


def daps(inputs: Inputs, p: DAPS, rng: Generator, state: State | None = None) -> Iterates:
    """Algorithm 1 of Zhang et al. (2025): samples the posterior as steps grow many, with `prior_calls` and `spread` 1.

    x0 ~ N(x0; D(x), r^2) N(y; A x0, v), x <- x0 + s' n, from the CG estimate, noised. With r = s, as in the
    paper, the chain's law is the posterior to first order in the step under a prior that is broad in all directions,
    such as a Gaussian; r < s suits images that fill few directions, and seeks a mode. A longer walk along the flow than
    D(x), as in the paper, draws too wide.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, rhs, variance = noise_schedule(p), A.adjoint(y), noise_variance(A, y)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        with torch.no_grad():
            centre = flow(prior, x, sigma, p.prior_calls)
            if p.langevin_steps:
                drawn = langevin(A, rhs, centre, (p.spread * sigma) ** 2, variance, p, rng)
            else:
                drawn = gaussian(y, A, rhs, centre, (p.spread * sigma) ** 2, variance, p.consistency_iterations, rng)
            return drawn + sigma_next * normal_like(drawn, rng), drawn

    return chain(y, A, add_initial_noise(inputs.cg_estimate(), p, rng), p.steps, step, rng, state)


def flow(prior: Denoiser, x: Tensor, sigma: float, calls: int) -> Tensor:
    """Euler steps of the probability flow dx = (x - D(x, s)) ds / s from sigma to 0."""
    for done in range(calls):
        check_interruption()
        level, next_level = sigma * (1 - done / calls), sigma * (1 - (done + 1) / calls)
        estimate = prior(x, level)
        x = estimate + next_level / level * (x - estimate)
    return x


def langevin(
    A: LinearOperator, rhs: Tensor, centre: Tensor, spread: float, variance: float, p: DAPS, rng: Generator
) -> Tensor:
    """Langevin steps in exp(-|x - centre|^2 / (2 spread) - |A x - y|^2 / (2 variance)) from its centre."""
    x, rate = centre, p.langevin_rate / (1 / spread + 1 / variance)
    for _ in range(p.langevin_steps):
        check_interruption()
        slope = (x - centre) / spread + (A.normal(x) - rhs) / variance
        x = x - rate * slope + math.sqrt(2 * rate) * normal_like(x, rng)
    return x


def gaussian(
    y: Tensor,
    A: LinearOperator,
    rhs: Tensor,
    centre: Tensor,
    spread: float,
    variance: float,
    iterations: int,
    rng: Generator,
) -> Tensor:
    """A draw of the same by perturbation: the most likely image of centre and data, both with noise of their own."""
    shape = (len(centre), *y.shape[1:])
    parts = 2 if y.is_complex() else 1
    noise = torch.randn(shape, generator=rng, device=y.device, dtype=y.dtype) * math.sqrt(parts * variance)
    moved = centre + math.sqrt(spread) * normal_like(centre, rng)
    return proximal(A.normal, rhs + A.adjoint(noise), moved, variance / spread, iterations)
