"""Previews of scans look as the engine's direct images, and are made of prepared scans in the sandbox."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.core.test_prepared import prepared
from tests.support import scans
from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.formats import Prober, read
from udig_recon.core.formats.prepared import FOOTER, MAGIC, open_prepared
from udig_recon.core.formats.sandbox.client import NoPreview
from udig_recon.core.preview import MOST_PIXELS, MOST_VIEWS, preview_image
from udig_recon.core.problem import slice_problem
from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian, spiral_interleaves

SIZE = 64
FULL = np.arange(180) * 2 * np.pi / 180
FAN: dict[str, Any] = {"geometry": "fan_flat", "source_origin_mm": 125.0, "source_detector_mm": 250.0}
CURVED = {**FAN, "geometry": "fan_curved"}


def likeness(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("name", scans.GOOD)
def test_a_preview_looks_as_the_direct_image_of_the_engine(name: str, tmp_path: Path) -> None:
    scan = read(scans.GOOD[name](tmp_path / "scan"), [0])
    direct = slice_problem(scan, 0, torch.device("cpu")).direct_image
    found = preview_image(scan)
    assert (found.shape, found.dtype) == (direct.shape, np.float32)
    assert likeness(found, direct) > 0.95


@pytest.mark.parametrize("points", [radial_spokes((32, 31), 40), spiral_interleaves((32, 31), 5)])
def test_a_preview_along_a_trajectory_looks_as_the_object(points: NDArray[np.float64]) -> None:
    image = np.ascontiguousarray(scans.phantom(1, 32)[..., :31])
    scan = simulate_non_cartesian(
        image.astype(np.complex64), birdcage_maps(4, (32, 31)), points, np.random.default_rng(0)
    )
    found = preview_image(scan)
    direct = slice_problem(scan, 0, torch.device("cpu")).direct_image
    assert likeness(found, image[0]) > 0.9
    # No shift: the middle of both images is the same pixel.
    assert likeness(found, direct) > max(
        likeness(np.roll(found, step, axis), direct) for step in (1, -1) for axis in (0, 1)
    )


SCANS: dict[str, tuple[NDArray[np.float64], int, float, dict[str, Any]]] = {
    "parallel": (FULL[:90], 96, 1.0, {}),
    "parallel, axis off the middle": (FULL[:90], 120, 1.0, {"rotation_center": 52.25}),
    "parallel, half fan": (FULL, 48, 1.0, {"rotation_center": 10.0}),
    "flat": (FULL, 140, 1.0, FAN),
    "curved": (FULL, 140, 1.0, CURVED),
    "short scan": (np.deg2rad(np.arange(0, 212, 1.0)), 140, 1.0, FAN),
    "half fan": (FULL, 84, 1.0, {**FAN, "rotation_center": 14.0}),
    "narrow detectors and many views": (np.arange(900) * np.pi / 900, 384, 0.25, {}),
}


@pytest.mark.parametrize(("angles", "detectors", "spacing", "more"), SCANS.values(), ids=SCANS)
def test_a_preview_of_ct_is_the_attenuation(
    angles: NDArray[np.float64], detectors: int, spacing: float, more: dict[str, Any]
) -> None:
    beam = more.get("geometry", "parallel")
    far = {name: value for name, value in more.items() if name != "geometry"}
    rays = ellipse_rays(Geometry(tuple(angles), SIZE, detectors, 1.0, spacing, beam=beam, **far))
    scan = CTAcquisition(
        sinogram=rays.reshape(1, len(angles), detectors),
        angles=angles,
        image_size=SIZE,
        pixel_size_mm=1.0,
        detector_spacing_mm=spacing,
        **more,
    )
    found, image = preview_image(scan), ellipse_image(SIZE)
    inside = np.hypot(*(np.indices(image.shape) - (SIZE - 1) / 2)) < 0.45 * SIZE
    assert np.median(found[inside & (image == np.float32(0.02))]) == pytest.approx(0.02, rel=0.03)
    assert likeness(found[inside], image[inside]) > 0.95


def test_a_large_ct_scan_is_previewed_on_a_coarse_grid_of_the_same_field() -> None:
    angles = np.arange(2 * MOST_VIEWS) * np.pi / (2 * MOST_VIEWS)
    rays = ellipse_rays(Geometry(tuple(angles), SIZE, 96, 1.0, 1.0)).reshape(1, len(angles), 96)
    fine = CTAcquisition(
        sinogram=np.repeat(rays, 16, axis=2), angles=angles, image_size=16 * SIZE, pixel_size_mm=1 / 16,
        detector_spacing_mm=1 / 16,
    )  # fmt: skip
    found = preview_image(fine)
    assert found.shape == (MOST_PIXELS, MOST_PIXELS)
    assert likeness(found.reshape(SIZE, 4, SIZE, 4).mean(axis=(1, 3)), ellipse_image(SIZE)) > 0.95


def test_a_ct_preview_takes_measured_views_wherever_they_are() -> None:
    angles = np.arange(2 * MOST_VIEWS) * np.pi / (2 * MOST_VIEWS)
    measured = np.zeros((len(angles), 96), bool)
    measured[1::2] = True  # none of every second view from the first on
    rays = ellipse_rays(Geometry(tuple(angles), SIZE, 96, 1.0, 1.0)).reshape(1, len(angles), 96) * measured
    told: dict[str, Any] = {"angles": angles, "image_size": SIZE, "pixel_size_mm": 1.0, "detector_spacing_mm": 1.0}
    scan = CTAcquisition(sinogram=rays.astype(np.float32), measured=measured, **told)
    assert likeness(preview_image(scan), ellipse_image(SIZE)) > 0.95
    nothing = CTAcquisition(sinogram=scan.sinogram, measured=np.zeros_like(measured), **told)
    assert not preview_image(nothing).any()
    assert preview_image(nothing).shape == (SIZE, SIZE)


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def previewed(prober: Prober, path: Path, index: int) -> NDArray[np.float32]:
    return prober.preview(path, path.with_name("picture"), index)


@pytest.mark.parametrize("name", ["fastmri", "sinogram"])
def test_the_sandbox_gives_the_same_preview(name: str, tmp_path: Path, prober: Prober) -> None:
    path = prepared(scans.GOOD[name](tmp_path / "scan"))
    with open_prepared(path) as scan:
        for index in (0, 1):
            assert np.array_equal(previewed(prober, path, index), preview_image(scan.read([index])))


def test_a_slice_without_a_preview_says_why(tmp_path: Path, prober: Prober) -> None:
    path = prepared(scans.GOOD["fastmri"](tmp_path / "scan"))
    with pytest.raises(NoPreview, match="cannot be read"):
        previewed(prober, path, 7)
    content = path.read_bytes()
    place, length, _, _ = FOOTER.unpack(content[-64:])
    header = json.loads(content[place : place + length])
    header["kind"] = "OtherAcquisition"

    told = json.dumps(header).encode()
    path.write_bytes(content[:place] + told + FOOTER.pack(place, len(told), hashlib.sha256(told).digest(), MAGIC))
    with pytest.raises(NoPreview, match="of this kind have none"):
        previewed(prober, path, 0)
    path.write_bytes(b"no prepared scan")
    with pytest.raises(NoPreview, match="cannot be read"):
        previewed(prober, path, 0)
