"""The laws that every forward model keeps."""

import torch
from torch import Tensor

from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import operator_norm


def pair(operator: LinearOperator, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Random images and measurements of an operator."""
    rng = torch.Generator().manual_seed(7)
    x = torch.randn((batch, *operator.image_shape), generator=rng)
    image = operator.forward(x)
    return x, torch.randn(image.shape, generator=rng, dtype=image.dtype)


def inner(a: Tensor, b: Tensor) -> float:
    """Re<a, b>, summed in double precision."""
    return float(torch.sum((a.to(torch.complex128) * b.to(torch.complex128).conj()).real))


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a - b).norm()) <= tolerance * max(float(a.norm()), float(b.norm()))


def is_linear(operator: LinearOperator) -> bool:
    x, _ = pair(operator)
    y, _ = pair(operator)
    z = torch.flip(y, (0, 2))
    return close(operator.forward(2 * x - 3 * z), 2 * operator.forward(x) - 3 * operator.forward(z), 1e-5)


def adjoint_error(operator: LinearOperator) -> float:
    """|Re<Ax, y> - <x, A^H y>|, relative to |Ax| |y|."""
    x, y = pair(operator)
    image, back = operator.forward(x), operator.adjoint(y)
    return abs(inner(image, y) - inner(x, back)) / float(image.norm() * y.norm())


def gradient_is_adjoint(operator: LinearOperator) -> bool:
    """The gradient of |Ax - y|^2 / 2 is A^H (Ax - y)."""
    x, y = pair(operator)
    x.requires_grad_(True)
    residual = operator.forward(x) - y
    (gradient,) = torch.autograd.grad(residual.abs().square().sum() / 2, x)
    return close(gradient, operator.adjoint(residual.detach()), 1e-5)


def normal_is_its_own_gradient(operator: LinearOperator) -> bool:
    x, _ = pair(operator)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad((x * operator.normal(x)).sum() / 2, x)
    return close(gradient, operator.adjoint(operator.forward(x.detach())), 1e-5)


def norm_of(operator: LinearOperator) -> float:
    start = torch.randn((1, *operator.image_shape), generator=torch.Generator().manual_seed(11))
    return operator_norm(operator.normal, start, iterations=200)
