"""RED-diff: the mode of the posterior by stochastic gradients, regularised by denoising at falling noise levels."""

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import mean
from udig_recon.core.iterates import Iterate, Iterates, State, restore
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import REDDiff
from udig_recon.core.priors.noise_levels import falling, normal_like
from udig_recon.core.priors.purify import Denoiser


def red_diff(
    y: Tensor, A: LinearOperator, x: Tensor, prior: Denoiser, p: REDDiff, rng: Generator, state: State | None = None
) -> Iterates:
    """Algorithm 1 of Mardani et al. (2024): a variational mode, not a sample. From x.

    Adam on |A x - y|^2 / 2 + lambda s [eps(x + s n) - n] . x, the bracket held fixed; in terms of the denoiser, whose
    eps(x) is (x - D(x)) / s, the slope is A^H (A x - y) + lambda (x - D(x + s n)).
    """
    levels, rhs = falling(p), A.adjoint(y)
    x = x.repeat(p.samples, 1, 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([x], p.learning_rate)
    first = 0
    if state is not None:
        x.data.copy_(state["x"])
        optimiser.load_state_dict(state["optimiser"])
        restore(rng, state["rng"])
        first = state["step"]
    for k in range(first, p.steps):
        with torch.no_grad():
            denoised = prior(x + levels[k] * normal_like(x, rng), levels[k])
            x.grad = A.normal(x) - rhs + p.weight * (x - denoised)
        optimiser.step()
        image = mean(x.detach(), A)

        def resume(k: int = k) -> State:
            return {
                "x": x.detach().clone(),
                "optimiser": optimiser.state_dict(),
                "step": k + 1,
                "rng": rng.get_state(),
            }

        yield Iterate(k + 1, p.steps, image, A.misfit(image, y) / y.numel(), resume)
