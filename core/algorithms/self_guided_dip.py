"""Self-guided DIP: the network learns to denoise its input, and the input is learnt with it."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.fitting import Fed, fit
from udig_recon.core.algorithms.initial_estimate import initial_estimate
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import SelfGuidedDIP
from udig_recon.core.priors.noise_levels import normal_like


def self_guided_dip(inputs: Inputs, p: SelfGuidedDIP, rng: Generator, state: State | None = None) -> Iterates:
    """Min over theta and z of |A E f(z + n) - y|^2 + alpha |E f(z + n) - z|^2 (Liang et al., IEEE TCI 2025).

    E is the mean of some draws of n; the image is the running mean of E f(z + n). From the z given.
    """
    y, A = inputs.y, inputs.A
    z = initial_estimate(inputs, "direct", rng)
    network = inputs.build_network("unet", z.shape[1], rng)
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
