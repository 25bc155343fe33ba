"""Conjugate gradients solve, image by image; the norm is the largest singular value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from udig_recon.core.operators.solvers import conjugate_gradient, operator_norm


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


def projector(size: int, rank: int) -> Callable[[Tensor], Tensor]:
    """Onto a random plane of that many dimensions."""
    basis = torch.linalg.qr(torch.randn(size, rank, generator=torch.Generator().manual_seed(2))).Q
    return lambda x: (x.flatten(1) @ basis @ basis.T).reshape(x.shape)


@pytest.mark.parametrize("iterations", [1, 2, 12, 60])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_steps_after_the_solution_do_not_leave_it(iterations: int, scale: float) -> None:
    normal = projector(64, 40)
    truth = scale * normal(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    truth[1] = 0
    found = conjugate_gradient(normal, normal(truth), torch.zeros_like(truth), iterations)
    assert float((found - truth).norm()) < 1e-5 * float(truth.norm())
    again = conjugate_gradient(normal, normal(truth), found, iterations)
    assert torch.equal(again, found)


def test_an_image_that_is_solved_waits_for_the_others_of_its_batch() -> None:
    hard, easy = as_map(matrix(64)), projector(64, 40)

    def normal(x: Tensor) -> Tensor:
        return torch.cat([hard(x[:1]), easy(x[1:])])

    rhs = normal(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    found = conjugate_gradient(normal, rhs, torch.zeros_like(rhs), 20)
    assert torch.equal(found[:1], conjugate_gradient(hard, rhs[:1], torch.zeros_like(rhs[:1]), 20))
    assert torch.allclose(found[1:], conjugate_gradient(easy, rhs[1:], torch.zeros_like(rhs[1:]), 1), atol=1e-5)


@pytest.mark.parametrize("size", [1, 12, 60])
def test_the_norm_is_the_largest_singular_value(size: int) -> None:
    a = matrix(size)
    norm = operator_norm(as_map(a), torch.ones(1, 1, 1, size))
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(a, 2)), rel=1e-3)


def test_the_norm_of_nothing_is_zero() -> None:
    assert operator_norm(torch.zeros_like, torch.ones(1, 1, 2, 2)) == 0
