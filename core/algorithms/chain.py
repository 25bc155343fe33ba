"""Sampling chains: images at falling noise levels, as all diffusion samplers have them, and the data's noise."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from udig_recon.core.iterates import Iterate, Iterates, Misfit, Resumable, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import Sampler
from udig_recon.core.priors.noise_levels import normal_like

MIN_NOISE = 1e-4
"""Lower bound of the data's noise, standard deviation with |A| = 1 and an object of about 1."""


class Step(Protocol):
    """From images x (B, C, H, W) at level k of the chain: those at the next level, and the estimate of x0."""

    def __call__(self, x: Tensor, k: int, /) -> tuple[Tensor, Tensor]:
        """(x', estimate)."""
        ...


def chain(
    y: Tensor,
    A: LinearOperator,
    x: Tensor,
    steps: int,
    step: Step,
    rng: Generator,
    state: State | None,
    combine: Callable[[Tensor], Tensor] | None = None,
) -> Iterates:
    """Iterates of x <- step(x, k) for k = 0 .. steps - 1; `combine` makes the image of the chains, else their mean."""
    resumable, first = Resumable(rng), 0
    if state is not None:
        values = resumable.restore(state, x.device)
        x, first = values["x"], values["step"]
    for k in range(first, steps):
        x, estimate = step(x, k)
        image = mean(estimate, A) if combine is None else combine(estimate)
        yield Iterate(k + 1, steps, image, Misfit.mean(A, image, y), resumable.snapshot(x=x, step=k + 1))


def add_initial_noise(x: Tensor, p: Sampler, rng: Generator) -> Tensor:
    """Where chains start: x (B, C, H, W), or (1, C, H, W) for each of the `samples`, at the first noise level."""
    x = x.expand(max(len(x), p.samples), -1, -1, -1)
    return x + p.noise_level * normal_like(x, rng)


def mean(x: Tensor, A: LinearOperator) -> Tensor:
    """The image (1, C, H, W) of chains (B, C, H, W): their mean, where anything is measured, non-negative in CT."""
    image = x.mean(0, keepdim=True) * A.support
    return image.clamp(min=0) if A.nonnegative else image


def residual_norms(A: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """|A x - y| of each image, (B,)."""
    norms: Tensor = torch.linalg.vector_norm((A.forward(x) - y).flatten(1), dim=1)
    return norms


def noise_variance(A: LinearOperator, y: Tensor) -> float:
    """Variance of the noise in a real number of y; complex ones hold two."""
    level = max(A.noise_level(y), MIN_NOISE)
    return level**2 / 2 if y.is_complex() else level**2
