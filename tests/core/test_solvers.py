"""Conjugate gradients solve, image by image; the norm is the largest singular value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.solvers import conjugate_gradient, operator_norm


def matrix(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size + 4, size, generator=torch.Generator().manual_seed(seed))


def as_map(a: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x.flatten(1) @ (a.T @ a)).reshape(x.shape)


def test_conjugate_gradients_solve_every_image_of_a_batch() -> None:
    normal = as_map(matrix(12))
    truth = torch.randn(3, 1, 3, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 1e3, 0.0]).reshape(
        3, 1, 1, 1
    )
    found = conjugate_gradient(normal, normal(truth), torch.zeros_like(truth), 24)
    assert torch.allclose(found[0], truth[0], atol=1e-3)
    assert torch.allclose(found[1], truth[1], atol=1.0)
    assert torch.equal(found[2], truth[2])


def test_conjugate_gradients_leave_a_solution_as_it_is() -> None:
    normal = as_map(matrix(12))
    x = torch.ones(1, 1, 3, 4)
    assert torch.allclose(conjugate_gradient(normal, normal(x), x, 5), x)
    assert conjugate_gradient(normal, normal(x), x, 0) is x


@pytest.mark.parametrize("size", [1, 12, 60])
def test_the_norm_is_the_largest_singular_value(size: int) -> None:
    a = matrix(size)
    norm = operator_norm(as_map(a), torch.ones(1, 1, 1, size))
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(a, 2)), rel=1e-3)


def test_the_norm_of_nothing_is_zero() -> None:
    assert operator_norm(torch.zeros_like, torch.ones(1, 1, 2, 2)) == 0
