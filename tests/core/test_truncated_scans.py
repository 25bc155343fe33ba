"""CT scans of objects wider than the field: iterative methods put what lies outside there, and quality sees the cut."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import scans
from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core.acquisition import CTAcquisition, Modality
from udig_recon.core.cost.estimate import Size
from udig_recon.core.formats import probe
from udig_recon.core.inputs import Inputs
from udig_recon.core.operators import XRayTransform, radon
from udig_recon.core.operators.ct import _projector
from udig_recon.core.operators.truncated import NOTHING_ADDED, continue_truncated
from udig_recon.core.parameters import FBP, SIRT, TV, complete
from udig_recon.core.preprocessing.sinograms import geometry_of
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import Finished, finish, reconstruct_slice
from udig_recon.core.scan_geometry import CONTINUED, Geometry
from udig_recon.core.selection.early_stopping import HoldoutValidation

SIZE = 72
HALF, TURN = np.arange(60) * np.pi / 60, np.arange(72) * np.pi / 36
FLAT: dict[str, Any] = {"geometry": "fan_flat", "source_origin_mm": 150.0, "source_detector_mm": 300.0}
CURVED: dict[str, Any] = {**FLAT, "geometry": "fan_curved"}
TRUNCATED: dict[str, tuple[NDArray[np.float64], int, dict[str, Any]]] = {
    "parallel": (HALF, 50, {}),
    "one side": (HALF, 52, {"rotation_center": 19.5}),
    "flat fan": (TURN, 46, FLAT),
    "curved fan": (TURN, 46, CURVED),
    "fan of few views": (TURN[::3], 46, FLAT),
    "half fan": (TURN, 34, {**FLAT, "rotation_center": 10.5}),
}


def scan(angles: NDArray[np.float64], detectors: int, size: int = SIZE, **more: Any) -> CTAcquisition:
    """A scan with little noise of ellipses in the middle of a field of `size` pixels of 1 mm."""
    spacing = more.get("source_detector_mm", 1.0) / more.get("source_origin_mm", 1.0)
    empty = CTAcquisition(
        sinogram=np.zeros((1, len(angles), detectors), np.float32),
        angles=angles,
        image_size=SIZE,
        pixel_size_mm=1.0,
        detector_spacing_mm=spacing,
        **more,
    )
    rays = ellipse_rays(geometry_of(empty))
    noise = np.random.default_rng(0).normal(scale=0.002, size=rays.shape)
    return replace(empty, sinogram=(rays + noise).astype(np.float32)[None], image_size=size)


def truncated(name: str, size: int = SIZE) -> CTAcquisition:
    angles, detectors, more = TRUNCATED[name]
    return scan(angles, detectors, size, **more)


def problem_of(acquisition: CTAcquisition) -> SliceProblem:
    return slice_problem(acquisition, 0, torch.device("cpu"))


def plain_problem(acquisition: CTAcquisition, monkeypatch: pytest.MonkeyPatch) -> SliceProblem:
    """The problem as if nothing were continued."""
    with monkeypatch.context() as patch:
        patch.setattr("udig_recon.core.problem.continue_truncated", lambda rays, *_: (rays, NOTHING_ADDED))
        return problem_of(acquisition)


def finished(problem: SliceProblem, method: Any) -> Finished:
    return finish(reconstruct_slice(problem, complete(method, Modality.CT), seed=0))


def error_within(image: NDArray[np.float32], geometry: Geometry) -> float:
    """Root mean square error within the field, two detectors from its edge, as a share of the mean."""
    size = len(image)
    start = (SIZE - size) // 2
    right = ellipse_image(SIZE)[start : start + size, start : start + size]
    reach = (geometry.axis + 0.5, geometry.detectors - 0.5 - geometry.axis)
    radius = max(reach) if geometry.beam != "parallel" else min(reach)
    axis = np.arange(size) - (size - 1) / 2
    field = axis[:, None] ** 2 + axis**2 < (radius - 2) ** 2
    return float(np.sqrt(np.mean((image - right)[field] ** 2)) / right[field].mean())


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("method", [SIRT(iterations=40), TV(weight=1e-3, iterations=40)], ids=["sirt", "tv"])
def test_iterative_methods_are_right_within_the_field(name: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 46
    acquisition = truncated(name, size)
    images = [
        finished(problem, method).result.image
        for problem in (problem_of(acquisition), plain_problem(acquisition, monkeypatch))
    ]
    found, before = (error_within(image, geometry_of(acquisition)) for image in images)
    assert images[0].shape == (size, size)
    assert found < 0.6 * before
    assert found < (0.03 if isinstance(method, TV) else 0.1)


@pytest.mark.parametrize("name", ["flat fan", "curved fan", "half fan"])
def test_filtered_back_projection_of_truncated_fans_makes_no_ring(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    acquisition = truncated(name)
    found, before = (
        error_within(finished(problem, FBP()).result.image, geometry_of(acquisition))
        for problem in (problem_of(acquisition), plain_problem(acquisition, monkeypatch))
    )
    assert found < 0.4 * before


@pytest.mark.parametrize(
    ("angles", "detectors", "more"),
    [(HALF, 80, {}), (TURN, 84, FLAT), (TURN, 84, CURVED), (TURN, 50, {**FLAT, "rotation_center": 10.5})],
    ids=["parallel", "flat fan", "curved fan", "half fan"],
)
def test_whole_scans_stay_as_they_are(angles: NDArray[np.float64], detectors: int, more: dict[str, Any]) -> None:
    acquisition = scan(angles, detectors, **more)
    rays, added = continue_truncated(acquisition.sinogram[0], None, geometry_of(acquisition))
    assert rays is acquisition.sinogram[0] or np.shares_memory(rays, acquisition.sinogram)
    assert added == NOTHING_ADDED


@pytest.mark.parametrize("name", TRUNCATED)
def test_only_measured_rays_count_for_quality(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    acquisition = truncated(name)
    problem, plain = problem_of(acquisition), plain_problem(acquisition, monkeypatch)
    assert problem.operator.coverage(problem.measurements) == pytest.approx(plain.operator.coverage(plain.measurements))
    image = torch.rand(1, *problem.operator.image_shape, generator=torch.Generator().manual_seed(0)) * 0.01
    inner = torch.from_numpy(problem.magnitude(image))[None, None]
    outside = image.clone()
    start = (image.shape[-1] - SIZE) // 2
    outside[..., start : start + SIZE, start : start + SIZE] = 0
    image -= outside
    found, expected = problem.image_metrics(image), plain.image_metrics(inner)
    assert found.data_residual == pytest.approx(expected.data_residual, rel=1e-3)
    assert found.noise_discrepancy == pytest.approx(expected.noise_discrepancy, rel=1e-3)


@pytest.mark.parametrize("kind", ["lines", "samples"])
def test_continued_rays_are_never_held_out_and_leave_with_their_view(kind: Any) -> None:
    problem = problem_of(truncated("flat fan"))
    operator = problem.operator
    assert isinstance(operator, XRayTransform)
    kept = operator.partition(0.2, kind, torch.Generator().manual_seed(0))
    validation = HoldoutValidation(Inputs(problem.measurements, operator), kept)
    held_out = (operator.measured & ~kept).expand(operator.measurement_plane)
    before = (operator.geometry.detectors - 46) // 2
    assert bool(held_out.any())
    assert not bool(held_out[:, :before].any())
    assert not bool(held_out[:, before + 46 :].any())
    trained = validation.training.A.forward(torch.ones(1, *operator.image_shape))[0, 0]
    assert float(trained[~kept.expand(operator.measurement_plane)].abs().max()) == 0
    assert validation.score(torch.zeros(1, *operator.image_shape)).residual == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("method", [FBP(), TV(weight=1e-3, iterations=10)], ids=["fbp", "tv"])
def test_a_truncated_scan_is_never_rated_good(method: Any) -> None:
    rating = finished(problem_of(truncated("flat fan")), method).result.rating
    assert rating is not None
    assert rating.level != "good"
    assert any("cut off" in reason for reason in rating.reasons)


def test_missing_views_are_not_continued_and_missing_detectors_make_no_streaks() -> None:
    acquisition = truncated("parallel")
    measured = np.ones(acquisition.sinogram.shape[1:], bool)
    measured[7], measured[:, 20] = False, False
    whole = problem_of(acquisition)
    problem = problem_of(replace(acquisition, sinogram=acquisition.sinogram * measured, measured=measured))
    operator = problem.operator
    assert not bool(operator.forward(torch.ones(1, *operator.image_shape))[0, 0, 7].any())
    assert int(operator.measured.sum()) == measured.sum()
    found, all_there = (error_within(each.direct_image, geometry_of(acquisition)) for each in (problem, whole))
    assert found < 2 * all_there


def test_where_the_projector_of_a_larger_image_is_too_large_nothing_is_continued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acquisition = truncated("flat fan", 46)
    shared = radon.share_views(geometry_of(acquisition))
    assert shared is not None
    monkeypatch.setattr(radon, "LARGEST_PAIR_BYTES", radon.pair_bytes(shared.geometry))
    _projector.cache_clear()
    operator = problem_of(acquisition).operator
    assert isinstance(operator, XRayTransform)
    assert operator.geometry.detectors == 46


@pytest.mark.parametrize("name", [name for name in TRUNCATED if name != "half fan"])
def test_the_header_tells_and_the_estimate_counts_the_larger_grid(name: str, tmp_path: Path) -> None:
    acquisition = truncated(name, 46)
    given = {"source_origin_mm": acquisition.source_origin_mm, "source_detector_mm": acquisition.source_detector_mm}
    path = scans.write_npz(
        tmp_path / "scan.npz",
        sinogram=acquisition.sinogram[0],
        angles=acquisition.angles,
        geometry=acquisition.geometry,
        image_size=46,
        pixel_size_mm=1.0,
        detector_spacing_mm=acquisition.detector_spacing_mm,
        **{key: value for key, value in given.items() if value is not None},
        **({} if acquisition.rotation_center is None else {"rotation_center": acquisition.rotation_center}),
    )
    header = probe(path)
    assert CONTINUED in header.corrections
    size = Size.of(asdict(header))
    side = problem_of(acquisition).operator.image_shape[-1]
    assert size.shown_pixels == 46**2 < side**2 <= 1.05 * size.pixels
