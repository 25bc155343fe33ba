"""TV-DIP: the deep image prior with total variation in its loss."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.fitting import Fed, fit, noise_input
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import TVDIP

SMOOTHING = 1e-6
"""Under the root of a length, where its slope would be infinite."""


def tv_dip(inputs: Inputs, p: TVDIP, rng: Generator, state: State | None = None) -> Iterates:
    """Minimise |A f_theta(z) - y|^2 / 2 + weight TV(f_theta(z)) over theta, z fixed (Liu et al. 2019)."""
    y, A = inputs.y, inputs.A
    z = noise_input(A, p, rng)
    network = inputs.build_network("unet", z.shape[1], rng)
    model = Fed(network, z)

    def objective() -> tuple[Tensor, Tensor]:
        image = model()
        return image, A.misfit(image, y) / 2 + p.weight * total_variation(image)

    return fit(model, objective, torch.optim.Adam(network.parameters(), p.learning_rate), p.iterations, p, rng, state)


def total_variation(x: Tensor) -> Tensor:
    """Sum of the lengths of all differences of images (B, C, H, W), rounded off at zero, a scalar."""
    down, right = x.diff(dim=-2, append=x[..., -1:, :]), x.diff(dim=-1, append=x[..., -1:])
    return ((down.square() + right.square()).sum(dim=1) + SMOOTHING**2).sqrt().sum()
