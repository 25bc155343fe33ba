"""Coil maps from calibration samples: right, whole, of unit length in the object, as BART's."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from udig_recon.core.coils.espirit import calibration_size, espirit
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators import MultiCoilMRI, as_complex
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, poisson_disc, simulate_mri


def head(shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Ellipse with a bright rim, structure, and a dark hole as of air, with a slowly turning phase."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    radius = np.hypot(x / 0.7, y / 0.85)
    image = np.where(radius < 1, 0.6 + 0.2 * np.cos(9 * x) * np.cos(7 * y), 0) + 0.3 * (np.abs(radius - 0.95) < 0.05)
    image[np.hypot(x - 0.15, y + 0.2) < 0.12] = 0
    return (image * np.exp(1j * (0.7 * x - y * x + 0.4))).astype(np.complex64)


def inside(shape: tuple[int, int]) -> NDArray[np.bool_]:
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    return np.hypot(x / 0.7, y / 0.85) < 0.97


def scan(
    shape: tuple[int, int], coils: int, mask: NDArray[np.bool_]
) -> tuple[torch.Tensor, NDArray[np.complex64], NDArray[np.complex64]]:
    image, maps = head(shape), birdcage_maps(coils, shape)
    acquisition = simulate_mri(image, maps, mask, np.random.default_rng(2), noise_level=0.003)
    return torch.from_numpy(acquisition.kspace[0]), image, maps


def likeness(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.float64]:
    """|cos| of the angle between two sets of coil vectors (coils, y, x)."""
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.asarray(np.abs(np.sum(a.conj() * b, axis=0)) / np.maximum(lengths, 1e-12))


MASKS = {
    "lines": lambda shape: cartesian_lines(shape, 4, 0.16, np.random.default_rng(0)),
    "points": lambda shape: poisson_disc(shape, 4, 20, np.random.default_rng(0)),
}


@pytest.mark.parametrize(("shape", "coils"), [((128, 120), 8), ((97, 111), 4)])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_maps_are_the_true_ones_up_to_phase(mask, shape, coils) -> None:  # type: ignore[no-untyped-def]
    sampled = mask(shape)
    kspace, _, truth = scan(shape, coils, sampled)
    found = espirit(kspace, calibration_size(sampled)).numpy()
    alike = likeness(found, truth)[inside(shape)]
    assert np.quantile(alike, 0.01) > 0.99
    assert alike.mean() > 0.999


def test_maps_have_no_holes_in_the_object_and_vanish_far_from_it() -> None:
    mask = np.ones((128, 128), bool)
    kspace, _, _ = scan(mask.shape, 8, mask)
    length = np.linalg.norm(espirit(kspace, calibration_size(mask)).numpy(), axis=0)
    assert length.max() < 1 + 1e-5
    assert length[inside(mask.shape)].min() > 1 - 1e-5
    assert length[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0


def test_maps_do_not_depend_on_the_units_of_kspace() -> None:
    mask = cartesian_lines((64, 64), 3, 0.25, np.random.default_rng(0))
    kspace, _, _ = scan(mask.shape, 4, mask)
    tiny, huge = (espirit(kspace * unit, calibration_size(mask)) for unit in (1e-25, 1e20))
    assert torch.allclose(tiny, huge, atol=1e-3)


def test_phase_is_smooth_so_that_the_image_has_no_branch_cut() -> None:
    mask = np.ones((96, 96), bool)
    kspace, _, _ = scan(mask.shape, 8, mask)
    found = espirit(kspace, calibration_size(mask)).numpy()
    turn = np.abs(np.angle(np.sum(found[:, :, 1:] * found[:, :, :-1].conj(), axis=0)))
    assert turn[inside(mask.shape)[:, 1:]].max() < 0.5


def test_a_reconstruction_with_these_maps_is_as_good_as_with_the_true_ones() -> None:
    mask = cartesian_lines((128, 128), 3, 0.16, np.random.default_rng(0))
    kspace, image, truth = scan(mask.shape, 8, mask)

    def error(maps: torch.Tensor) -> float:
        operator = MultiCoilMRI(maps, torch.from_numpy(mask))
        rhs = operator.adjoint(operator.scale * kspace[None])
        found = as_complex(conjugate_gradient(operator.normal, rhs, torch.zeros_like(rhs), 10))[0].abs().numpy()
        return float(np.linalg.norm(found - np.abs(image)) / np.linalg.norm(image))

    assert error(espirit(kspace, calibration_size(mask))) < 1.15 * error(torch.from_numpy(truth))


def test_one_coil_sees_everything_alike() -> None:
    assert torch.equal(espirit(torch.randn(1, 16, 16).cfloat(), (8, 8)), torch.ones(1, 16, 16).cfloat())


def test_pure_noise_still_gives_maps() -> None:
    maps = espirit(torch.randn(4, 48, 48, dtype=torch.complex64), (24, 24))
    assert torch.isfinite(maps.abs()).all()
    assert float(maps.abs().max()) > 0


def test_the_calibration_region_is_found_in_every_pattern() -> None:
    lines = np.zeros((40, 51), bool)
    lines[:, 20:31] = True
    assert calibration_size(lines) == (32, 11)
    square = np.zeros((40, 40), bool)
    square[11:29, 12:28] = True
    assert calibration_size(square) == (18, 16)
    assert calibration_size(np.ones((300, 20), bool)) == (32, 20)


@pytest.mark.parametrize("width", [0, 1, 7])
def test_a_calibration_region_too_small_for_maps_is_refused(width: int) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, 32 - width // 2 : 32 - width // 2 + width] = True
    with pytest.raises(UnsupportedScan, match="send sensitivity_maps") as refusal:
        calibration_size(mask)
    assert refusal.value.field == "mask"
    assert "8 x 8" in refusal.value.expected


def test_a_silent_centre_is_refused() -> None:
    with pytest.raises(UnsupportedScan, match="zero in every coil"):
        espirit(torch.zeros(4, 32, 32, dtype=torch.complex64), (16, 16))


def _write_cfl(path: Path, kspace: NDArray[np.complex64]) -> None:
    """BART's pair of files: dimensions (x, y, z, coils) and complex floats, first index fastest."""
    array = kspace.transpose(1, 2, 0)[:, :, None]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
def test_maps_agree_with_those_of_bart(tmp_path: Path) -> None:
    mask = cartesian_lines((128, 120), 4, 0.2, np.random.default_rng(0))
    kspace, _, _ = scan(mask.shape, 8, mask)
    _write_cfl(tmp_path / "kspace", kspace.numpy())
    subprocess.run(["bart", "ecalib", "-m1", "kspace", "maps"], cwd=tmp_path, check=True, capture_output=True)
    flat = np.fromfile(tmp_path / "maps.cfl", np.complex64)
    theirs = flat.reshape((*mask.shape, len(kspace)), order="F").transpose(2, 0, 1)
    ours = espirit(kspace, calibration_size(mask)).numpy()
    body = inside(mask.shape) & (np.linalg.norm(theirs, axis=0) > 0.5)
    assert likeness(ours, theirs)[body].mean() > 0.999
