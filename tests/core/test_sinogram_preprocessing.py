"""The axis of rotation is found, told, and used where it was asked for; rings likewise, and true circles stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.core.test_sinograms import DETECTORS, ELLIPSES, HALF_TURN, VIEWS, scan, sinogram, truth
from tests.support import scans
from udig_recon.core import metrics
from udig_recon.core.acquisition import BeamGeometry, CTAcquisition
from udig_recon.core.formats import probe, read
from udig_recon.core.operators import XRayTransform
from udig_recon.core.preprocessing.options import Preprocessing
from udig_recon.core.preprocessing.rings import correct_rings, ring_profile, ring_warning
from udig_recon.core.preprocessing.rotation import find_axis
from udig_recon.core.preprocessing.sinograms import preprocess_sinogram
from udig_recon.core.problem import slice_problem
from udig_recon.core.scan_geometry import Geometry

MIDDLE = (DETECTORS - 1) / 2
TURN = np.arange(2 * VIEWS) * np.pi / VIEWS
CPU = torch.device("cpu")
AUTO = Preprocessing(rotation_center="auto")


def geometry(angles: NDArray[np.float64], detectors: int = DETECTORS) -> Geometry:
    return Geometry(tuple(angles), 56, detectors, 1.0, 1.0)


def fbp(acquisition: CTAcquisition, preprocessing: Preprocessing) -> NDArray[np.float32]:
    problem = slice_problem(acquisition, 0, CPU, preprocessing=preprocessing)
    return problem.magnitude(problem.direct())


def acquisition(path: Path, *slices: int) -> CTAcquisition:
    found = read(path, slices or None)
    assert isinstance(found, CTAcquisition)
    return found


@pytest.mark.parametrize("offset", [3.3, -5.0, 0.5, 0.0])
@pytest.mark.parametrize("angles", [HALF_TURN, TURN], ids=["half turn", "turn"])
def test_the_axis_is_found_by_centres_of_mass(offset: float, angles: NDArray[np.float64]) -> None:
    found = find_axis(sinogram(angles, offset=offset, noise=0.005), angles, None, geometry(angles))
    assert found.center == pytest.approx(MIDDLE + offset, abs=0.05)
    assert found.deviation < 0.02


@pytest.mark.parametrize("offset", [3.3, -2.25, 0.0])
def test_of_objects_beyond_the_detector_opposite_views_tell_the_axis(offset: float) -> None:
    found = find_axis(sinogram(TURN, 40, offset, noise=0.005), TURN, None, geometry(TURN, 40))
    assert found.how == "opposite rays"
    assert found.center == pytest.approx(19.5 + offset, abs=0.05)


def test_of_objects_beyond_the_detector_half_a_turn_tells_no_axis() -> None:
    found = find_axis(sinogram(HALF_TURN, 36, 3.3), HALF_TURN, None, geometry(HALF_TURN, 36))
    assert found.center is None
    assert "reaches beyond the detector" in found.how


@pytest.mark.parametrize("offset", [3.3, -2.25])
@pytest.mark.parametrize("beam", ["fan_flat", "fan_curved"])
def test_opposite_rays_of_fans_tell_the_axis(offset: float, beam: BeamGeometry) -> None:
    how = {"beam": beam, "source_origin_mm": 150.0, "source_detector_mm": 250.0}
    operator = XRayTransform(TURN, 56, 128, 1.0, 1.0, rotation_center=63.5 + offset, **how)  # type: ignore[arg-type]
    image = torch.from_numpy(truth((2.0, -1.0)))[None, None]
    rays = (operator.forward(image) / operator.scale)[0, 0].numpy()
    found = find_axis(rays, TURN, None, operator.geometry._replace(rotation_center=None))
    assert found.center == pytest.approx(63.5 + offset, abs=0.05)
    short = np.arange(40) * np.pi / 60
    assert find_axis(rays[:40], short, None, operator.geometry._replace(angles=tuple(short))).center is None


def test_missing_rays_do_not_move_the_axis() -> None:
    measured = np.ones((VIEWS, DETECTORS), bool)
    measured[:, 30], measured[7] = False, False
    rays = np.where(measured, sinogram(offset=3.3), 0).astype(np.float32)
    found = find_axis(rays, HALF_TURN, measured, geometry(HALF_TURN))
    assert found.center == pytest.approx(MIDDLE + 3.3, abs=0.05)


def test_nothing_tells_no_axis() -> None:
    assert find_axis(np.zeros((VIEWS, DETECTORS), np.float32), HALF_TURN, None, geometry(HALF_TURN)).center is None


def test_an_axis_elsewhere_is_told_and_used_when_a_job_asks_for_it(tmp_path: Path) -> None:
    path = scans.write_npz(tmp_path / "scan", **scan(sinogram=sinogram(offset=3.3)))
    told = "\n".join(probe(path).warnings)
    assert "the axis of rotation falls on detector 42.8" in told
    assert "not on 39.5 as is assumed" in told
    found = acquisition(path)
    assert found.rotation_center is None
    assert found.found_rotation_center == pytest.approx(42.8, abs=0.05)
    assert metrics.psnr(fbp(found, Preprocessing()), truth()) < 25 < metrics.psnr(fbp(found, AUTO), truth())
    right = acquisition(scans.write_npz(tmp_path / "scan", **scan(sinogram=sinogram(offset=3.3), rotation_center=42.8)))
    assert metrics.psnr(fbp(found, AUTO), truth()) > metrics.psnr(fbp(right, Preprocessing()), truth()) - 0.3


def test_a_file_may_ask_for_the_axis(tmp_path: Path) -> None:
    stack = np.stack([sinogram(offset=3.3), sinogram(offset=3.3, noise=0.01)])
    path = scans.write_npz(tmp_path / "scan", **scan(sinogram=stack, rotation_center="Auto"))
    header = probe(path)
    assert header.rotation_center == pytest.approx(42.8, abs=0.05)
    assert header.corrections == (f"rotation_center {header.rotation_center:.2f} was found by {MASS}",)
    assert header.warnings == ()
    assert {acquisition(path, index).rotation_center for index in (0, 1)} == {header.rotation_center}


MASS = "the centres of mass of the views"


def test_where_none_is_found_the_file_is_trusted_and_that_is_told(tmp_path: Path) -> None:
    parts = scan(sinogram=sinogram(HALF_TURN, 36, 3.3), image_size=36, rotation_center="auto")
    path = scans.write_npz(tmp_path / "scan", **parts)
    assert any("auto finds no axis, as the object reaches beyond the detector" in each for each in probe(path).warnings)
    assert acquisition(path).rotation_center is None
    given = preprocess_sinogram(acquisition(path), 0, AUTO)
    assert given.rotation_center is None


def test_an_axis_where_the_file_says_is_not_told(tmp_path: Path) -> None:
    path = scans.write_npz(tmp_path / "scan", **scan(sinogram=sinogram(offset=3.3), rotation_center=42.8))
    assert probe(path).warnings == ()


GAINS = np.random.default_rng(1).normal(scale=0.03, size=DETECTORS).astype(np.float32)


def test_rings_are_told_and_corrected_when_a_job_asks_for_it(tmp_path: Path) -> None:
    path = scans.write_npz(tmp_path / "scan", **scan(sinogram=sinogram() + GAINS))
    assert any("which makes rings: ring_correction" in each for each in probe(path).warnings)
    found = acquisition(path)
    before, after = fbp(found, Preprocessing()), fbp(found, Preprocessing(ring_correction=True))
    assert metrics.psnr(after, truth()) > metrics.psnr(before, truth()) + 3
    assert np.array_equal(found.sinogram, acquisition(path).sinogram)


@pytest.mark.parametrize("detector", [12, 30, 55])
def test_one_detector_that_drifted_is_corrected(detector: int) -> None:
    rays = sinogram()
    rays[:, detector] += 0.05
    left = correct_rings(rays, None, MIDDLE) - sinogram()
    assert np.abs(left.mean(axis=0)).max() < 0.03
    assert ring_profile(rays, None, MIDDLE)[detector] > 0.02


def test_without_rings_next_to_nothing_changes() -> None:
    assert ring_warning(sinogram(), None, MIDDLE) is None
    assert np.abs(correct_rings(sinogram(), None, MIDDLE) - sinogram()).max() < 0.005


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_circles_about_the_axis_stay(offset: float) -> None:
    """A tube: its walls differ from their neighbours in every view, at mirrored detectors."""
    tube = (*ELLIPSES[:1], (0.0, 0.0, 12.0, 12.0, 0.0, 0.1), (0.0, 0.0, 11.0, 11.0, 0.0, -0.1))
    rays = sinogram(offset=offset, ellipses=tube)
    changed = correct_rings(rays, None, MIDDLE + offset) - rays
    wall = sinogram(offset=offset, ellipses=tube[1:], noise=0).max()
    assert np.abs(changed).max() < 0.1 * wall


def test_missing_rays_are_no_rings() -> None:
    measured = np.ones((VIEWS, DETECTORS), bool)
    measured[:, 30] = False
    rays = np.where(measured, sinogram(), 0).astype(np.float32)
    assert ring_warning(rays, measured, MIDDLE) is None
    assert np.array_equal(correct_rings(rays, measured, MIDDLE)[:, 30], rays[:, 30])
