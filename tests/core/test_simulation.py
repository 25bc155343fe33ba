"""Masks measure what they promise; simulated scans obey their own physics."""

import numpy as np
import pytest
import torch

from udig_recon.core.operators import XRayTransform, ifft2c
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, poisson_disc, simulate_ct, simulate_mri


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(64, 64), (33, 51), (20, 368)])
def test_lines_are_whole_and_as_many_as_asked(shape: tuple[int, int], rng: np.random.Generator) -> None:
    mask = cartesian_lines(shape, 4, 0.08, rng)
    width, center = shape[1], round(0.08 * shape[1])
    first = width // 2 - center // 2
    assert mask.shape == shape
    assert (mask == mask[0]).all()
    assert mask[0].sum() == round(width / 4)
    assert mask[0, first : first + center].all()


@pytest.mark.parametrize("shape", [(96, 80), (61, 75)])
def test_poisson_discs_keep_their_count_centre_and_distance(shape: tuple[int, int], rng: np.random.Generator) -> None:
    mask = poisson_disc(shape, 6, 12, rng)
    assert mask.sum() == round(mask.size / 6)
    top, left = shape[0] // 2 - 6, shape[1] // 2 - 6
    assert mask[top : top + 12, left : left + 12].all()
    mask[top - 2 : top + 14, left - 2 : left + 14] = False
    beside = mask[1:] & mask[:-1]
    assert not beside.any()


def test_masks_follow_their_seed() -> None:
    first, second, other = (poisson_disc((48, 48), 4, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("coils", [1, 2, 8, 64])
def test_birdcage_maps_have_unit_root_sum_of_squares(coils: int) -> None:
    maps = birdcage_maps(coils, (24, 31))
    assert maps.shape == (coils, 24, 31)
    assert np.allclose(np.linalg.norm(maps, axis=0), 1, atol=1e-5)


def test_a_full_noiseless_scan_is_the_image(rng: np.random.Generator) -> None:
    image = (rng.standard_normal((2, 20, 24)) + 1j * rng.standard_normal((2, 20, 24))).astype(np.complex64)
    maps = birdcage_maps(4, (20, 24))
    scan = simulate_mri(image, maps, np.ones((20, 24), bool), rng, with_maps=True)
    combined = np.sum(maps.conj() * ifft2c(torch.from_numpy(scan.kspace)).numpy(), axis=1)
    assert np.allclose(combined, image, atol=1e-5)
    assert scan.sensitivity_maps is not None
    assert scan.sensitivity_maps.shape == scan.kspace.shape
    assert scan.recon_size == (20, 24)


def test_kspace_noise_has_the_level_asked_and_stays_on_the_mask(rng: np.random.Generator) -> None:
    mask = cartesian_lines((64, 64), 2, 0.1, rng)
    image = np.zeros((64, 64), np.complex64)
    image[0, 0] = 2
    maps = birdcage_maps(6, (64, 64))
    quiet, noisy = (simulate_mri(image, maps, mask, rng, noise_level=level).kspace for level in (0, 0.25))
    assert np.std((noisy - quiet)[:, :, mask]) == pytest.approx(0.5, rel=0.05)
    assert not noisy[:, :, ~mask].any()


def test_photon_noise_has_the_variance_of_counts(rng: np.random.Generator) -> None:
    image = np.full((32, 32), 0.03, np.float32)
    photons = 1e4
    clean = simulate_ct(image, 200, None, rng).sinogram
    noisy = simulate_ct(image, 200, photons, rng).sinogram
    expected = np.exp(clean) / photons
    assert np.mean((noisy - clean) ** 2 / expected) == pytest.approx(1, rel=0.05)


def test_rays_without_a_photon_stay_finite(rng: np.random.Generator) -> None:
    scan = simulate_ct(np.full((16, 16), 5.0, np.float32), 10, 10.0, rng)
    assert np.isfinite(scan.sinogram).all()
    assert scan.sinogram.max() == pytest.approx(np.log(20), rel=1e-6)


def test_a_finer_grid_projects_to_the_same_masses(rng: np.random.Generator) -> None:
    fine = rng.uniform(0, 0.04, (2, 48, 48)).astype(np.float32)
    scan = simulate_ct(fine, 12, None, rng, pixel_size_mm=1.5, supersampling=3)
    assert scan.image_size == 16
    assert scan.reference is not None
    assert np.allclose(scan.reference.mean(), fine.mean(), rtol=1e-5)
    coarse = XRayTransform(scan.angles, 16, scan.sinogram.shape[-1], 1.5, scan.detector_spacing_mm)
    projected = coarse.forward(torch.from_numpy(scan.reference)[:, None])[:, 0] / coarse.scale
    assert np.allclose(projected.numpy().sum(axis=-1), scan.sinogram.sum(axis=-1), rtol=1e-4)
    assert not np.allclose(projected.numpy(), scan.sinogram, rtol=1e-3)
