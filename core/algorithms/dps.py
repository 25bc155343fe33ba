"""DPS: ancestral sampling, each step corrected by the gradient of the denoised image's misfit."""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import chain, noised, residual_norms
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import DPS
from udig_recon.core.priors.noise_levels import ancestral_noise, falling, renoised
from udig_recon.core.priors.purify import Denoiser


def dps(
    y: Tensor, A: LinearOperator, x: Tensor, prior: Denoiser, p: DPS, rng: Generator, state: State | None = None
) -> Iterates:
    """Algorithm 1 of Chung et al. (2023), a heuristic: its samples are not the posterior's. From x, noised.

    x <- x' - zeta grad_x |A D(x) - y|, x' a draw of q(x' | x, D(x)). The paper's images are variance preserving, so
    that the same step is sqrt((1 + s^2)(1 + s'^2)) times as large here.
    """
    levels = falling(p)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        here, there = levels[k], levels[k + 1]
        x = x.detach().requires_grad_()
        denoised = prior(x, here)
        (gradient,) = torch.autograd.grad(residual_norms(A, denoised, y).sum(), x)
        x, denoised = x.detach(), denoised.detach()
        drawn = renoised(denoised, (x - denoised) / here, there, ancestral_noise(here, there), rng)
        zeta = p.step_size * math.sqrt((1 + here**2) * (1 + there**2))
        x = drawn - zeta * gradient
        return x, denoised if there > 0 else x

    return chain(y, A, noised(x, p, rng), p.steps, step, rng, state)
