"""The CT convention, against ASTRA and scikit-image, and the absolute scale of filtered back-projection."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import radon

from udig_recon.core.angles import angular_weights
from udig_recon.core.operators import XRayTransform, matrix_free
from udig_recon.core.operators import radon as strip
from udig_recon.core.operators.ct import _norm_of, _projector
from udig_recon.core.operators.radon_auto import projector

DATA = Path(__file__).parents[1] / "data"


def spots(size: int) -> NDArray[np.float32]:
    """Three smooth spots (y, x) without any symmetry, in 1/mm."""
    rows, columns = np.indices((size, size)) / (size - 1) * 2 - 1
    image = np.zeros((size, size))
    for row, column, width, value in ((-0.4, -0.3, 0.12, 0.02), (0.2, 0.5, 0.08, 0.03), (0.5, -0.2, 0.13, 0.01)):
        image += value * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
    return np.where(image > 1e-4, image, 0).astype(np.float32)


def line_integrals(operator: XRayTransform, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return (operator.forward(torch.from_numpy(image)[None, None]) / operator.scale)[0, 0].numpy()


def back(operator: XRayTransform, sinogram: NDArray[np.float32], window: str = "ramp") -> NDArray[np.float32]:
    y = torch.from_numpy(sinogram)[None, None] * operator.scale
    return operator.direct(y, window)[0, 0].numpy()  # type: ignore[arg-type]


def test_line_integrals_are_those_of_astra() -> None:
    with np.load(DATA / "astra_parallel.npz") as astra:
        image, sinogram, angles = astra["image"], astra["sinogram"], astra["angles"]
        pixel, spacing = float(astra["pixel_size_mm"]), float(astra["detector_spacing_mm"])
    operator = XRayTransform(angles, len(image), sinogram.shape[1], pixel, spacing, pixel_response=False)
    assert np.abs(line_integrals(operator, image) - sinogram).max() < 1e-5 * sinogram.max()


def test_line_integrals_turn_as_those_of_scikit_image() -> None:
    image, degrees = spots(101), np.array([0.0, 20.0, 75.0, 90.0, 140.0])
    theirs = radon(image, degrees, circle=True).T
    ours = line_integrals(XRayTransform(np.deg2rad(degrees), 101, 101, 1.0, 1.0), image)
    assert np.linalg.norm(ours - theirs) < 0.01 * np.linalg.norm(theirs)


def test_every_view_carries_the_whole_mass() -> None:
    image, angles = spots(40), np.array([0.0, 0.3, np.pi / 4, 1.9, np.pi / 2, 5.0])
    ours = line_integrals(XRayTransform(angles, 40, 120, 0.8, 0.55), image)
    assert np.allclose(ours.sum(axis=1) * 0.55, image.sum() * 0.8**2, rtol=1e-5)


TURNS = {
    "half turn": np.arange(180) * np.pi / 180,
    "full turn": np.arange(180) * 2 * np.pi / 180,
    "ends measured twice": np.linspace(0, np.pi, 181),
    "irregular": np.sort(np.random.default_rng(0).uniform(0, np.pi, 500)),
    "golden angle": np.arange(200) * np.pi * (np.sqrt(5) - 1) / 2,
}


@pytest.mark.parametrize("angles", TURNS.values(), ids=TURNS)
def test_fbp_gives_attenuation_back_in_its_place_and_unit(angles: NDArray[np.float64]) -> None:
    image = spots(64)
    operator = XRayTransform(angles, 64, 131, 1.3, 0.9)
    found = back(operator, line_integrals(operator, image))
    assert np.linalg.norm(found - image) < 0.06 * np.linalg.norm(image)
    assert found.sum() == pytest.approx(image.sum(), rel=5e-3)
    assert np.allclose(ndimage.center_of_mass(found), ndimage.center_of_mass(image), atol=0.1)


def test_hann_is_smoother_than_ramp_and_as_bright() -> None:
    operator = XRayTransform(TURNS["half turn"], 64, 91, 1.0, 1.0)
    noise = np.random.default_rng(1).standard_normal((180, 91)).astype(np.float32)
    assert back(operator, noise, "hann").std() < 0.6 * back(operator, noise, "ramp").std()
    mass = back(operator, line_integrals(operator, spots(64)), "hann").sum()
    assert mass == pytest.approx(spots(64).sum(), rel=5e-3)


def test_the_inside_of_a_disc_is_flat_and_right() -> None:
    rows, columns = np.indices((128, 128)) - 63.5
    disc = (np.hypot(rows, columns) < 50).astype(np.float32) * 0.02
    operator = XRayTransform(np.arange(360) * np.pi / 360, 128, 181, 1.0, 1.0)
    inside = back(operator, line_integrals(operator, disc))[np.hypot(rows, columns) < 45]
    assert inside.mean() == pytest.approx(0.02, rel=1e-3)
    assert inside.std() < 0.01 * 0.02


def test_views_share_the_half_turn_by_their_distance() -> None:
    assert np.allclose(angular_weights(np.arange(6) * np.pi / 6), np.pi / 6)
    assert np.allclose(angular_weights(np.arange(6) * np.pi / 3), np.pi / 6)
    assert np.allclose(angular_weights(np.array([0.1])), np.pi)
    irregular = np.array([2.0, 0.1, 0.4])
    assert np.allclose(angular_weights(irregular), [(np.pi - 0.3) / 2, (np.pi - 1.6) / 2, 1.9 / 2], atol=1e-5)


def test_a_missing_wedge_is_not_laid_upon_its_neighbours() -> None:
    assert np.allclose(angular_weights(np.deg2rad(np.arange(120))), np.deg2rad(1))


def test_slices_of_a_volume_share_one_projector() -> None:
    def make() -> XRayTransform:
        return XRayTransform(np.arange(3.0), 16, 23, 1.0, 1.0)

    first = make()
    hits = _projector.cache_info().hits
    assert make()._projector is first._projector
    assert _projector.cache_info().hits == hits + 1


ANGLES = tuple(0.01 + np.arange(40) * np.pi / 40)
WIDE = {
    "as wide as pixels": strip.Geometry(ANGLES, 64, 95, 1.0, 1.0),
    "narrow": strip.Geometry(ANGLES, 64, 240, 1.0, 0.4, 110.3),
    "wide": strip.Geometry(ANGLES, 64, 40, 1.0, 2.3),
    "short": strip.Geometry(ANGLES, 64, 30, 1.0, 0.5),
    "flat fan": strip.Geometry(ANGLES, 64, 160, 1.0, 1.0, None, "fan_flat", 120.0, 200.0),
    "curved fan": strip.Geometry(ANGLES, 64, 160, 1.0, 1.0, 70.0, "fan_curved", 120.0, 200.0),
}


@pytest.mark.parametrize("geometry", WIDE.values(), ids=WIDE)
def test_line_integrals_without_a_matrix_are_those_of_the_strips(geometry: strip.Geometry) -> None:
    device = torch.device("cpu")
    free, stored = matrix_free.MatrixFreeProjector(geometry, device), strip.StripProjector(geometry, device)
    rows, columns = np.indices((64, 64)) - 31.5
    disc = torch.from_numpy((spots(64) + 0.01 * (np.hypot(rows, columns) < 25)).astype(np.float32)).reshape(1, -1)
    rays = stored.forward(disc)
    assert (free.forward(disc) - rays).norm() < 0.03 * rays.norm()
    image = stored.adjoint(rays)
    assert (free.adjoint(rays) - image).norm() < 0.005 * image.norm()


def test_a_projector_beyond_memory_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip, "LARGEST_PAIR_BYTES", 2**20)
    image, angles = spots(128), np.arange(180) * np.pi / 180
    _projector.cache_clear()
    operator = XRayTransform(angles, 128, 181, 1.0, 1.0)
    _projector.cache_clear()
    assert isinstance(operator._projector, matrix_free.MatrixFreeProjector)
    found = back(operator, line_integrals(operator, image))
    assert np.linalg.norm(found - image) < 0.05 * np.linalg.norm(image)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_norm_of_a_large_scan_is_that_of_a_coarse_one(monkeypatch: pytest.MonkeyPatch, *, weighted: bool) -> None:
    monkeypatch.setattr("udig_recon.core.operators.ct.NORM_SIZE", 24)
    geometry = strip.Geometry(tuple(np.arange(99) * np.pi / 99), 96, 170, 1.0, 0.6, 80.3)
    pair = matrix_free.MatrixFreeProjector(geometry, torch.device("cpu"))
    kept = torch.linspace(0.1, 2, 170).repeat(99) if weighted else torch.ones(())
    coarse = _norm_of(pair, geometry, True, kept)
    monkeypatch.setattr("udig_recon.core.operators.ct.NORM_SIZE", 96)
    assert coarse == pytest.approx(_norm_of(pair, geometry, True, kept), rel=5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_projects_as_the_cpu_does() -> None:
    angles, image = np.arange(45) * np.pi / 45, torch.from_numpy(spots(96))[None, None]
    cpu, gpu = (XRayTransform(angles, 96, 137, 0.7, 0.7, device) for device in ("cpu", "cuda"))
    there = gpu.forward(image.cuda()) / gpu.scale
    assert torch.allclose(there.cpu(), cpu.forward(image) / cpu.scale, atol=5e-3 * float(image.max()) * 96 * 0.7)


class PixelParallelBeam:
    """Takes torch-radon's arguments and works in its units: lengths in pixels, batches (B, views, detectors)."""

    def __init__(self, det_count: int, angles: torch.Tensor, det_spacing: float, volume: SimpleNamespace) -> None:
        self.shape = (-1, len(angles), det_count)
        size: int = volume.height
        self.pair = strip.StripProjector(
            strip.Geometry(tuple(angles.tolist()), size, det_count, 1.0, det_spacing), torch.device("cpu")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair.forward(x.flatten(1)).reshape(self.shape)

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        image = self.pair.adjoint(y.flatten(1))
        return image.reshape(len(y), *[round(image.shape[1] ** 0.5)] * 2)


class PixelVolume(SimpleNamespace):
    def set_size(self, height: int, width: int) -> None:
        self.height, self.width = height, width


@pytest.mark.parametrize("axis", [None, 15.0, 11.0, 22.5, 0.0, 30.0])
def test_torch_radon_is_given_our_geometry_in_its_units(axis: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    package, volumes = ModuleType("torch_radon"), ModuleType("torch_radon.volumes")
    monkeypatch.setattr(package, "ParallelBeam", PixelParallelBeam, raising=False)
    monkeypatch.setattr(volumes, "Volume2D", PixelVolume, raising=False)
    monkeypatch.setitem(sys.modules, "torch_radon", package)
    monkeypatch.setitem(sys.modules, "torch_radon.volumes", volumes)
    monkeypatch.delitem(sys.modules, "udig_recon.core.operators.radon_cuda", raising=False)
    backend = importlib.import_module("udig_recon.core.operators.radon_cuda").TorchRadonProjector
    monkeypatch.delitem(sys.modules, "udig_recon.core.operators.radon_cuda")
    geometry = strip.Geometry((0.0, 0.7, 2.0), 24, 31, 0.8, 1.3, axis)
    theirs, ours = backend(geometry, torch.device("cpu")), strip.StripProjector(geometry, torch.device("cpu"))
    x, y = torch.rand(2, 24 * 24), torch.rand(2, 3 * 31)
    assert torch.allclose(theirs.forward(x), ours.forward(x), rtol=1e-4, atol=1e-5)
    assert torch.allclose(theirs.adjoint(y), ours.adjoint(y), rtol=1e-4, atol=1e-5)


def test_fans_and_an_axis_between_detectors_and_their_halves_take_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch-radon's detectors lie evenly about the axis, and so cannot be further ones beside ours."""
    monkeypatch.setattr("udig_recon.core.operators.radon_auto.find_spec", lambda name: name)
    monkeypatch.setattr("udig_recon.core.operators.radon_auto.StripProjector", lambda geometry, device: geometry)
    for geometry in (
        strip.Geometry((0.0,), 4, 5, 1.0, 1.0, 2.3),
        strip.Geometry((0.0,), 4, 5, 1.0, 1.0, None, "fan_flat", 9.0, 12.0),
    ):
        assert projector(geometry, torch.device("cuda")) is geometry


def test_a_cpu_takes_the_strips() -> None:
    geometry = strip.Geometry((0.0,), 4, 5, 1.0, 1.0)
    assert isinstance(projector(geometry, torch.device("cpu")), strip.StripProjector)
