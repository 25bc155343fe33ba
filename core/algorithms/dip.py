"""Deep image prior: fit a network with a fixed input to the scan. The input says which of its relatives it is."""

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.algorithms.fitting import Fed, fit
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import Fit


def dip(
    y: Tensor,
    A: LinearOperator,
    z: Tensor,
    network: nn.Module,
    p: Fit,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """Minimise |A f_theta(z) - y|^2 over theta, z fixed (Ulyanov et al. 2018; equation (1) of Liang et al. 2025).

    The image is the running mean of the outputs, which varies less than the last one.
    """
    model = Fed(network, z)

    def objective() -> tuple[Tensor, Tensor]:
        image = model()
        return image, A.misfit(image, y)

    return fit(model, objective, torch.optim.Adam(network.parameters(), p.learning_rate), p.iterations, p, rng, state)
