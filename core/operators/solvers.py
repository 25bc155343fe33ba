"""Krylov solvers for symmetric positive semi-definite maps given as functions on image batches."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from udig_recon.core.interruption import check_interruption

ROUNDING = 2e-6
"""Below this share of |rhs| a residual is float32's rounding: a step along it divides rounding by rounding."""


class Descent(NamedTuple):
    """Where conjugate gradients are: image, residual and next direction, all (B, C, H, W), and |residual|^2."""

    x: Tensor
    residual: Tensor
    direction: Tensor
    energy: Tensor


def conjugate_gradient_iterates(
    normal: Callable[[Tensor], Tensor],
    rhs: Tensor,
    x0: Tensor | None = None,
    reached: Descent | None = None,
    *,
    normal_x0: Tensor | None = None,
) -> Iterator[Descent]:
    """Endless iterates of conjugate gradients on `normal(x) = rhs` from x0, or right after the one `reached`.

    x0 is zero where none is given. `normal_x0` is normal(x0) where that is known, which spares an application.

    Each image (C, H, W) of the batch has its own step lengths (Hestenes, Stiefel 1952). One that is solved stays as it
    is: where the map is singular what is left of the residual is rounding, partly in the null space, and another step
    would be arbitrarily long.
    """
    if x0 is None:
        x0 = normal_x0 = torch.zeros_like(rhs)
    residual = rhs - (normal(x0) if normal_x0 is None else normal_x0)
    begun = _inner(residual, residual)
    least = ROUNDING * torch.maximum(_inner(rhs, rhs), begun).sqrt()
    x, residual, direction, energy = reached or Descent(x0, residual, residual, begun)
    while True:
        check_interruption()
        image = normal(direction)
        unsolved = energy.sqrt() > least
        step = _ratio(energy, _inner(direction, image)) * unsolved
        x = x + step * direction
        residual = residual - step * image
        previous, energy = energy, _inner(residual, residual)
        direction = residual + _ratio(energy, previous) * unsolved * direction
        yield Descent(x, residual, direction, energy)


def conjugate_gradient(normal: Callable[[Tensor], Tensor], rhs: Tensor, x0: Tensor | None, iterations: int) -> Tensor:
    """Image number `iterations` of `conjugate_gradient_iterates`, (B, C, H, W); 0 gives x0."""
    x = torch.zeros_like(rhs) if x0 is None else x0
    for x, *_ in islice(conjugate_gradient_iterates(normal, rhs, x0), iterations):  # noqa: B007
        pass
    return x


def proximal(normal: Callable[[Tensor], Tensor], rhs: Tensor, centre: Tensor, weight: float, iterations: int) -> Tensor:
    """A few conjugate gradient steps from the centre towards min_x |A x - y|^2 + weight |x - centre|^2, rhs = A^H y.

    With weight 0, the image among those of so few steps that fits the data best.
    """
    with torch.no_grad():
        return conjugate_gradient(lambda x: normal(x) + weight * x, rhs + weight * centre, centre, iterations)


def operator_norm(normal: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100) -> float:
    """Spectral norm of A from its normal map A^H A, by Lanczos' method from `start` (1, C, H, W).

    The largest Ritz value approaches the norm from below, much sooner than power iteration does; the search ends when
    it has stopped rising.
    """
    previous, current, beta = torch.zeros_like(start), start / start.norm(), 0.0
    tridiagonal = torch.zeros(iterations + 1, iterations + 1, dtype=torch.float64)
    largest = 0.0
    for i in range(iterations):
        check_interruption()
        image = normal(current) - beta * previous
        alpha = float(torch.sum(image * current))
        image = image - alpha * current
        beta = float(image.norm())
        tridiagonal[i, i] = alpha
        before, largest = largest, float(torch.linalg.eigvalsh(tridiagonal[: i + 1, : i + 1])[-1])
        if beta <= 1e-6 * largest or largest - before <= 1e-6 * largest:
            break
        tridiagonal[i, i + 1] = tridiagonal[i + 1, i] = beta
        previous, current = current, image / beta
    return math.sqrt(max(largest, 0.0))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))
