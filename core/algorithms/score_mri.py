"""Score-MRI: predictor-corrector sampling that puts the measured k-space in after each step (Chung and Ye 2022)."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import add_initial_noise, chain
from udig_recon.core.algorithms.predictor_corrector import correct, predict
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator, as_channels, as_complex
from udig_recon.core.parameters import ScoreMRI
from udig_recon.core.priors.noise_levels import noise_schedule


def score_mri(inputs: Inputs, p: ScoreMRI, rng: Generator, state: State | None = None) -> Iterates:
    """Predictor-corrector sampling with data consistency, on the combined image or on each coil's (algorithm 4).

    From the CG estimate, noised: x <- DC(corrector(x)), x <- DC(predictor(x)) with DC(x) = x + A^H (y - A x), for one
    coil F^H(y where measured, F x elsewhere). What is not measured is sampled from the prior; it is a draw of the
    posterior where the two are independent and the data without noise, else a heuristic.
    """
    y, A, prior = inputs.y, inputs.A, inputs.load_prior(p.prior)
    levels, x = noise_schedule(p), inputs.cg_estimate()
    combine: Callable[[Tensor], Tensor] | None = None
    model: LinearOperator = A
    data = y
    coils = A.per_coil(y) if p.coils == "separate" else None
    if coils is not None:
        model, data = coils.operator, coils.measurements
        x = as_channels(coils.maps * as_complex(x))
        combine = _combination(coils.maps)
    rhs = model.adjoint(data)

    def consistent(x: Tensor) -> Tensor:
        return x + rhs - model.normal(x)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        sigma, sigma_next = levels[k], levels[k + 1]
        with torch.no_grad():
            x = consistent(correct(prior, x, sigma, p.corrector_ratio, rng)[0])
            drawn, estimate = predict(prior, x, sigma, sigma_next, rng)
            return consistent(drawn), consistent(estimate)

    return chain(y, A, add_initial_noise(x, p, rng), p.steps, step, rng, state, combine)


def _combination(maps: Tensor) -> Callable[[Tensor], Tensor]:
    """Root of the sum of squares of coil images (coils, 2, H, W), with the phase of their combination by the maps."""

    def combine_coils(x: Tensor) -> Tensor:
        coils = as_complex(x)
        phase = (maps.conj() * coils).sum(0, keepdim=True).sgn()
        return as_channels(torch.linalg.vector_norm(coils, dim=0, keepdim=True) * phase)

    return combine_coils
