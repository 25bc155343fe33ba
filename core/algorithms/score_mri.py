"""Score-MRI: predictor-corrector sampling of a prior, with the measured k-space put in after each step."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.chain import chain, noised
from udig_recon.core.algorithms.predictor_corrector import corrected, predicted
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator, as_channels, as_complex
from udig_recon.core.parameters import ScoreMRI
from udig_recon.core.priors.noise_levels import falling
from udig_recon.core.priors.purify import Denoiser


def score_mri(
    y: Tensor, A: LinearOperator, x: Tensor, prior: Denoiser, p: ScoreMRI, rng: Generator, state: State | None = None
) -> Iterates:
    """Chung and Ye (2022), on the combined image or, their algorithm 4, on each coil's. From x, noised.

    x <- DC(corrector(x)), x <- DC(predictor(x)) with DC(x) = x + A^H (y - A x), for one coil F^H(y where measured, F x
    elsewhere). What is not measured is sampled from the prior; it is a draw of the posterior where the two are
    independent and the data without noise, else a heuristic.
    """
    levels = falling(p)
    shown: Callable[[Tensor], Tensor] | None = None
    model, data = A, y
    coils = A.per_coil(y) if p.coils == "separate" else None
    if coils is not None:
        model, data = coils.operator, coils.measurements
        x = as_channels(coils.maps * as_complex(x))
        shown = _combination(coils.maps)
    rhs = model.adjoint(data)

    def consistent(x: Tensor) -> Tensor:
        return x + rhs - model.normal(x)

    def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        here, there = levels[k], levels[k + 1]
        with torch.no_grad():
            x = consistent(corrected(prior, x, here, p.corrector_ratio, rng)[0])
            drawn, estimate = predicted(prior, x, here, there, rng)
            return consistent(drawn), consistent(estimate)

    return chain(y, A, noised(x, p, rng), p.steps, step, rng, state, shown)


def _combination(maps: Tensor) -> Callable[[Tensor], Tensor]:
    """Root of the sum of squares of coil images (coils, 2, H, W), with the phase of their combination by the maps."""

    def combined(x: Tensor) -> Tensor:
        coils = as_complex(x)
        phase = (maps.conj() * coils).sum(0, keepdim=True).sgn()
        return as_channels(torch.linalg.vector_norm(coils, dim=0, keepdim=True) * phase)

    return combined
