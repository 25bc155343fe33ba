"""Falling noise levels, and the steps from one to the next, all in the variance exploding form x_s = x0 + s n.

A variance preserving image x_t = sqrt(a) x0 + sqrt(1 - a) n is sqrt(a) x_s at s = sqrt((1 - a) / a), so that samplers
written for either form walk here, and every prior is one D(x, s).
"""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.parameters import Sampler
from udig_recon.core.priors.published import LinearSchedule

DDPM = (1e-4, 0.02, 1000)
"""First and last beta, and the steps, of Ho et al. (2020)."""


def falling(p: Sampler) -> list[float]:
    """The `steps` levels from `noise_level` to `final_noise_level`, then 0."""
    ends = torch.tensor([p.noise_level, p.final_noise_level])
    share = torch.linspace(0, 1, p.steps)
    if p.schedule == "linear_vp":
        schedule = LinearSchedule(*DDPM)
        first, last = schedule(ends).tolist()
        return [*schedule.sigma(first + (last - first) * share).tolist(), 0.0]
    return [*(ends[0] * (ends[1] / ends[0]) ** share).tolist(), 0.0]


def renoised(estimate: Tensor, noise: Tensor, sigma: float, fresh: float, rng: Generator) -> Tensor:
    """X' = x0 + sqrt(sigma^2 - fresh^2) noise + fresh n: at level sigma anew, partly with the noise that was found."""
    kept = math.sqrt(max(sigma**2 - fresh**2, 0.0))
    return estimate + kept * noise + fresh * normal_like(estimate, rng)


def ancestral_noise(here: float, there: float) -> float:
    """The `fresh` of q(x' | x, x0) from level `here` to `there` (Ho et al. 2020, equation 7)."""
    return there * math.sqrt(1 - (there / here) ** 2)


def normal_like(x: Tensor, rng: Generator) -> Tensor:
    """Standard normal numbers in the shape of x."""
    return torch.randn(x.shape, generator=rng, device=x.device)
