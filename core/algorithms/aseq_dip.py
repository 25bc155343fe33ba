"""aSeqDIP: the network's input is its own output, again and again."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.fitting import Fed, fit
from udig_recon.core.algorithms.initial_estimate import initial_estimate
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import ASeqDIP


def aseq_dip(inputs: Inputs, p: ASeqDIP, rng: Generator, state: State | None = None) -> Iterates:
    """Alkhouri et al. (2024): N steps on |A f(z) - y|^2 + lambda |f(z) - z|^2, then z <- f(z), and so on."""
    y, A = inputs.y, inputs.A
    z = initial_estimate(inputs, "cg_sense" if p.start == "cg_sense" else "direct", rng)
    network = inputs.build_network("unet", z.shape[1], rng)
    model = Fed(network, z)

    def objective() -> tuple[Tensor, Tensor]:
        image = model()
        return image, A.misfit(image, y) + p.autoencoding_weight * (image - model.z).square().sum()

    def move_on(step: int) -> None:
        if (step + 1) % p.inner_iterations == 0:
            with torch.no_grad():
                model.z.copy_(model())

    optimiser = torch.optim.Adam(network.parameters(), p.learning_rate)
    return fit(model, objective, optimiser, p.iterations, p, rng, state, move_on)
