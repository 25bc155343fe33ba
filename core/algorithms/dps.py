"""DPS: ancestral sampling, each step corrected by the gradient of the denoised image's misfit."""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain, residual_norms
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import DPS
from udig_recon.core.priors.noise_levels import ancestral_noise, noise_schedule, renoise


def dps(inputs: Inputs, p: DPS, rng: Generator, state: State | None = None) -> Iterates:
    """Algorithm 1 of Chung et al. (2023), a heuristic: its samples are not the posterior's.

    From the CG estimate, noised: x <- x' - zeta grad_x |A D(x) - y|, x' a draw of q(x' | x, D(x)). The paper's
    images are variance preserving, so the same step is sqrt((1 + s^2)(1 + s'^2)) times as large here.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels = noise_schedule(p)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        x = x.detach().requires_grad_()
        denoised = prior(x, sigma)
        (gradient,) = torch.autograd.grad(residual_norms(A, denoised, y).sum(), x)
        x, denoised = x.detach(), denoised.detach()
        drawn = renoise(denoised, (x - denoised) / sigma, sigma_next, ancestral_noise(sigma, sigma_next), rng)
        zeta = p.step_size * math.sqrt((1 + sigma**2) * (1 + sigma_next**2))
        x = drawn - zeta * gradient
        return x, denoised if sigma_next > 0 else x

    return chain(y, A, add_initial_noise(inputs.cg_estimate(), p, rng), p.steps, step, rng, state)
