"""Sparsity in orthogonal wavelets (Lustig, Donoho, Pauly 2007) by proximal gradients with cycle spinning."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.norms import root_sum_of_squares
from udig_recon.core.operators.wavelets import Wavelet, analysis, synthesis
from udig_recon.core.parameters import L1Wavelet
from udig_recon.core.random_numbers import on_host
from udig_recon.core.selection.weight_search import draw_search, solve_regularised, solve_with_weight

WEIGHTS = tuple(10 ** (-exponent / 2) for exponent in range(3, 9))
TRIAL_ITERATIONS = 60
MOMENTUM = 0.9
"""Constant: one that grows towards 1, as FISTA's does, piles up what the moving grid leaves."""
AVERAGING = 0.9
"""Decay of the running mean of images."""


def l1_wavelet(inputs: Inputs, p: L1Wavelet, rng: Generator, state: State | None = None) -> Iterates:
    """Iterates of min_x |A x - y|^2 / 2 + weight |W x|_1, the weight by held-out data where none is given.

    W leaves the coarsest approximation out; real and imaginary part of a coefficient count as one complex number.
    """
    y, A, iterations = inputs.y, inputs.A, (TRIAL_ITERATIONS, p.iterations)
    solver = partial(sparse_in_wavelets, Wavelet(p.vanishing_moments, p.levels))
    if p.weight is not None:
        return solve_with_weight(solver, y, A, p.weight, iterations, rng, state)
    search = draw_search(y, A, WEIGHTS, rng, state)
    return solve_regularised(solver, y, A, search, iterations, rng, state)


def sparse_in_wavelets(
    wavelet: Wavelet, y: Tensor, A: LinearOperator, weight: float, rng: Generator, state: State | None
) -> Iterator[State]:
    """Endless states of proximal gradient steps with momentum, the grid of wavelets moved at random before each.

    The running mean of the images averages over the places of the grid, as Coifman and Donoho (1995) do at once.
    """
    rhs = A.adjoint(y)
    if state is None:
        x = v = mean = torch.zeros_like(rhs)
    else:
        x, v, mean = state["x"], state["v"], state["image"]
    while True:
        previous, x = x, soft_threshold(v - A.normal(v) + rhs, wavelet, weight, rng)
        v = x + MOMENTUM * (x - previous)
        mean = AVERAGING * mean + (1 - AVERAGING) * x
        yield {"image": mean, "x": x, "v": v}


def soft_threshold(x: Tensor, wavelet: Wavelet, threshold: float, rng: Generator) -> Tensor:
    """Images (B, C, H, W) with wavelet coefficients shortened by `threshold`, over the channels together."""
    extent = 2**wavelet.levels
    shift = torch.randint(extent, (2,), generator=on_host(rng)).tolist()
    approximation, details = analysis(x.roll(shift, (-2, -1)), wavelet)
    shortened = [tuple(_shrink(band, threshold) for band in bands) for bands in details]
    moved = synthesis(approximation, shortened, wavelet)[..., : x.shape[-2], : x.shape[-1]]
    return moved.roll([-size for size in shift], (-2, -1))


def _shrink(band: Tensor, threshold: float) -> Tensor:
    magnitude = root_sum_of_squares(band, 1, keepdim=True)
    factor: Tensor = 1 - threshold / magnitude.clamp(min=max(threshold, torch.finfo(band.dtype).tiny))
    return band * factor
