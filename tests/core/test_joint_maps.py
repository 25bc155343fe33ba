"""Coil maps fitted with the image: better where the given ones are wrong, left alone where they are right."""

import numpy as np
import pytest
import torch

from udig_recon.core.coils.joint_maps import has_coil_maps, refit_maps, with_joint_maps
from udig_recon.core.operators import MultiCoilMRI, NonCartesianMRI
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, radial_spokes

SIZE = 64


@pytest.fixture(scope="module", params=["lines", "spokes"])
def scan(request):
    """Operator with the true maps, k-space at 3x, and the image, brightest 1, that fills the field of view."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    image = 0.6 + 0.2 * np.sin(9 * x + 2) * np.cos(7 * y) + 0.2 * (np.hypot(x - 0.2, y) < 0.4)
    maps = torch.from_numpy(birdcage_maps(8, (SIZE, SIZE)))
    if request.param == "spokes":
        A = NonCartesianMRI(maps, radial_spokes((SIZE, SIZE), 34))
    else:
        A = MultiCoilMRI(maps, torch.from_numpy(cartesian_lines((SIZE, SIZE), 3, 0.15, rng)))
    truth = torch.from_numpy(np.stack([image, 0.3 * image * x])[None]).float()
    return A, A.forward(truth), truth


def error(A, y, truth):
    rhs = A.adjoint(y)
    image = conjugate_gradient(A.normal, rhs, torch.zeros_like(rhs), 30)
    return float((image.norm(dim=1) - truth.norm(dim=1)).norm() / truth.norm())


def bent(maps):
    """Maps of the same root-sum-of-squares whose coils' brightness and phase drift across the image."""
    coils = maps.shape[0]
    x = torch.linspace(-1, 1, SIZE)
    drift = torch.exp((0.25 + 0.5j) * torch.linspace(-1, 1, coils)[:, None, None] * x**2)
    wrong = maps * drift
    return wrong * (maps.norm(dim=0) / wrong.norm(dim=0))


def test_wrong_maps_are_mended(scan):
    A, y, truth = scan
    wrong = A.with_maps(bent(A.maps))
    *_, fitted = with_joint_maps(wrong, y, torch.Generator().manual_seed(0))
    assert error(fitted, y, truth) < 0.5 * error(wrong, y, truth)


def test_true_maps_lose_nothing(scan):
    A, y, truth = scan
    *_, fitted = with_joint_maps(A, y, torch.Generator().manual_seed(0))
    assert error(fitted, y, truth) < 1.05 * error(A, y, truth) + 1e-3


def test_fitted_maps_keep_their_size_and_their_support(scan):
    A, y, _ = scan
    seen = torch.ones(SIZE, SIZE)
    seen[:, :6] = 0
    wrong = A.with_maps(bent(A.maps) * seen)
    *_, fitted = with_joint_maps(wrong, y * 1.0, torch.Generator().manual_seed(0))
    size = fitted.maps.norm(dim=0)
    assert float(size[:, :6].abs().max()) == 0
    assert torch.allclose(size[:, 6:], wrong.maps.norm(dim=0)[:, 6:], atol=1e-4)


def test_the_same_seed_gives_the_same_maps(scan):
    A, y, _ = scan
    wrong = A.with_maps(bent(A.maps))
    first, second = (list(with_joint_maps(wrong, y, torch.Generator().manual_seed(1))) for _ in range(2))
    assert len(first) == len(second) > 1
    assert all(torch.equal(one.maps, other.maps) for one, other in zip(first, second, strict=True))


def test_models_of_single_coils_images_agree_with_the_whole_model(scan):
    A, y, truth = scan
    images = A.maps * torch.view_as_complex(truth.movedim(1, -1).contiguous())
    assert float(A.coil_residual(images, y[0]).norm()) < 1e-4 * float(A.coil_residual(0 * images, y[0]).norm())
    combined = (A.maps.conj() * A.coil_normal(images)).sum(0)
    expected = A.normal(truth)[0]
    assert torch.allclose(torch.stack((combined.real, combined.imag)), expected, atol=1e-4)


def test_a_good_image_mends_wrong_maps_and_leaves_true_ones(scan):
    A, y, truth = scan
    wrong = A.with_maps(bent(A.maps))
    mended = refit_maps(wrong, y, truth)
    misfits = [float(model.misfit(truth, y)) for model in (wrong, mended, refit_maps(A, y, truth))]
    assert misfits[1] < 0.1 * misfits[0]
    assert misfits[2] < 1e-3 * misfits[0]


def test_refitted_maps_keep_size_support_scale_and_the_measured_part(scan):
    A, y, truth = scan
    mended = refit_maps(A.with_maps(bent(A.maps)), y, truth)
    assert torch.allclose(mended.maps.norm(dim=0), A.maps.norm(dim=0), atol=1e-3)
    assert mended.scale == A.scale
    assert torch.equal(mended.measured, A.measured)
    assert torch.equal(mended.support, A.support)


def test_models_of_one_coil_have_no_maps_to_fit(scan):
    A, _, _ = scan
    assert has_coil_maps(A)
    assert not has_coil_maps(MultiCoilMRI(torch.ones(1, SIZE, SIZE, dtype=torch.complex64), torch.ones(SIZE, SIZE) > 0))
