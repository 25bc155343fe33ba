"""Scans along a trajectory in .npz and HDF5: units, axes and names as they are found, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core import metrics
from udig_recon.core.acquisition import NonCartesianAcquisition
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.kspace import many_coils
from udig_recon.core.problem import slice_problem
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian, spiral_interleaves

SIZE = 32
SPOKES = radial_spokes((SIZE, SIZE), 40)
SPIRALS = spiral_interleaves((SIZE, SIZE), 5)
Arrays = dict[str, Any]


def scan_along(trajectory: np.ndarray, slices: int = 2, coils: int = 4) -> Arrays:
    """Arrays of a file whose trajectory is (kx, ky) in cycles per field of view, and its truth."""
    image = scans.phantom(slices, SIZE).astype(np.complex64)
    maps = birdcage_maps(coils, (SIZE, SIZE))
    scan = simulate_non_cartesian(image, maps, trajectory, np.random.default_rng(0), noise_level=1e-3)
    return {"kspace": scan.kspace, "trajectory": trajectory[..., ::-1].copy(), "reference": scan.reference}


RADIAL, SPIRAL = scan_along(SPOKES), scan_along(SPIRALS)
WRITERS = {"npz": scans.write_npz, "hdf5": scans.write_hdf5}
every_container = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def written(path: Path, arrays: Arrays, **more: Any) -> Path:
    return scans.write_npz(path / "scan.npz", **{**arrays, **more})


def quality(path: Path, index: int = 0) -> float:
    """PSNR of the direct image of a slice, dB."""
    scan = read(path, [index])
    problem = slice_problem(scan, 0, torch.device("cpu"))
    truth = scans.phantom(2, SIZE)[index]
    return metrics.psnr(problem.direct_image, truth)


@every_container
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_a_scan_comes_back_as_the_phantom(write: Callable[..., Path], kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "scan", **(RADIAL if kind == "radial" else SPIRAL), image_size=SIZE)
    header = probe(path)
    assert (header.trajectory, header.coils, header.slices, header.matrix) == (kind, 4, 2, (SIZE, SIZE))
    assert header.acceleration == pytest.approx(1.3, abs=0.3)
    assert min(quality(path, index) for index in (0, 1)) > 25


LAYOUTS: dict[str, Callable[[Arrays], Arrays]] = {
    "components first": lambda a: {**a, "trajectory": np.moveaxis(a["trajectory"], -1, 0)},
    "complex": lambda a: {**a, "trajectory": a["trajectory"][..., 0] + 1j * a["trajectory"][..., 1]},
    "a third component of zeros": lambda a: {
        **a,
        "trajectory": np.concatenate((a["trajectory"], 0 * a["trajectory"][..., :1]), axis=-1),
    },
    "samples first, in both": lambda a: {
        **a,
        "kspace": a["kspace"].swapaxes(-1, -2),
        "trajectory": a["trajectory"].swapaxes(0, 1),
    },
    "samples first, in the trajectory": lambda a: {**a, "trajectory": a["trajectory"].swapaxes(0, 1)},
    "one for each slice": lambda a: {**a, "trajectory": np.stack([a["trajectory"]] * 2)},
    "as one readout": lambda a: {
        **a,
        "kspace": a["kspace"].reshape(2, 4, -1),
        "trajectory": a["trajectory"].reshape(-1, 2),
        "image_size": SIZE,
    },
    "cycles per pixel": lambda a: {**a, "trajectory": a["trajectory"] / SIZE},
    "radians per pixel": lambda a: {**a, "trajectory": 2 * np.pi * a["trajectory"] / SIZE},
    "another name": lambda a: {"ktraj" if name == "trajectory" else name: array for name, array in a.items()},
    "real and imaginary parts": lambda a: {**a, "kspace": np.stack((a["kspace"].real, a["kspace"].imag), axis=-1)},
    "with its density": lambda a: {**a, "density": np.ones(a["trajectory"].shape[:2])},
    "without a reference": lambda a: {name: array for name, array in a.items() if name != "reference"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_axes_units_and_names_are_told_from_what_is_there(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, LAYOUTS[name](RADIAL))
    assert probe(path).matrix == (SIZE, SIZE)
    scan = read(path, [1])
    assert isinstance(scan, NonCartesianAcquisition)
    assert np.allclose(scan.trajectory.reshape(-1, 2), SPOKES.reshape(-1, 2), atol=1e-4)
    assert quality(path, 1) > 25


def test_one_slice_and_one_coil_may_leave_their_axes_out(tmp_path: Path) -> None:
    arrays = scan_along(SPOKES, slices=1, coils=1)
    for kspace in (arrays["kspace"][0, 0], arrays["kspace"][0]):
        header = probe(written(tmp_path, {**arrays, "kspace": kspace}))
        assert (header.slices, header.coils) == (1, 1)


def test_the_unit_is_told_among_the_corrections(tmp_path: Path) -> None:
    pixel = {**RADIAL, "trajectory": RADIAL["trajectory"] / SIZE}
    assert any("cycles per pixel" in each for each in probe(written(tmp_path, pixel)).corrections)


def test_samples_that_are_zero_in_all_coils_are_missing(tmp_path: Path) -> None:
    kspace = RADIAL["kspace"].copy()
    kspace[:, :, ::2, :9] = 0
    path = written(tmp_path, RADIAL, kspace=kspace)
    assert any("taken for missing" in each for each in probe(path).warnings)
    scan = read(path, [0])
    assert isinstance(scan, NonCartesianAcquisition)
    assert scan.measured is not None
    assert not scan.measured[0, ::2, :9].any()
    assert quality(path) > 20


def test_many_coils_are_compressed_and_said(tmp_path: Path) -> None:
    path = written(tmp_path, scan_along(SPOKES, slices=2, coils=70))
    header = probe(path)
    assert header.coils == 64
    assert any("70 coils were compressed" in each for each in header.corrections)
    assert read(path, [0]).kspace.shape[1] == 64  # type: ignore[union-attr]


def test_many_coils_of_too_many_samples_are_refused_with_how_to_compress_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, scan_along(SPOKES, slices=1, coils=70))
    monkeypatch.setattr(many_coils, "_MOST_COMPRESSED_SAMPLES", 70 * 1000)
    with pytest.raises(UnsupportedScan, match="of more than 64 coils; compress them first"):
        probe(path)


def test_a_matrix_that_nothing_tells_is_half_of_the_spokes_samples(tmp_path: Path) -> None:
    arrays = {"kspace": RADIAL["kspace"], "trajectory": RADIAL["trajectory"] / SIZE}
    header = probe(written(tmp_path, arrays))
    assert header.matrix == (SIZE, SIZE)
    assert any("oversampled twice" in each for each in header.warnings)


NAN = RADIAL["trajectory"].copy()
NAN[3, 4, 0] = np.nan
KSPACE_NAN = RADIAL["kspace"].copy()
KSPACE_NAN[1, 2, 3, 4] = np.nan
DEEP = np.concatenate((RADIAL["trajectory"], np.ones((*SPOKES.shape[:2], 1)) * np.arange(40)[:, None, None]), axis=-1)
LIES: dict[str, tuple[Arrays, type[Exception], str]] = {
    "a trajectory in 1/m": ({"trajectory": 1000 * RADIAL["trajectory"], "image_size": SIZE}, UnreadableScan, "1/m"),
    "three dimensions": ({"trajectory": DEEP}, UnsupportedScan, "stack of stars"),
    "fewer readouts": ({"trajectory": RADIAL["trajectory"][:-1]}, UnreadableScan, "39 x 64 samples"),
    "no components": ({"trajectory": RADIAL["trajectory"][..., 0]}, UnreadableScan, "readouts, samples, 2"),
    "five components": ({"trajectory": np.ones((40, 64, 5))}, UnreadableScan, "readouts, samples, 2"),
    "text": ({"trajectory": np.array([b"radial"])}, UnreadableScan, "trajectory"),
    "trajectories of other slices": (
        {"trajectory": np.stack([RADIAL["trajectory"]] * 3)},
        UnreadableScan,
        "3 trajectories beside 2 slices",
    ),
    "NaN in the trajectory": ({"trajectory": NAN}, UnreadableScan, "finite"),
    "NaN in k-space": ({"kspace": KSPACE_NAN}, UnreadableScan, "slice 1, coil 2, readout 3, sample 4"),
    "zeros for a trajectory": ({"trajectory": 0 * RADIAL["trajectory"]}, UnreadableScan, "nothing but zeros"),
    "zeros for k-space": ({"kspace": 0 * RADIAL["kspace"]}, UnreadableScan, "nothing but zeros"),
    "real k-space": ({"kspace": RADIAL["kspace"].real.copy()}, UnreadableScan, "complex64"),
    "maps of another size": (
        {"sensitivity_maps": np.ones((2, 4, 8, 8), np.complex64), "image_size": SIZE},
        UnreadableScan,
        "sensitivity_maps",
    ),
    "half a pixel": ({"image_size": 32.5}, UnreadableScan, "whole number"),
    "an image of a million": ({"image_size": 10**6}, UnsupportedScan, "1000000"),
    "300 coils": ({"kspace": np.ones((2, 300, 40, 64), np.complex64)}, UnsupportedScan, "300 coils"),
    "too sparse for maps": (
        {"trajectory": RADIAL["trajectory"][:4], "kspace": RADIAL["kspace"][:, :, :4]},
        UnsupportedScan,
        "send sensitivity_maps",
    ),
    "a spiral without a size": (
        {"kspace": SPIRAL["kspace"], "trajectory": SPIRAL["trajectory"] / SIZE, "reference": None},
        UnreadableScan,
        "image_size",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_what_cannot_be_is_refused_with_what_would_do(name: str, tmp_path: Path) -> None:
    changed, error, words = LIES[name]
    arrays = {key: value for key, value in {**RADIAL, **changed}.items() if value is not None}
    with pytest.raises(error, match=words):
        probe(written(tmp_path, arrays))


def test_a_radial_header_without_a_trajectory_says_what_to_send(tmp_path: Path) -> None:
    header = "<h><encoding><trajectory>radial</trajectory></encoding></h>"
    path = scans.write_hdf5(tmp_path / "scan.h5", kspace=RADIAL["kspace"], ismrmrd_header=header)
    with pytest.raises(UnsupportedScan, match="beside kspace, as trajectory"):
        probe(path)
