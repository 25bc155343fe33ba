"""MCG: predictor-corrector sampling with a gradient of the misfit kept off the data, and steps towards the data."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain
from udig_recon.core.algorithms.predictor_corrector import correct, predict
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.parameters import MCG
from udig_recon.core.priors.noise_levels import noise_schedule

RELAXATION = (1.0, 0.6)
"""Of Kaczmarz' step, at the first and at the last level."""


def mcg(inputs: Inputs, p: MCG, rng: Generator, state: State | None = None) -> Iterates:
    """Chung et al. (2022), a heuristic: its samples are not the posterior's. From the CG estimate, noised.

    x' by predictor and corrector; d = weight grad_x |FBP(A D(x) - y)|, less what views measure of it:
    d <- (1 - A^+ A) d, A^+ by CG; x <- x' + r A^T (y - A x') / A^T A 1 - d, r falling.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels = noise_schedule(p)
    coverage = A.normal(torch.ones(1, *A.image_shape, device=y.device))
    inverse = torch.where(coverage > 1e-6 * coverage.max(), 1 / coverage, torch.zeros_like(coverage))

    def unseen(d: Tensor) -> Tensor:
        return d - conjugate_gradient(A.normal, A.normal(d), None, p.projection_iterations)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        with torch.no_grad():
            x, _ = predict(prior, x, sigma, sigma_next, rng)
        x.requires_grad_()
        moved, denoised = correct(prior, x, sigma, p.corrector_ratio, rng)
        misfit = A.direct(A.forward(denoised) - y)
        (gradient,) = torch.autograd.grad(torch.linalg.vector_norm(misfit, dim=(1, 2, 3)).sum(), x)
        moved = moved.detach()
        relaxation = RELAXATION[0] + (RELAXATION[1] - RELAXATION[0]) * k / p.steps
        kaczmarz = relaxation * inverse * A.adjoint(y - A.forward(moved))
        x = moved + kaczmarz - p.gradient_weight * unseen(gradient)
        return x, denoised.detach() if sigma_next > 0 else x

    return chain(y, A, add_initial_noise(inputs.cg_estimate(), p, rng), p.steps, step, rng, state)
