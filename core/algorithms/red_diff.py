"""RED-diff: the mode of the posterior by stochastic gradients, regularised by denoising at falling noise levels."""

import torch
from torch import Generator

from udig_recon.core.algorithms.chain import mean
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterate, Iterates, Misfit, Resumable, State
from udig_recon.core.parameters import REDDiff
from udig_recon.core.priors.noise_levels import noise_schedule, normal_like


def red_diff(inputs: Inputs, p: REDDiff, rng: Generator, state: State | None = None) -> Iterates:
    """Algorithm 1 of Mardani et al. (2024): a variational mode, not a sample. From the CG estimate.

    Adam on |A x - y|^2 / 2 + lambda s [eps(x + s n) - n] . x, the bracket held fixed; in terms of the denoiser, whose
    eps(x) is (x - D(x)) / s, the slope is A^H (A x - y) + lambda (x - D(x + s n)).
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, rhs = noise_schedule(p), A.adjoint(y)
    x = inputs.cg_estimate().repeat(p.samples, 1, 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([x], p.learning_rate)
    resumable, first = Resumable(rng, optimiser=optimiser), 0
    if state is not None:
        values = resumable.restore(state, x.device)
        x.data.copy_(values["x"])
        first = values["step"]
    for k in range(first, p.steps):
        with torch.no_grad():
            denoised = prior(x + levels[k] * normal_like(x, rng), levels[k])
            x.grad = A.normal(x) - rhs + p.weight * (x - denoised)
        optimiser.step()
        image = mean(x.detach(), A)
        snapshot = resumable.snapshot(x=x.detach().clone(), step=k + 1)
        yield Iterate(k + 1, p.steps, image, Misfit.mean(A, image, y), snapshot)
