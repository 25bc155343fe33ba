"""Noise schedules of samplers, and steps between noise levels, in the variance exploding form x_s = x0 + s n.

A variance preserving image x_t = sqrt(a) x0 + sqrt(1 - a) n is sqrt(a) x_s at s = sqrt((1 - a) / a), so that samplers
written for either form walk here, and every prior is one D(x, s).
"""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.parameters import Sampler
from udig_recon.core.priors.published import LinearSchedule

DDPM = (1e-4, 0.02, 1000)
"""First and last beta, and number of steps, of Ho et al. (2020)."""


def noise_schedule(p: Sampler) -> list[float]:
    """The `steps` falling noise levels from `noise_level` to `final_noise_level`, then 0."""
    ends = torch.tensor([p.noise_level, p.final_noise_level])
    share = torch.linspace(0, 1, p.steps)
    if p.schedule == "linear_vp":
        schedule = LinearSchedule(*DDPM)
        first, last = schedule(ends).tolist()
        return [*schedule.sigma(first + (last - first) * share).tolist(), 0.0]
    return [*(ends[0] * (ends[1] / ends[0]) ** share).tolist(), 0.0]


def renoise(estimate: Tensor, noise: Tensor, sigma: float, fresh: float, rng: Generator) -> Tensor:
    """An image at level sigma from its estimate x0: x0 + sqrt(sigma^2 - fresh^2) noise + fresh n, n drawn anew."""
    kept = math.sqrt(max(sigma**2 - fresh**2, 0.0))
    return estimate + kept * noise + fresh * normal_like(estimate, rng)


def ancestral_noise(sigma: float, sigma_next: float) -> float:
    """The `fresh` noise of q(x' | x, x0) from level sigma to sigma_next (Ho et al. 2020, equation 7)."""
    return sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)


def normal_like(x: Tensor, rng: Generator) -> Tensor:
    """Standard normal numbers in the shape of x."""
    return torch.randn(x.shape, generator=rng, device=x.device)


def antithetic_normal(x: Tensor, rng: Generator) -> Tensor:
    """Standard normal numbers in the shape of x (B, ...) whose second half is the negative of the first.

    The mean over the samples of a map that is nearly linear then has nearly no noise (antithetic variates). Of an odd
    B the last sample has no partner.
    """
    pairs = len(x) // 2
    drawn = torch.randn((len(x) - pairs, *x.shape[1:]), generator=rng, device=x.device)
    return torch.cat([drawn, -drawn[:pairs]])
