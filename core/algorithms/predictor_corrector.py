"""Predictor and corrector of variance exploding samplers (Song et al. 2021, algorithms 2 and 4)."""

import math

import torch
from torch import Generator, Tensor

from udig_recon.core.priors.noise_levels import normal_like
from udig_recon.core.priors.purify import Denoiser


def predict(prior: Denoiser, x: Tensor, sigma: float, sigma_next: float, rng: Generator) -> tuple[Tensor, Tensor]:
    """Reverse diffusion x + (s^2 - s'^2) score(x, s) + sqrt(s^2 - s'^2) n, with and without its noise."""
    gap = sigma**2 - sigma_next**2
    mean = x + gap * (prior(x, sigma) - x) / sigma**2
    return mean + math.sqrt(gap) * normal_like(x, rng), mean


def correct(prior: Denoiser, x: Tensor, sigma: float, ratio: float, rng: Generator) -> tuple[Tensor, Tensor]:
    """One Langevin step x + e g + sqrt(2 e) n, g = score(x, s), e = 2 (r |n| / |g|)^2; and D(x, s) = x + s^2 g."""
    denoised = prior(x, sigma)
    score = (denoised - x) / sigma**2
    noise = normal_like(x, rng)
    size = 2 * (ratio * _norms(noise) / _norms(score)) ** 2
    return (x + size * score + (2 * size).sqrt() * noise), denoised


def _norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x.detach(), dim=(1, 2, 3), keepdim=True)
    return norms.clamp(min=torch.finfo(x.dtype).tiny)
