"""Coil maps fitted to the scan together with its image, where measurements left out say that this helps.

Joint estimation of image and maps is that of Ying and Sheng (2007), JSENSE, with cosines for their polynomials: unlike
the waves of a calibration region's kernels they may end anywhere at the image's edges.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeGuard

import torch
from torch import Generator, Tensor

from udig_recon.core.operators import LinearOperator, MultiCoilMRI, NonCartesianMRI, as_complex
from udig_recon.core.operators.norms import root_sum_of_squares
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.parameters.holdout import JOINT_MAPS_SHARE
from udig_recon.core.selection.holdout import validation_error

COSINES = 10
"""per axis that a correction of the maps is made of."""
REFIT_COSINES = 8
"""per axis of a correction by a good image, which has less to correct."""
RIDGE = 1e-3
"""Weight of |correction|^2, with |A| = 1 and an object of about 1."""
ROUNDS = 5
"""of image and maps in turn."""
IMAGE_ITERATIONS = 8
MAP_ITERATIONS = 10
SMOOTHING_ITERATIONS = 15
MultiCoil = MultiCoilMRI | NonCartesianMRI
Basis = tuple[Tensor, ...]
"""Cosines of rows (H, n) and columns (W, n)."""
GAIN = 0.995
"""Fitted maps are taken where they leave less than this of the squared error that the given ones leave."""
LEAST_RATIO = 0.05
"""that maps are divided by to keep their root-sum-of-squares."""


def with_joint_maps(A: MultiCoil, y: Tensor, rng: Generator) -> Iterator[MultiCoil]:
    """Models with maps fitted to y (1, coils, ...), an object of about 1, round by round; the last is to be taken.

    It is A itself where fitted maps predict no better: both are compared on a share of the measurements that neither
    the least-squares image nor the fit has used.
    """
    kept = A.partition(JOINT_MAPS_SHARE, "lines", rng)
    restricted, part = A.restrict(kept), y * kept
    for fitted in _alternate(restricted, part):
        yield A.with_maps(fitted.maps)
    given, found = (
        validation_error(A.with_maps(model.maps), y, kept, _least_squares(model, part))
        for model in (restricted, fitted)
    )
    if bool(found < GAIN * given):
        yield from _alternate(A, y)
    else:
        yield A


def has_coil_maps(A: LinearOperator) -> TypeGuard[MultiCoil]:
    """Whether a model has coil maps that an image says something about."""
    return isinstance(A, MultiCoil) and A.coils > 1


def refit_maps(A: MultiCoil, y: Tensor, image: Tensor) -> MultiCoil:
    """The model with maps corrected to measurements y (1, coils, ...) of an image (1, 2, H, W).

    Few calibration lines leave the maps of a large object several per cent wrong. The data step then amplifies that
    error to stripes of the frequencies between the lines, so an image that a prior has made better corrects the maps.
    """
    basis = tuple(_cosines(size, A.maps, REFIT_COSINES) for size in A.maps.shape[1:])
    size = root_sum_of_squares(A.maps, 0)
    return A.with_maps(_rescale(A.maps + _correction(A, as_complex(image)[0], y[0], basis), size))


def _least_squares(A: MultiCoil, y: Tensor) -> Tensor:
    """An early-stopped image (1, 2, H, W)."""
    rhs = A.adjoint(y)
    return conjugate_gradient(A.normal, rhs, None, IMAGE_ITERATIONS)


def _alternate(A: MultiCoil, y: Tensor) -> Iterator[MultiCoil]:
    """Image from the maps and maps from the image, in turn."""
    basis = tuple(_cosines(size, A.maps) for size in A.maps.shape[1:])
    size = root_sum_of_squares(A.maps, 0)
    fitted = A.with_maps(_rescale(_smooth(A.maps, as_complex(_least_squares(A, y))[0], basis), size))
    yield fitted
    for _ in range(ROUNDS):
        correction = _correction(fitted, as_complex(_least_squares(fitted, y))[0], y[0], basis)
        fitted = fitted.with_maps(_rescale(fitted.maps + correction, size))
        yield fitted


def _smooth(maps: Tensor, image: Tensor, basis: Basis) -> Tensor:
    """The cosines that fit maps (coils, H, W) best where the image (H, W) is bright."""
    weight = image.abs().square()
    weight = weight / weight.max() + RIDGE

    def normal(c: Tensor) -> Tensor:
        return _analyse(weight * _synthesise(c, basis), basis)

    return _synthesise(_solve(normal, _analyse(weight * maps, basis), SMOOTHING_ITERATIONS), basis)


def _correction(A: MultiCoil, image: Tensor, y: Tensor, basis: Basis) -> Tensor:
    """The E minimising |N (S + E) image - y|^2 + RIDGE |E|^2 among maps (coils, H, W) of few cosines.

    N is the model of single coils' images, y (coils, ...).
    """

    def normal(c: Tensor) -> Tensor:
        return _analyse(image.conj() * A.coil_normal(_synthesise(c, basis) * image), basis) + RIDGE * c

    rhs = _analyse(image.conj() * A.coil_residual(A.maps * image, y), basis)
    return _synthesise(_solve(normal, rhs, MAP_ITERATIONS), basis)


def _rescale(maps: Tensor, size: Tensor) -> Tensor:
    """Maps (coils, H, W) at the root-sum-of-squares `size` (H, W), 0 where that is 0."""
    ratio = root_sum_of_squares(maps, 0) / size.where(size > 0, torch.ones_like(size))
    resized: Tensor = maps / ratio.clamp(min=LEAST_RATIO) * (size > 0)
    return resized


def _synthesise(coefficients: Tensor, basis: Basis) -> Tensor:
    return basis[0] @ coefficients @ basis[1].T


def _analyse(maps: Tensor, basis: Basis) -> Tensor:
    return basis[0].T @ maps @ basis[1]


def _cosines(size: int, like: Tensor, count: int = COSINES) -> Tensor:
    """The first orthonormal cosines (size, n) of the discrete cosine transform, complex."""
    pixels = (torch.arange(size, device=like.device) + 0.5) / size
    orders = torch.arange(min(count, size), device=like.device)
    basis = torch.cos(math.pi * pixels[:, None] * orders) * math.sqrt(2 / size)
    basis[:, 0] = 1 / math.sqrt(size)
    return basis.to(like.dtype)


def _solve(normal: Callable[[Tensor], Tensor], rhs: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients from zero on complex coefficients (coils, n, n), all coils as one system."""
    real = torch.view_as_real(rhs).flatten()[None, :, None, None]

    def as_system(x: Tensor) -> Tensor:
        coefficients = torch.view_as_complex(x.reshape(*rhs.shape, 2))
        return torch.view_as_real(normal(coefficients)).reshape(real.shape)

    solution = conjugate_gradient(as_system, real, None, iterations)
    return torch.view_as_complex(solution.reshape(*rhs.shape, 2))
