"""Self-guided DIP: the network learns to denoise its input, and the input is learnt with it."""

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.algorithms.fitting import Fed, fit
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import SelfGuidedDIP
from udig_recon.core.priors.noise_levels import normal_like


def self_guided_dip(
    y: Tensor,
    A: LinearOperator,
    z: Tensor,
    network: nn.Module,
    p: SelfGuidedDIP,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """Min over theta and z of |A E f(z + n) - y|^2 + alpha |E f(z + n) - z|^2 (Liang et al., IEEE TCI 2025).

    E is the mean of some draws of n; the image is the running mean of E f(z + n). From the z given.
    """
    model = Fed(network, z, learnt=True)
    spread = p.input_noise * float(torch.linalg.vector_norm(z, dim=1).max())

    def objective() -> tuple[Tensor, Tensor]:
        inputs = model.z.expand(p.draws, -1, -1, -1)
        image = network(inputs + spread * normal_like(inputs, rng)).mean(0, keepdim=True)
        return image, A.misfit(image, y) + p.autoencoding_weight * (image - model.z).square().sum()

    optimiser = torch.optim.Adam(
        [
            {"params": list(network.parameters()), "lr": p.learning_rate},
            {"params": [model.z], "lr": p.input_learning_rate},
        ]
    )
    return fit(model, objective, optimiser, p.iterations, p, rng, state)
