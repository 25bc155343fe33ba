"""Deep image prior: a network with a fixed input is fitted to the scan. Its variants differ in the input."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.fitting import Fed, fit, noise_input
from udig_recon.core.algorithms.initial_estimate import initial_estimate
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import DIPProbe, Fit, RandomInput, RefGuidedDIP
from udig_recon.core.priors.noise_levels import normal_like


def dip(inputs: Inputs, p: RandomInput, rng: Generator, state: State | None = None) -> Iterates:
    """Deep image prior: the input is noise (Ulyanov et al. 2018)."""
    return fit_to_input(inputs, noise_input(inputs.A, p, rng), p, rng, state)


def ref_guided_dip(inputs: Inputs, p: RefGuidedDIP, rng: Generator, state: State | None = None) -> Iterates:
    """Reference-guided deep image prior: the input is the scan's structural image (Zhao et al. 2020)."""
    if p.guide != "plain" and "guide" in inputs.images:
        z = inputs.images["guide"]
    else:
        z = initial_estimate(inputs, "direct", rng)
    return fit_to_input(inputs, z, p, rng, state)


def dip_probe(inputs: Inputs, p: DIPProbe, rng: Generator, state: State | None = None) -> Iterates:
    """For study: the input is the truth with noise, or noise alone (figure 1 of Liang et al. 2025)."""
    truth = inputs.images["reference"]
    noise = normal_like(truth, rng)
    z = noise if p.input_noise is None else truth + p.input_noise * noise
    return fit_to_input(inputs, z, p, rng, state)


def fit_to_input(inputs: Inputs, z: Tensor, p: Fit, rng: Generator, state: State | None) -> Iterates:
    """Minimise |A f_theta(z) - y|^2 over theta, z fixed (equation (1) of Liang et al. 2025).

    The image is the running mean of the outputs, which varies less than the last one.
    """
    y, A = inputs.y, inputs.A
    network = inputs.build_network("unet", z.shape[1], rng)
    model = Fed(network, z)

    def objective() -> tuple[Tensor, Tensor]:
        image = model()
        return image, A.misfit(image, y)

    return fit(model, objective, torch.optim.Adam(network.parameters(), p.learning_rate), p.iterations, p, rng, state)
