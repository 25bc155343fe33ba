"""DCDP: data consistency and diffusion purification alternate (Li et al. 2024)."""

from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import chain
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators.solvers import proximal
from udig_recon.core.parameters import DCDP
from udig_recon.core.priors.noise_levels import noise_schedule
from udig_recon.core.priors.purify import purify


def dcdp(inputs: Inputs, p: DCDP, rng: Generator, state: State | None = None) -> Iterates:
    """Li et al. (2024): v = a few steps on |A v - y|^2 from x, then x <- DP(v, s); the image is v, and seeks a mode.

    From the CG estimate; levels s fall over the rounds.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, rhs = noise_schedule(p), A.adjoint(y)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        fitted = proximal(A.normal, rhs, x, 0.0, p.consistency_iterations)
        *_, x = purify(prior, fitted, levels[k], p, rng)
        return x, proximal(A.normal, rhs, x, 0.0, p.consistency_iterations) if k + 1 == p.steps else fitted

    return chain(y, A, inputs.cg_estimate().expand(p.samples, -1, -1, -1), p.steps, step, rng, state)
