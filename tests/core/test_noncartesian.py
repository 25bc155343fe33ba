"""Non-Cartesian MRI: transforms, weights, the convolution A^H A, misfit, noise, holdout and coil maps."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.support import scans
from udig_recon.core import metrics
from udig_recon.core.acquisition import NonCartesianAcquisition
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators import LinearOperator, NonCartesianMRI, fft2c, nufft
from udig_recon.core.operators.nufft import (
    GriddedFourier,
    NonuniformFourier,
    PlannedFourier,
    density_compensation,
)
from udig_recon.core.problem import slice_problem
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian, spiral_interleaves

SQUARE = (32, 32)
CPU = torch.device("cpu")
IMAGE = gaussian_filter(scans.phantom(1, 32)[0], 1.0).astype(np.complex64)
FOURIER: dict[str, Callable[[np.ndarray, tuple[int, int]], NonuniformFourier]] = {
    "planned": lambda points, shape: PlannedFourier(points, shape, 2),
    "gridded": lambda points, shape: GriddedFourier(points, shape, CPU),
}


def operator_of(trajectory: np.ndarray, coils: int = 4, shape: tuple[int, int] = SQUARE) -> NonCartesianMRI:
    return NonCartesianMRI(torch.from_numpy(birdcage_maps(coils, shape)), trajectory)


def simulated(trajectory: np.ndarray, **more: float | bool) -> NonCartesianAcquisition:
    rng = np.random.default_rng(0)
    return simulate_non_cartesian(IMAGE, birdcage_maps(4, SQUARE), trajectory, rng, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOURIER)
@pytest.mark.parametrize("shape", [(16, 16), (15, 22)])
def test_a_nonuniform_transform_is_the_sum_of_waves(name: str, shape: tuple[int, int]) -> None:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (90, 2)) * shape
    images = torch.randn(2, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    rows, columns = (np.arange(side) - side // 2 for side in shape)
    waves = [np.exp(-2j * np.pi * points[:, a, None] * p / shape[a]) for a, p in ((0, rows), (1, columns))]
    expected = np.einsum("nhw,kh,kw->nk", images.numpy(), *waves) / np.sqrt(shape[0] * shape[1])
    found = FOURIER[name](points, shape).forward(images).numpy()
    assert np.linalg.norm(found - expected) < 3e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", FOURIER)
def test_at_the_points_of_the_grid_it_is_the_fourier_transform(name: str) -> None:
    shape = (13, 18)
    grid = np.stack(np.meshgrid(*(np.arange(side) - side // 2 for side in shape), indexing="ij"), -1)
    images = torch.randn(2, *shape, dtype=torch.complex64)
    fourier = FOURIER[name](grid.reshape(-1, 2).astype(float), shape)
    found = fourier.forward(images).reshape(images.shape)
    assert torch.allclose(found, fft2c(images), atol=1e-5)
    assert torch.allclose(fourier.adjoint(found.flatten(1)), images, atol=1e-5)


def test_weights_are_the_area_of_dense_samples_and_one_of_sparse_ones() -> None:
    spokes = radial_spokes((64, 64), 110, golden=False).astype(float)
    weights = density_compensation(spokes.reshape(-1, 2), (64, 64)).reshape(spokes.shape[:2])
    radius = np.hypot(*np.moveaxis(spokes, -1, 0))
    dense = (radius > 1) & (radius < 18)
    area = np.pi * radius / 110 / 2
    assert np.abs(weights[dense] / area[dense] - 1).max() < 0.12
    lone = density_compensation(np.array([[0.0, 0.0], [20.0, 5.0], [-7.0, 30.0]]), (64, 64))
    assert np.allclose(lone, 1, atol=0.02)
    assert weights.max() <= 1.0 + 1e-9


TRAJECTORIES = {
    "spokes": radial_spokes(SQUARE, 110),
    "spirals": spiral_interleaves(SQUARE, 8, 0.8),
    "spokes in order": radial_spokes(SQUARE, 101, golden=False),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_direct_image_of_a_flat_phantom_is_flat_and_as_bright(name: str) -> None:
    y, x = np.meshgrid(*[np.arange(32) - 16.0] * 2, indexing="ij")
    disc = gaussian_filter((np.hypot(y, x) < 10).astype(float), 1.5).astype(np.complex64)
    scan = simulate_non_cartesian(
        disc, birdcage_maps(4, SQUARE), TRAJECTORIES[name], np.random.default_rng(0), with_maps=True
    )
    direct = slice_problem(scan, 0, CPU).direct_image
    inside = np.hypot(y, x) < 6
    assert direct[inside].mean() == pytest.approx(1, abs=0.03)
    assert direct[inside].std() < 0.03
    assert metrics.psnr(direct, np.abs(disc)) > 30


def test_the_misfit_is_that_of_the_samples_whether_it_is_large_or_rounding() -> None:
    A = operator_of(radial_spokes(SQUARE, 20))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *SQUARE, generator=rng)
    noise = torch.randn(1, 4, 20, 64, dtype=torch.complex64, generator=rng)
    for level in (1.0, 1e-2, 1e-4):
        y = A.forward(x[:1]) + level * noise
        for images in (x[:1], x):
            given = images.clone().requires_grad_()
            expected = LinearOperator.misfit(A, given, y)
            (wanted,) = torch.autograd.grad(expected, given)
            found = A.misfit(given, y)
            (gradient,) = torch.autograd.grad(found, given)
            assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
            assert float((gradient - wanted).norm()) < 1e-5 * float(A.adjoint(y).norm())


def test_the_misfit_follows_measurements_that_are_changed_in_place() -> None:
    A = operator_of(radial_spokes(SQUARE, 20))
    x, y = torch.zeros(1, 2, *SQUARE), torch.ones(1, 4, 20, 64, dtype=torch.complex64)
    before = float(A.misfit(x, y))
    y *= 2
    assert float(A.misfit(x, y)) == pytest.approx(4 * before, rel=1e-6)


def test_noise_is_read_off_outer_samples_and_known_for_all() -> None:
    scan = simulated(radial_spokes(SQUARE, 64), noise_level=0.05, with_maps=True)
    problem = slice_problem(scan, 0, CPU)
    assert scan.reference is not None
    clean = simulated(radial_spokes(SQUARE, 64), with_maps=True)
    noise = slice_problem(clean, 0, CPU).measurements - problem.measurements
    assert problem.noise_norm == pytest.approx(float(noise.norm()), rel=0.1)


@pytest.mark.parametrize("name", ["spokes", "spirals"])
def test_noise_of_an_image_of_fine_detail_is_read_off_outside_the_field_of_view(name: str) -> None:
    shape = (128, 128)
    numbers = np.random.default_rng(1)
    detail = numbers.random(shape).astype(np.complex64)  # its spectrum is as strong at the ends of k-space
    trajectory = radial_spokes(shape, 24) if name == "spokes" else spiral_interleaves(shape, 12, 2.0)
    maps = birdcage_maps(3, shape)
    both = [
        simulate_non_cartesian(detail, maps, trajectory, np.random.default_rng(2), noise_level=level, with_maps=True)
        for level in (0.05, 0.0)
    ]
    noisy, clean = (slice_problem(scan, 0, CPU) for scan in both)
    noise = noisy.measurements - clean.measurements
    assert noisy.noise_norm == pytest.approx(float(noise.norm()), rel=0.1)
    kept = noisy.operator.partition(0.2, "lines", torch.Generator().manual_seed(0))
    part = noisy.operator.restrict(kept)
    assert part.noise_norm(noisy.measurements * kept) == pytest.approx(float((noise * kept).norm()), rel=0.1)


def test_held_out_are_whole_readouts_or_runs_of_few_long_ones() -> None:
    many, few = operator_of(radial_spokes(SQUARE, 24)), operator_of(spiral_interleaves(SQUARE, 2))
    rng = torch.Generator().manual_seed(0)
    kept = many.partition(0.25, "lines", rng)
    assert bool((kept == kept[:, :1]).all())
    assert int((~kept[:, 0]).sum()) == 6
    runs = few.partition(0.25, "lines", rng)
    assert few.can_hold_out(runs)
    assert 0.1 < float((~runs).float().mean()) < 0.35
    assert bool(runs[:, :8].all())  # the centre is never held out


def test_readouts_are_ordered_by_angle() -> None:
    A = operator_of(radial_spokes(SQUARE, 24))
    angles = np.arange(24) * np.pi * (np.sqrt(5) - 1) / 2 % np.pi
    order = A.holdout_groups()[:, 0].numpy().argsort()
    turned = np.diff(angles[order])
    assert np.count_nonzero(turned < 0) <= 1


def test_maps_of_the_gridded_centre_are_those_of_the_coils() -> None:
    A = slice_problem(simulated(radial_spokes(SQUARE, 64)), 0, CPU).operator
    assert isinstance(A, NonCartesianMRI)
    truth = torch.from_numpy(birdcage_maps(4, SQUARE))
    inside = torch.from_numpy(np.abs(IMAGE) > 0.2 * np.abs(IMAGE).max())
    likeness = (A.maps.conj() * truth).sum(0).abs()[inside]
    assert float(likeness.median()) > 0.995


def test_a_sparse_centre_needs_maps_of_the_scan() -> None:
    with pytest.raises(UnsupportedScan, match="send sensitivity_maps"):
        slice_problem(simulated(radial_spokes(SQUARE, 5)), 0, CPU)
    assert slice_problem(simulated(radial_spokes(SQUARE, 5), with_maps=True), 0, CPU)


def test_unmeasured_ends_of_k_space_are_told() -> None:
    whole, half = (operator_of(share * radial_spokes(SQUARE, 64)) for share in (1.0, 0.4))
    nothing = torch.zeros(1)
    assert whole.coverage(nothing)["unmeasured"] == 0
    assert half.coverage(nothing)["unmeasured"] > 0.3


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedScan, match="readouts, samples, 2"):
        NonCartesianMRI(torch.ones(2, 8, 8, dtype=torch.complex64), np.zeros((4, 3)))


def test_a_trajectory_without_samples_is_refused() -> None:
    maps = torch.ones(2, 8, 8, dtype=torch.complex64)
    with pytest.raises(UnsupportedScan, match="leave nothing"):
        NonCartesianMRI(maps, np.zeros((4, 3, 2)), np.zeros((4, 3), bool))


def test_where_finufft_is_not_installed_gridding_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory = radial_spokes(SQUARE, 20)
    scan, planned = simulated(trajectory, noise_level=0.01), operator_of(trajectory)
    x = torch.from_numpy(np.stack((IMAGE.real, IMAGE.imag))[None].copy())
    monkeypatch.setattr(nufft, "finufft", None)
    gridded, again = operator_of(trajectory), simulated(trajectory, noise_level=0.01)
    assert np.linalg.norm(again.kspace - scan.kspace) < 1e-5 * np.linalg.norm(scan.kspace)
    assert torch.linalg.vector_norm(gridded.weights - planned.weights) < 1e-5 * torch.linalg.vector_norm(
        planned.weights
    )
    for name in ("forward", "normal"):
        found, expected = (getattr(each, name)(x) for each in (gridded, planned))
        assert torch.linalg.vector_norm(found - expected) < 1e-5 * torch.linalg.vector_norm(expected), name
    problem = slice_problem(scan, 0, CPU)
    assert problem.operator.noise_level(problem.measurements) > 0
