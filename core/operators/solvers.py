"""Krylov solvers for symmetric positive semi-definite maps given as functions on image batches."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from udig_recon.core.interruption import check_interruption

LANCZOS_STEPS = 4
"""Iterations of the norm's search from one look at it to the next."""
STILL = 1e-5
"""A norm is found where its square has risen by less than this share since the last look."""
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
        curvature = _inner(direction, image)
        step = torch.where(unsolved & (curvature > 0), energy / curvature, 0.0)
        x = torch.addcmul(x, step, direction)
        residual = torch.addcmul(residual, step, image, value=-1)
        previous, energy = energy, _inner(residual, residual)
        direction = torch.addcmul(residual, torch.where(unsolved, energy / previous, 0.0), direction)
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
        return conjugate_gradient(
            lambda x: torch.add(normal(x), x, alpha=weight), rhs + weight * centre, centre, iterations
        )


def operator_norm(normal: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 100) -> float:
    """Spectral norm of A from its normal map A^H A, by Lanczos' method from `start` (1, C, H, W).

    The largest Ritz value approaches the norm from below, much sooner than power iteration does; the search ends when
    it has stopped rising, which is looked at every few iterations, as a look waits for the device.
    """
    beta = start.new_zeros(())
    previous, current = torch.zeros_like(start), start / start.norm()
    alphas, betas, largest = [], [], 0.0
    for i in range(1, iterations + 1):
        check_interruption()
        image = torch.addcmul(normal(current), beta, previous, value=-1)
        alpha = torch.sum(image * current)
        image = torch.addcmul(image, alpha, current, value=-1)
        beta = image.norm()
        alphas.append(alpha)
        betas.append(beta)
        # Where all is found the remainder is 0, or rounding, and what follows adds no larger value.
        previous, current = current, image / beta.clamp(min=torch.finfo(beta.dtype).tiny)
        if i % LANCZOS_STEPS == 0 or i == iterations:
            diagonal, beside = torch.stack([torch.stack(alphas), torch.stack(betas)]).double().cpu()
            tridiagonal = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
            before, largest = largest, float(torch.linalg.eigvalsh(tridiagonal)[-1])
            if largest - before <= STILL * largest:
                break
    return math.sqrt(max(largest, 0.0))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(1, 2, 3), keepdim=True)
