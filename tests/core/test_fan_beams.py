"""Fan beams: projection against analytic ellipses and ASTRA, filtered back-projection, and what files say of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import scans
from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core import metrics
from udig_recon.core.acquisition import CTAcquisition, Modality
from udig_recon.core.algorithms.sirt import sirt
from udig_recon.core.errors import ReconstructionError, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.inputs import Inputs
from udig_recon.core.operators import XRayTransform
from udig_recon.core.parameters import SIRT
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.rating import DATA_LIMITS
from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.selection.early_stopping import HoldoutValidation
from udig_recon.core.selection.holdout import validation_error, validation_part

SIZE = 64
TURN = 2 * np.pi
FULL = np.arange(180) * TURN / 180
FAN: dict[str, Any] = {"beam": "fan_flat", "source_origin_mm": 125.0, "source_detector_mm": 250.0}
CURVED = {**FAN, "beam": "fan_curved"}
CLOSE = {**FAN, "source_origin_mm": 62.0, "source_detector_mm": 100.0}
FILE = {"geometry": "fan_flat", "source_origin_mm": 125.0, "source_detector_mm": 250.0, "detector_spacing_mm": 1.5}


def fan(angles: NDArray[np.float64], detectors: int, spacing: float, **more: Any) -> XRayTransform:
    return XRayTransform(angles, SIZE, detectors, 1.0, spacing, **more)


def line_integrals(operator: XRayTransform, image: NDArray[np.float32]) -> NDArray[np.float32]:
    return (operator.forward(torch.from_numpy(image)[None, None]) / operator.scale)[0, 0].numpy()


def fbp(operator: XRayTransform, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
    return operator.direct(operator.measurements_of(torch.from_numpy(sinogram)[None, None]))[0, 0].numpy()


def error(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


@pytest.mark.parametrize(
    ("detectors", "spacing", "more", "most"),
    [
        (90, 2.0, FAN, 0.008),
        (180, 1.0, FAN, 0.011),
        (90, 2.0, {**FAN, "rotation_center": 40.25}, 0.008),
        (90, 2.0, CURVED, 0.008),
        (70, 2.0, {**CURVED, "rotation_center": 20.0}, 0.009),
        (150, 1.0, CLOSE, 0.012),
    ],
)
def test_rays_of_fans_are_those_of_analytic_ellipses(
    detectors: int, spacing: float, more: dict[str, Any], most: float
) -> None:
    operator = fan(FULL[::9], detectors, spacing, **more)
    assert error(line_integrals(operator, ellipse_image(SIZE)), ellipse_rays(operator.geometry)) < most


def test_a_fan_from_far_away_is_a_parallel_beam() -> None:
    far = {"source_origin_mm": 1e6, "source_detector_mm": 1e6}
    image = ellipse_image(SIZE)
    parallel = line_integrals(fan(FULL[::9], 95, 1.0), image)
    for beam in ("fan_flat", "fan_curved"):
        assert error(line_integrals(fan(FULL[::9], 95, 1.0, beam=beam, **far), image), parallel) < 1e-3


@pytest.mark.parametrize("beam", ["fan_flat", "fan_curved"])
def test_a_pixel_near_the_source_casts_its_shadow_on_all_detectors(beam: str) -> None:
    more = {"beam": beam, "source_origin_mm": 47.0, "source_detector_mm": 50.0}
    operator = fan(FULL[::20], 20, 0.2, **more)
    image = np.zeros((SIZE, SIZE), np.float32)
    image[-2:, SIZE // 2 - 1 : SIZE // 2 + 1] = 1
    rays = line_integrals(operator, image)
    assert rays[0].min() == pytest.approx(2, rel=0.05)
    assert rays[0].max() == pytest.approx(2, rel=0.05)


def astra_fan(geometry: Geometry, kernel: str) -> tuple[Any, int, int]:
    """ASTRA with its projector of a flat fan and the identifier of its detectors; skips where it is not installed."""
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    half = geometry.image_size * geometry.pixel_size_mm / 2
    volume = astra.create_vol_geom(geometry.image_size, geometry.image_size, -half, half, -half, half)
    beyond = geometry.source_detector_mm - geometry.source_origin_mm
    rays = astra.create_proj_geom(
        *("fanflat", geometry.detector_spacing_mm, geometry.detectors, np.asarray(geometry.angles)),
        *(geometry.source_origin_mm, beyond),
    )
    return astra, astra.create_projector(kernel, rays, volume), rays


def test_rays_of_a_flat_fan_are_those_of_astra() -> None:
    operator, image = fan(FULL[::9], 90, 2.0, **FAN), ellipse_image(SIZE)
    astra, projector, _ = astra_fan(operator.geometry, "strip_fanflat")
    _, theirs = astra.create_sino(image, projector)
    assert error(line_integrals(operator, image), theirs) < 0.004


def test_sirt_of_a_flat_fan_is_as_good_as_astras() -> None:
    operator, image = fan(FULL[::6], 90, 2.0, **FAN), ellipse_image(SIZE)
    rays = ellipse_rays(operator.geometry)
    astra, projector, geometry = astra_fan(operator.geometry, "strip_fanflat")
    settings = astra.astra_dict("SIRT")
    settings["ProjectorId"] = projector
    settings["ProjectionDataId"] = astra.data2d.create("-sino", geometry, rays)
    settings["ReconstructionDataId"] = astra.data2d.create("-vol", astra.projector.volume_geometry(projector))
    settings["option"] = {"MinConstraint": 0}
    algorithm = astra.algorithm.create(settings)
    astra.algorithm.run(algorithm, 60)
    theirs = astra.data2d.get(settings["ReconstructionDataId"])
    inputs = Inputs(operator.measurements_of(torch.from_numpy(rays)[None, None]), operator)
    *_, last = sirt(inputs, SIRT(iterations=60), torch.Generator())
    assert abs(metrics.psnr(last.image[0, 0].numpy(), image) - metrics.psnr(theirs, image)) < 0.2


SCANS = {
    "flat, full turn": (FULL, 140, 1.0, FAN),
    "curved, full turn": (FULL, 140, 1.0, CURVED),
    "curved, quarter offset": (FULL, 140, 1.0, {**CURVED, "rotation_center": 69.75}),
    "flat, narrow detectors": (FULL, 280, 0.5, FAN),
    "flat, source close": (FULL, 150, 1.0, CLOSE),
    "flat, short scan": (np.deg2rad(np.arange(0, 212, 1.0)), 140, 1.0, FAN),
    "curved, short scan of 240 degrees backwards": (np.deg2rad(np.arange(300, 60, -1.0)), 140, 1.0, CURVED),
    "flat, 320 degrees": (np.deg2rad(np.arange(30, 350, 1.0)), 140, 1.0, FAN),
    "flat, half fan": (FULL, 84, 1.0, {**FAN, "rotation_center": 14.0}),
    "curved, half fan to the other side": (FULL, 84, 1.0, {**CURVED, "rotation_center": 69.0}),
    "parallel, axis beside the middle": (FULL, 48, 1.0, {"rotation_center": 10.0}),
}


@pytest.mark.parametrize(("angles", "detectors", "spacing", "more"), SCANS.values(), ids=SCANS)
def test_fbp_of_a_fan_is_the_attenuation(
    angles: NDArray[np.float64], detectors: int, spacing: float, more: dict[str, Any]
) -> None:
    operator, image = fan(angles, detectors, spacing, **more), ellipse_image(SIZE)
    found = fbp(operator, ellipse_rays(operator.geometry))
    inside = np.hypot(*(np.indices(image.shape) - (SIZE - 1) / 2)) < 0.45 * SIZE
    assert error(found[inside], image[inside]) < 0.1
    flat = inside & (image == np.float32(0.02))
    assert np.median(found[flat]) == pytest.approx(0.02, rel=0.004)
    assert np.abs(found[flat] - 0.02).mean() < 0.0008


def scan_file(path: Path, **parts: Any) -> Path:
    geometry = Geometry(tuple(FULL[::6]), SIZE, 100, 1.0, 1.5, None, "fan_flat", 125.0, 250.0)
    given = {"sinogram": ellipse_rays(geometry), "angles": FULL[::6], "image_size": SIZE, "pixel_size_mm": 1.0}
    return scans.write_hdf5(path, **without_none({**given, **FILE, **parts}))


def without_none(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part is not None}


@pytest.mark.parametrize(
    ("parts", "geometry"),
    [
        ({}, "fan_flat"),
        ({"geometry": "fan_curved"}, "fan_curved"),
        ({"geometry": "fanflat"}, "fan_flat"),
        ({"geometry": "Fan-beam, flat detector"}, "fan_flat"),
        ({"geometry": "fan beam (equiangular)"}, "fan_curved"),
        ({"geometry": "equidistant"}, "fan_flat"),
        ({"geometry": "fan", "detector_shape": "curved"}, "fan_curved"),
        ({"source_origin_mm": None, "SOD": 125.0}, "fan_flat"),
        ({"source_origin_mm": None, "DSO": 125.0, "source_detector_mm": None, "DSD": 250}, "fan_flat"),
        ({"source_detector_mm": None, "distance_origin_detector": 125.0}, "fan_flat"),
        ({"source_origin_mm": None, "origin_detector_mm": 125.0}, "fan_flat"),
    ],
)
@pytest.mark.parametrize("write", [scans.write_hdf5, scans.write_npz], ids=["hdf5", "npz"])
def test_a_file_says_what_fan_it_is(parts: dict[str, Any], geometry: str, write: Any, tmp_path: Path) -> None:
    given = {"sinogram": np.ones((30, 100), np.float32), "angles": FULL[::6], "image_size": SIZE, "pixel_size_mm": 1.0}
    path = write(tmp_path / "scan", **without_none({**given, **FILE, **parts}))
    scan, header = read(path), probe(path)
    assert isinstance(scan, CTAcquisition)
    assert (scan.geometry, scan.source_origin_mm, scan.source_detector_mm) == (geometry, 125.0, 250.0)
    assert (header.geometry, header.source_origin_mm, header.source_detector_mm) == (geometry, 125.0, 250.0)
    renamed = [name for name in parts if name in ("SOD", "DSO", "DSD", "distance_origin_detector")]
    assert all(any(warning.startswith(f"{name} is read as") for warning in header.warnings) for name in renamed)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"geometry": "fan"}, "flat (fan_flat) is assumed"),
        ({"geometry": None}, "a fan to a flat detector (fan_flat) is assumed"),
        ({"geometry": "parallel"}, "source_origin_mm, source_detector_mm: not used"),
        ({"image_size": None}, "72 pixels are assumed"),
        ({"pixel_size_mm": None}, "0.75 mm is assumed"),
        ({"detector_spacing_mm": None}, "detector_spacing_mm: 2 mm is assumed"),
    ],
)
def test_what_a_file_leaves_open_of_a_fan_is_assumed_and_said(parts: dict[str, Any], told: str, tmp_path: Path) -> None:
    assert told in "\n".join(probe(scan_file(tmp_path / "scan.h5", **parts)).warnings)


LIES = {
    "no distance of the source": ({"source_origin_mm": None}, "source_origin_mm: found none"),
    "no distance of the detector": ({"source_detector_mm": None}, "source_detector_mm: found none"),
    "a negative distance": ({"source_origin_mm": -125.0}, "source_origin_mm: .* a length in millimetres"),
    "a distance as text": ({"source_detector_mm": "250 mm"}, "source_detector_mm: .* as a number"),
    "NaN": ({"source_origin_mm": np.nan}, "source_origin_mm"),
    "infinity": ({"source_origin_mm": np.inf}, "source_origin_mm"),
    "metres of another star": ({"source_detector_mm": 1e9}, "source_detector_mm"),
    "the source within the image": ({"source_origin_mm": 40.0}, "outside the image's circle"),
    "the source in its corner": ({"source_origin_mm": 45.5}, "outside the image's circle"),
    "the detector before the axis": ({"source_detector_mm": 100.0}, "less than source_origin_mm 125"),
    "distances that do not add up": ({"origin_detector_mm": 100.0}, "their sum, 225"),
    "the axis beyond the detector": (
        {"source_origin_mm": None, "origin_detector_mm": 300.0},
        "source_detector_mm less origin_detector_mm",
    ),
    "a fan of more than half a turn": (
        {"geometry": "fan_curved", "detector_spacing_mm": 10.0},
        "less than 90 degrees",
    ),
    "pixels unlike detectors": ({"pixel_size_mm": 200.0}, "at the axis"),
    "a cone": ({"geometry": "cone beam"}, "whose rays are a fan"),
    "cone of ASTRA": ({"geometry": "cone_vec"}, "whose rays are a fan"),
    "helical": ({"geometry": "helical"}, "single-slice rebinning"),
    "laminography": ({"geometry": "laminography"}, "planes of the slices"),
    "a fan of vectors": ({"geometry": "fanflat_vec"}, "fan_flat"),
    "nonsense": ({"geometry": "sideways"}, "parallel, fan_flat"),
    "a number": ({"geometry": 3.0}, "parallel, fan_flat"),
    "an axis beside the detector": ({"rotation_center": 100.0}, "rotation_center"),
    "more angles than views": ({"angles": FULL}, "angles"),
}


@pytest.mark.parametrize(("parts", "told"), LIES.values(), ids=LIES)
def test_a_fan_that_cannot_be_is_refused_with_what_would_be_right(
    parts: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ReconstructionError, match=told):
        probe(scan_file(tmp_path / "scan.h5", **parts))


@pytest.mark.parametrize("form", [scans.write_hdf5, scans.write_npz], ids=["hdf5", "npz"])
def test_a_file_of_fans_comes_out_as_its_truth(form: Any, tmp_path: Path) -> None:
    geometry = Geometry(tuple(FULL), SIZE, 100, 1.0, 1.5, None, "fan_flat", 125.0, 250.0)
    parts = {"sinogram": ellipse_rays(geometry), "angles": FULL, "image_size": SIZE, "pixel_size_mm": 1.0, **FILE}
    path = form(tmp_path / "scan", **parts)
    assert probe(path).warnings == ()
    problem = slice_problem(read(path), 0, torch.device("cpu"))
    assert metrics.psnr(problem.magnitude(problem.direct()), ellipse_image(SIZE)) > 27


REVERSED = ellipse_rays(Geometry(tuple(FULL), SIZE, 100, 1.0, 1.5, 50.5, "fan_flat", 125.0, 250.0))[:, ::-1]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"sinogram": REVERSED, "rotation_center": 48.5}, "in the other order of the detectors"),
        ({"angles": -FULL}, "in the other order of the detectors"),
        ({"angles": FULL[np.random.default_rng(0).permutation(180)]}, "check the source's distances"),
    ],
)
def test_views_of_a_whole_turn_tell_a_wrong_geometry(parts: dict[str, Any], told: str, tmp_path: Path) -> None:
    geometry = Geometry(tuple(FULL), SIZE, 100, 1.0, 1.5, None, "fan_flat", 125.0, 250.0)
    right = {"sinogram": ellipse_rays(geometry), "angles": FULL, "image_size": SIZE, "pixel_size_mm": 1.0, **FILE}
    (warning,) = probe(scans.write_hdf5(tmp_path / "scan.h5", **{**right, **parts})).warnings
    assert told in warning


def signals(operator: XRayTransform, noise: float = 0.004, seed: int = 0, **moved: Any) -> dict[str, float]:
    rays = ellipse_rays(operator.geometry._replace(**moved))
    rays = rays + np.random.default_rng(seed).normal(scale=noise, size=rays.shape).astype(np.float32)
    return operator.coverage(operator.measurements_of(torch.from_numpy(rays)[None, None]))


@pytest.mark.parametrize(
    ("angles", "detectors", "more"),
    [
        (FULL, 140, FAN),
        (FULL, 140, {**CURVED, "rotation_center": 69.75}),
        (FULL, 84, {**FAN, "rotation_center": 14.0}),
        (FULL[::6], 140, FAN),
        (np.arange(17) * TURN / 17, 140, CURVED),
        (np.deg2rad(np.arange(0, 222, 1.0)), 140, FAN),
        (np.deg2rad(np.arange(0, 222, 7.0)), 140, FAN),
    ],
    ids=["whole turn", "quarter offset", "half fan", "30 views", "17 views", "short scan", "short scan of few views"],
)
def test_a_complete_fan_scan_raises_no_alarm(angles: NDArray[np.float64], detectors: int, more: dict[str, Any]) -> None:
    found = signals(fan(angles, detectors, 1.0, **more))
    assert {name for name, value in found.items() if abs(value) >= DATA_LIMITS[Modality.CT][name].check} == set()


@pytest.mark.parametrize(
    ("angles", "detectors", "moved", "alarm"),
    [
        (np.deg2rad(np.arange(0, 120, 1.0)), 140, {}, "angular_gap"),
        (np.deg2rad(np.arange(0, 180, 1.0)), 140, {"x": 0}, "angular_gap"),
        (FULL, 84, {}, "truncation"),
        (FULL, 140, {"rotation_center": 70.5}, "axis_offset"),
        (np.deg2rad(np.arange(0, 222, 1.0)), 140, {"rotation_center": 68.5}, "axis_offset"),
    ],
)
def test_what_a_fan_scan_lacks_raises_its_alarm(
    angles: NDArray[np.float64], detectors: int, moved: dict[str, Any], alarm: str
) -> None:
    close = {**FAN, "source_origin_mm": 90.0, "source_detector_mm": 180.0} if moved.pop("x", None) == 0 else FAN
    found = signals(fan(angles, detectors, 1.0, **close), **moved)
    assert abs(found[alarm]) >= DATA_LIMITS[Modality.CT][alarm].check
    if alarm == "axis_offset":
        assert found[alarm] == pytest.approx(moved["rotation_center"] - 69.5, abs=0.1)


def test_weights_change_neither_the_direct_image_nor_what_quality_sees() -> None:
    angles = FULL[::3]
    plain = fan(angles, 140, 1.0, **FAN)
    rays = torch.from_numpy(ellipse_rays(plain.geometry))[None, None]
    rays = rays + 0.01 * torch.randn(rays.shape, generator=torch.Generator().manual_seed(0))
    weights = torch.exp(-rays[0, 0]).numpy()
    weighted = fan(angles, 140, 1.0, **FAN, weights=weights / weights.mean())
    y, y_plain = weighted.measurements_of(rays), plain.measurements_of(rays)
    assert not torch.allclose(y / y.norm(), y_plain / y_plain.norm(), atol=1e-3)
    assert torch.allclose(weighted.direct(y), plain.direct(y_plain), atol=1e-6)
    same, y_same = weighted.unweighted(y)
    assert torch.allclose(y_same, y_plain, rtol=1e-4)
    assert same.noise_level(y_same) == pytest.approx(plain.noise_level(y_plain), rel=1e-3)
    assert weighted.coverage(y) == pytest.approx(plain.coverage(y_plain), abs=1e-6)


def test_what_is_held_out_is_judged_without_weights() -> None:
    plain = fan(FULL[::6], 140, 1.0, **FAN)
    rays = torch.from_numpy(ellipse_rays(plain.geometry))[None, None]
    weights = torch.exp(-3 * rays[0, 0]).numpy()
    weighted = fan(FULL[::6], 140, 1.0, **FAN, weights=weights / weights.mean())
    image = 0.9 * torch.from_numpy(ellipse_image(SIZE))[None, None]
    train = (torch.arange(30) % 5 > 0)[:, None]
    scores = [
        HoldoutValidation(Inputs(model.measurements_of(rays), model), train).score(image) for model in (plain, weighted)
    ]
    assert scores[1].residual == pytest.approx(scores[0].residual, rel=1e-3)
    assert scores[1].discrepancy == pytest.approx(scores[0].discrepancy, rel=1e-2)
    errors = [
        float(validation_error(model, model.measurements_of(rays), train, image))
        / float(validation_part(model, model.measurements_of(rays), train).square().mean())
        for model in (plain, weighted)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


def test_whitened_noise_is_as_large_as_the_level_says() -> None:
    plain = fan(FULL, 140, 1.0, **FAN)
    rays = torch.from_numpy(ellipse_rays(plain.geometry))[None, None]
    deviation = 0.02 * torch.exp(rays / 2)
    noise = deviation * torch.randn(rays.shape, generator=torch.Generator().manual_seed(0))
    weights = (1 / deviation.square())[0, 0].numpy()
    weighted = fan(FULL, 140, 1.0, **FAN, weights=weights / weights.mean())
    whitened = weighted.measurements_of(noise)
    assert weighted.noise_level(weighted.measurements_of(rays + noise)) == pytest.approx(float(whitened.std()), rel=0.1)
    assert float(whitened[..., :20].std()) == pytest.approx(float(whitened[..., 60:80].std()), rel=0.1)


def test_the_operator_refuses_a_source_within_the_image() -> None:
    with pytest.raises(UnsupportedScan, match="outside the image's circle"):
        fan(FULL, 90, 1.0, **{**FAN, "source_origin_mm": 40.0})
    with pytest.raises(UnsupportedScan, match="source_origin_mm"):
        fan(FULL, 90, 1.0, beam="fan_flat")
