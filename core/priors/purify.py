"""Diffusion purification DP(x, sigma): add noise up to a level, then denoise with the prior, on a random symmetry."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from udig_recon.core.interruption import check_interruption
from udig_recon.core.priors.noise_levels import ancestral_noise, normal_like
from udig_recon.core.random_numbers import on_host

Denoiser = Callable[[Tensor, float], Tensor]
"""D(x, sigma) = E[x0 | x0 + sigma n = x] on images (B, C, H, W)."""
Noise = Callable[[Tensor, float, Generator], Tensor]
"""Noise for an image (B, C, H, W) that brings it to a noise level."""


class Purification(Protocol):
    """The parameters of a purification."""

    @property
    def noise_scale(self) -> float:
        """Share of the noise that is added."""
        ...

    @property
    def noise_until(self) -> float:
        """Noise level below which no noise is added."""
        ...

    @property
    def prior_calls(self) -> int:
        """Number of denoising steps."""
        ...

    @property
    def sampler(self) -> str:
        """`ddim` or `ancestral`."""
        ...

    @property
    def symmetries(self) -> bool:
        """Whether to purify a randomly turned and mirrored image."""
        ...


def white_noise(x: Tensor, sigma: float, rng: Generator) -> Tensor:
    """White noise of level sigma in the shape of x."""
    return sigma * normal_like(x, rng)


def purify(
    prior: Denoiser, x: Tensor, sigma: float, p: Purification, rng: Generator, noise: Noise = white_noise
) -> Iterator[Tensor]:
    """Walk from x + noise_scale noise(x) down to noise zero, `prior_calls` evaluations long, yielding each estimate.

    A step from s to s' < s is x' = D + sqrt(s'^2 - u^2) (x - D) / s + u n, in the variance exploding form x0 + s n:
    u = 0 is the deterministic walk (Song et al. 2021, DDIM), u = s' sqrt(1 - s'^2 / s^2) the ancestral one, which is
    equation (3) of Liang et al. (2025). The last estimate is the purified image. With noise_scale 1 this is equations
    (2) to (4) of the paper with M named by its noise level; with 0, and below `noise_until`, plain denoising.
    """
    turn = Symmetry.draw(x.shape[1], rng) if p.symmetries else Symmetry()
    scale = p.noise_scale if adds_noise(p, sigma) else 0.0
    walker = turn.apply(x + scale * noise(x, sigma, rng) if scale > 0 else x)
    for call in range(p.prior_calls):
        check_interruption()
        level = sigma * (1 - call / p.prior_calls)
        next_level = sigma * (1 - (call + 1) / p.prior_calls)
        with torch.no_grad():
            estimate = prior(walker, level)
        fresh = ancestral_noise(level, next_level) if p.sampler == "ancestral" and scale > 0 else 0.0
        walker = estimate + (math.sqrt(next_level**2 - fresh**2) / level) * (walker - estimate)
        if fresh > 0:
            walker = walker + scale * fresh * normal_like(walker, rng)
        yield turn.undo(walker)


def adds_noise(p: Purification, sigma: float) -> bool:
    """Whether purification at a noise level adds noise."""
    return p.noise_scale > 0 and sigma >= p.noise_until


class Symmetry(NamedTuple):
    """A symmetry of the images' distribution: quarter turns, a mirror and, with two channels, a global phase."""

    quarters: int = 0
    mirror: bool = False
    phase: float = 0.0

    @classmethod
    def draw(cls, channels: int, rng: Generator) -> "Symmetry":
        """One at random."""
        quarters, mirror, turn = torch.rand(3, generator=on_host(rng)).tolist()
        return cls(int(4 * quarters), mirror < 0.5, 2 * math.pi * turn if channels == 2 else 0.0)

    def apply(self, x: Tensor) -> Tensor:
        """Move x (B, C, H, W)."""
        x = torch.rot90(rotate_phase(x, self.phase), self.quarters, (-2, -1))
        return x.flip(-1) if self.mirror else x

    def undo(self, x: Tensor) -> Tensor:
        """Move back."""
        x = x.flip(-1) if self.mirror else x
        return rotate_phase(torch.rot90(x, -self.quarters, (-2, -1)), -self.phase)


def rotate_phase(x: Tensor, phase: float) -> Tensor:
    """Multiply a complex image, held as two channels, by exp(i phase)."""
    if phase == 0.0:
        return x
    real, imaginary = x.chunk(2, 1)
    c, s = math.cos(phase), math.sin(phase)
    return torch.cat([c * real - s * imaginary, s * real + c * imaginary], 1)
