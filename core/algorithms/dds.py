"""DDS: a few conjugate gradient steps, which stay near the images of the prior, on each denoised image."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators.solvers import proximal
from udig_recon.core.parameters import DDS
from udig_recon.core.priors.noise_levels import noise_schedule, renoise


def dds(inputs: Inputs, p: DDS, rng: Generator, state: State | None = None) -> Iterates:
    """Chung et al. (2024), a heuristic between mode and sample. From the CG estimate, noised.

    x0 = D(x), pulled by CG towards min gamma |A x - y|^2 + |x - x0|^2, or by as few steps towards least squares; then
    x <- x0 + s' (eta n + sqrt(1 - eta^2) (x - D(x)) / s).
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, rhs = noise_schedule(p), A.adjoint(y)
    weight = 0.0 if p.consistency_weight is None else 1 / p.consistency_weight

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        with torch.no_grad():
            denoised = prior(x, sigma)
        estimate = proximal(A.normal, rhs, denoised, weight, p.consistency_iterations)
        return renoise(estimate, (x - denoised) / sigma, sigma_next, p.stochasticity * sigma_next, rng), estimate

    return chain(y, A, add_initial_noise(inputs.cg_estimate(), p, rng), p.steps, step, rng, state)
