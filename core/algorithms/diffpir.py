"""DiffPIR: the prior denoises, the proximal map of the data follows, and both are noised again."""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain, noise_variance
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators.solvers import proximal
from udig_recon.core.parameters import DiffPIR
from udig_recon.core.priors.noise_levels import noise_schedule, renoise


def diffpir(inputs: Inputs, p: DiffPIR, rng: Generator, state: State | None = None) -> Iterates:
    """Algorithm 1 of Zhu et al. (2023), plug and play that seeks a mode. From the CG estimate, noised.

    x0 = argmin |A z - y|^2 + rho |z - D(x)|^2, rho = lambda v / s^2 with the data's noise variance v, by CG; then
    x <- x0 + s' (sqrt(zeta) n + sqrt(1 - zeta) (x - x0) / s).
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, rhs, variance = noise_schedule(p), A.adjoint(y), noise_variance(A, y)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        with torch.no_grad():
            denoised = prior(x, sigma)
        rho = p.consistency_weight * variance / sigma**2
        estimate = proximal(A.normal, rhs, denoised, rho, p.consistency_iterations)
        return renoise(
            estimate, (x - estimate) / sigma, sigma_next, math.sqrt(p.stochasticity) * sigma_next, rng
        ), estimate

    return chain(y, A, add_initial_noise(inputs.cg_estimate(), p, rng), p.steps, step, rng, state)
