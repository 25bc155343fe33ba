"""What a sinogram file says is taken, what it leaves open is told, what breaks the laws of line integrals is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import scans
from udig_recon.core import metrics
from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import Limits, Prober, probe, read
from udig_recon.core.operators import XRayTransform
from udig_recon.core.preprocessing.options import Preprocessing
from udig_recon.core.problem import UNPROCESSED, slice_problem
from udig_recon.core.scan_geometry import CONTINUED

Write = Callable[..., Path]
VIEWS, DETECTORS, SIZE = 60, 80, 56
# (x, y, half axes a and b, angle, attenuation 1/mm), lengths in mm; nothing symmetric
ELLIPSES = (
    (0.0, 1.0, 20.0, 25.0, 0.1, 0.02),
    (-7.0, 8.0, 5.0, 8.0, 0.4, 0.01),
    (9.0, -6.0, 5.0, 4.0, 0.0, -0.012),
    (-9.0, -12.0, 3.0, 3.0, 0.0, 0.03),
)
HALF_TURN = np.arange(VIEWS) * np.pi / VIEWS
GEOMETRY = {"geometry": "parallel", "image_size": SIZE, "pixel_size_mm": 1.0, "detector_spacing_mm": 1.0}


def sinogram(
    angles: NDArray[np.float64] = HALF_TURN,
    detectors: int = DETECTORS,
    offset: float = 0.0,
    *,
    noise: float = 0.002,
    shift: tuple[float, float] = (0.0, 0.0),
    ellipses: tuple[tuple[float, ...], ...] = ELLIPSES,
) -> NDArray[np.float32]:
    """Line integrals (views, detectors) over detectors of 1 mm; the axis falls `offset` detectors beside the middle."""
    theta = np.asarray(angles)[:, None, None]
    fine = np.arange(detectors)[None, :, None] + (np.arange(8) - 3.5) / 8
    s = fine - (detectors - 1) / 2 - offset
    rays = np.zeros(np.broadcast_shapes(theta.shape, s.shape))
    for x, y, a, b, turn, value in ellipses:
        width = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
        along = s - (x + shift[0]) * np.cos(theta) - (y + shift[1]) * np.sin(theta)
        rays += value * 2 * a * b * np.sqrt(np.clip(width - along**2, 0, None)) / width
    rays = rays.mean(axis=-1)
    return (rays + np.random.default_rng(0).normal(scale=noise, size=rays.shape)).astype(np.float32)


def truth(shift: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float32]:
    fine = (np.arange(4 * SIZE) + 0.5) / 4 - SIZE / 2
    x, y = fine[None, :], -fine[:, None]
    image = np.zeros((4 * SIZE, 4 * SIZE))
    for cx, cy, a, b, turn, value in ELLIPSES:
        u, w = x - cx - shift[0], y - cy - shift[1]
        inside = ((u * np.cos(turn) + w * np.sin(turn)) / a) ** 2 + ((w * np.cos(turn) - u * np.sin(turn)) / b) ** 2
        image += value * (inside <= 1)
    return image.reshape(SIZE, 4, SIZE, 4).mean((1, 3)).astype(np.float32)


def scan(**parts: Any) -> dict[str, Any]:
    """A right scan with these parts in place of its own; None leaves one out."""
    mixed = {"sinogram": sinogram(), "angles": HALF_TURN, **GEOMETRY, **parts}
    return {name: part for name, part in mixed.items() if part is not None}


@pytest.fixture(params=[scans.write_hdf5, scans.write_npz], ids=["hdf5", "npz"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    return lambda **parts: request.param(tmp_path / "scan", **scan(**parts))


def fbp(path: Path, preprocessing: Preprocessing = UNPROCESSED) -> NDArray[np.float32]:
    problem = slice_problem(read(path), 0, torch.device("cpu"), preprocessing=preprocessing)
    return problem.magnitude(problem.direct())


def warned(path: Path) -> str:
    return "\n".join(probe(path).warnings)


def test_a_right_scan_has_no_warnings(write: Write) -> None:
    path = write()
    assert probe(path).warnings == ()
    assert metrics.psnr(fbp(path), truth()) > 30


@pytest.mark.parametrize("offset", [5.0, 0.5, -3.27])
def test_the_axis_is_where_the_file_says(offset: float, write: Write) -> None:
    centred, told = fbp(write()), fbp(write(sinogram=sinogram(offset=offset), rotation_center=39.5 + offset))
    untold = fbp(write(sinogram=sinogram(offset=offset)))
    assert metrics.psnr(told, truth()) > metrics.psnr(centred, truth()) - 0.5
    assert metrics.psnr(untold, truth()) < metrics.psnr(told, truth()) - 2


def test_the_axis_is_where_the_job_says(write: Write) -> None:
    path = write(sinogram=sinogram(offset=3.0))
    told = fbp(write(sinogram=sinogram(offset=3.0), rotation_center=42.5))
    assert np.array_equal(fbp(path, Preprocessing(rotation_center=42.5)), told)
    with pytest.raises(UnsupportedScan, match="outside the detector"):
        fbp(path, Preprocessing(rotation_center=float(DETECTORS)))


def test_the_middle_is_the_axis_by_default(write: Write) -> None:
    assert np.array_equal(fbp(write()), fbp(write(rotation_center=(DETECTORS - 1) / 2)))


def test_moving_the_object_moves_the_image_about_an_axis_off_the_middle(write: Write) -> None:
    path = write(sinogram=sinogram(offset=4.25, shift=(3.0, -2.0)), rotation_center=39.5 + 4.25)
    assert metrics.psnr(fbp(path), truth((3.0, -2.0))) > 30


def test_further_detectors_on_one_side_move_the_axis_with_them() -> None:
    narrow = XRayTransform(HALF_TURN, 24, 41, 1.0, 1.0, rotation_center=20.0)
    wide = XRayTransform(HALF_TURN, 24, 48, 1.0, 1.0, rotation_center=27.0)
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(wide.forward(x)[..., 7:] / wide.scale, narrow.forward(x) / narrow.scale, atol=1e-5)


@pytest.mark.parametrize("centre", [-1, DETECTORS, np.nan, "middle"])
def test_an_axis_beside_the_detector_is_refused(centre: float | str, write: Write) -> None:
    with pytest.raises(UnreadableScan, match=r"rotation_center: .* the middle is 39\.5"):
        probe(write(rotation_center=centre))


def counts(flat: NDArray[np.float64] | float, dark: NDArray[np.float64] | float = 0.0) -> NDArray[np.uint16]:
    rays = np.exp(-sinogram(noise=0)) * (flat - np.asarray(dark))
    return np.round(rays + dark).astype(np.uint16)


UNEVEN = 20000 * (1 + 0.5 * np.cos(np.linspace(-1.2, 1.2, DETECTORS)))
DARK = 100 + 30 * np.sin(np.arange(DETECTORS))


@pytest.mark.parametrize(
    "beam",
    [
        {"sinogram": counts(UNEVEN), "flat": UNEVEN},
        {"sinogram": counts(UNEVEN), "i0": UNEVEN},
        {"sinogram": counts(20000.0), "flat": 20000.0},
        {"sinogram": counts(UNEVEN, DARK), "flat": UNEVEN, "dark": DARK},
        {"sinogram": counts(20000.0, 150.0), "i0": 20000.0, "dark": 150.0},
        {"sinogram": counts(UNEVEN, DARK)[None], "flat": UNEVEN[None], "dark": DARK[:, None]},
    ],
)
def test_counts_are_divided_by_the_beam_of_each_detector(beam: dict[str, Any], write: Write) -> None:
    path = write(quantity="Counts", **beam)
    found = read(path)
    assert isinstance(found, CTAcquisition)
    np.testing.assert_allclose(found.sinogram[0], sinogram(noise=0), atol=2e-3)
    assert probe(path).warnings == ()


def test_transmissions_are_counts_of_a_beam_of_1(write: Write) -> None:
    found = read(write(sinogram=np.exp(-sinogram(noise=0)), quantity="transmission"))
    assert isinstance(found, CTAcquisition)
    np.testing.assert_allclose(found.sinogram[0], sinogram(noise=0), atol=1e-5)


WRONG_BEAMS: dict[str, tuple[dict[str, Any], str]] = {
    "another length": ({"flat": UNEVEN[1:]}, r"flat: found shape \(79,\), expected one number or shape \(80,\)"),
    "frames of another length": ({"flat": np.stack([UNEVEN[1:]] * 2)}, r"frames are averaged: \(frames, 80\)"),
    "frames of other slices": ({"flat": np.ones((3, 2, 80))}, r"found shape \(3, 2, 80\)"),
    "four axes": ({"flat": np.ones((3, 2, 2, 80))}, r"found shape \(3, 2, 2, 80\)"),
    "below zero": ({"flat": np.where(np.arange(80) == 7, -3.0, UNEVEN)}, "flat: found -3.0 at detector 7"),
    "most detectors dead": ({"flat": np.where(np.arange(80) < 50, 0, UNEVEN)}, "no more than dark at 62.5 percent"),
    "no beam": ({"flat": 10.0, "dark": 10.0}, "no more than dark everywhere"),
    "negative": ({"flat": UNEVEN, "dark": -1.0}, "dark: found -1.0"),
    "not a number": ({"flat": np.full(80, np.nan)}, "flat: found nan"),
    "two": ({"flat": UNEVEN, "i0": 1e4}, "both i0 and flat"),
    "none": ({}, r"i0: .*flat and dark \(detectors,\)"),
    "text": ({"flat": "bright"}, "flat: found a text"),
    "line integrals": ({"flat": UNEVEN, "quantity": "line_integrals"}, "quantity='counts' beside it"),
}


@pytest.mark.parametrize("name", WRONG_BEAMS)
def test_a_beam_that_cannot_be_is_refused_with_what_would_be_right(name: str, write: Write) -> None:
    beam, words = WRONG_BEAMS[name]
    with pytest.raises(UnreadableScan, match=words):
        probe(write(**{"sinogram": counts(UNEVEN), "quantity": "counts", **beam}))


def test_a_detector_without_a_beam_may_be_left_out(write: Write) -> None:
    broken = np.arange(DETECTORS) == 30
    path = write(sinogram=counts(UNEVEN), quantity="counts", flat=np.where(broken, 0, UNEVEN), mask=~broken)
    assert probe(path).warnings == ()
    assert metrics.psnr(fbp(path), truth()) > 28


FRAMES = 20


@pytest.mark.parametrize("slices", [1, 3])
def test_frames_of_flat_and_dark_are_averaged(slices: int, write: Write) -> None:
    """(frames, detectors) for a slice, (frames, slices, detectors) for a stack whose slices differ."""
    rng = np.random.default_rng(0)
    flat = UNEVEN * np.array([1.0, 0.5, 2.0])[:slices, None]
    stack = np.stack([counts(row, DARK) for row in flat])
    frames = rng.poisson(flat, (FRAMES, slices, DETECTORS)).astype(np.float32)
    dark = np.round(np.broadcast_to(DARK, frames.shape)).astype(np.uint16)
    if slices == 1:
        stack, frames, dark = stack[0], frames[:, 0], dark[:, 0]
    path = write(sinogram=stack, quantity="counts", flat=frames, dark=dark)
    assert probe(path).warnings == ()
    for index in range(slices):
        found = read(path, [index])
        assert isinstance(found, CTAcquisition)
        np.testing.assert_allclose(found.sinogram[0], sinogram(noise=0), atol=0.02)


def test_a_beam_that_varies_with_the_views_is_taken_view_by_view(write: Write) -> None:
    """As blank scans of PET, whose rod turns with the views: deviations of neighbouring views are alike."""
    rng = np.random.default_rng(0)
    turning = 1 + 0.4 * np.sin(3 * HALF_TURN[:, None] + np.arange(DETECTORS) / 9)
    flat = rng.poisson(20000 * turning).astype(np.float32)
    flat[7, 30] = 0
    rays = np.round(20000 * turning * np.exp(-sinogram(noise=0))).astype(np.int32)
    path = write(sinogram=rays, quantity="counts", flat=flat)
    assert f"flat of shape {flat.shape} belongs to the views, one row to each: it varies with them" in warned(path)
    scan = read(path)
    assert isinstance(scan, CTAcquisition)
    assert scan.weights is not None
    assert np.argwhere(scan.weights[0] == 0).tolist() == [[7, 30]]
    seen = scan.weights[0] > 0
    assert np.abs(scan.sinogram[0] - sinogram(noise=0))[seen].max() < 0.1
    assert np.abs(scan.sinogram[0] - sinogram(noise=0))[seen].mean() < 0.01
    steady = write(sinogram=counts(UNEVEN), quantity="counts", flat=rng.poisson(UNEVEN, rays.shape))
    assert "is averaged over its first axis" in warned(steady)


def test_a_row_of_flat_for_each_slice_is_told(write: Write) -> None:
    flat = UNEVEN * np.array([1.0, 0.5])[:, None]
    path = write(sinogram=np.stack([counts(row) for row in flat]), quantity="counts", flat=flat)
    assert "flat of shape (2, 80) is read as one row for each slice, not as frames" in warned(path)
    found = read(path)
    assert isinstance(found, CTAcquisition)
    np.testing.assert_allclose(found.sinogram[1], sinogram(noise=0), atol=5e-3)


def test_weights_are_the_inverse_variances_of_line_integrals(write: Write) -> None:
    """Many noisy scans: the weights are as the inverse variances over them, their mean 1."""
    rays, rng = sinogram(noise=0), np.random.default_rng(0)
    many = rng.poisson(5000 * np.exp(-3 * rays) + 20, (400, *rays.shape))
    found = read(write(sinogram=many, quantity="counts", i0=5000.0, dark=20.0))
    assert isinstance(found, CTAcquisition)
    assert found.weights is not None
    np.testing.assert_allclose(found.weights.mean(axis=(1, 2)), 1, rtol=1e-5)
    inverse = 1 / np.log(np.maximum(rng.poisson(5000 * np.exp(-3 * rays), many.shape), 0.5)).var(axis=0)
    np.testing.assert_allclose(found.weights.mean(axis=0), inverse / inverse.mean(), rtol=0.35)


def test_line_integrals_have_no_weights(write: Write) -> None:
    found = read(write())
    assert isinstance(found, CTAcquisition)
    assert found.weights is None


BAD = {
    "dead": "detector 30 left out: flat is no more than dark",
    "stuck": "detector 30 left out: the same reading in every view",
    "saturated": "26 saturated rays, which read 65535 where the beam reads more, are left out",
}


@pytest.mark.parametrize("what", BAD)
def test_detectors_and_rays_that_measured_nothing_are_left_out_and_told(what: str, write: Write) -> None:
    flat, rays = UNEVEN.copy(), counts(UNEVEN)
    if what == "dead":
        flat[30] = 0
    elif what == "stuck":
        rays[:, 30] = 7
    else:
        flat[30] = 1.4e5
        rays[:, 30] = np.minimum(flat[30] * np.exp(-sinogram(noise=0)[:, 30]), 65535).astype(np.uint16)
    path = write(sinogram=rays, quantity="counts", flat=flat)
    header = probe(path)
    assert (header.corrections, header.warnings) == ((BAD[what],), ())
    found = read(path)
    assert isinstance(found, CTAcquisition)
    measured = found.measured_of(0)
    assert measured is not None
    assert np.array_equal(measured[:, 30], (rays[:, 30] < 65535) & (what == "saturated"))
    assert measured[:, np.arange(DETECTORS) != 30].all()
    assert metrics.psnr(fbp(path), truth()) > 28


def test_negative_counts_and_zeros_are_half_a_photon_and_told(write: Write) -> None:
    rays = counts(1000.0).astype(np.float32)
    rays[3, 40], rays[9, 41] = -5, 0
    path = write(sinogram=rays, quantity="counts", i0=1000.0)
    assert warned(path).startswith("2 rays without photons are read as half a photon")
    found = read(path)
    assert isinstance(found, CTAcquisition)
    assert found.sinogram[0, 3, 40] == found.sinogram[0, 9, 41] == pytest.approx(np.log(2000))
    assert found.measured_of(0) is None


def test_a_starved_detector_behind_dense_matter_is_not_dead(write: Write) -> None:
    heavy = (*ELLIPSES, (0.0, 0.0, 3.0, 3.0, 0.0, 2.0))
    rays = np.random.default_rng(0).poisson(100 * np.exp(-sinogram(noise=0, ellipses=heavy)))
    path = write(sinogram=rays, quantity="counts", i0=100.0)
    assert probe(path).corrections == ()


def test_a_scan_without_a_count_is_refused(write: Write) -> None:
    with pytest.raises(UnreadableScan, match="no count above 0"):
        probe(write(sinogram=np.full((VIEWS, DETECTORS), -1.0), quantity="counts", i0=100.0))


def test_rays_that_are_masked_out_have_no_say(write: Write) -> None:
    measured = np.ones((VIEWS, DETECTORS), bool)
    measured[:, 37:43], measured[20:24, 50:54], measured[31] = False, False, False
    spoilt = np.where(measured, sinogram(), np.nan).astype(np.float32)
    with pytest.raises(UnreadableScan, match=r"at slice 0, view 0, detector 37.*mask \(views, detectors\)"):
        probe(write(sinogram=spoilt))
    path = write(sinogram=spoilt, mask=measured)
    assert probe(path).warnings == ()
    problem = slice_problem(read(path), 0, torch.device("cpu"))
    assert torch.equal(problem.operator.measured.cpu(), torch.from_numpy(measured))
    assert float(problem.measurements[..., ~torch.from_numpy(measured)].abs().max()) == 0
    assert metrics.psnr(fbp(path), truth()) > 22
    found = np.asarray(problem.image_metrics(torch.from_numpy(truth())[None, None]).data_residual)
    assert found < 0.05


@pytest.mark.parametrize("mask", [np.ones(79), np.full(80, 0.5), np.zeros(80), np.ones((2, 60, 80))])
def test_a_mask_that_does_not_fit_is_refused(mask: NDArray[np.float64], write: Write) -> None:
    with pytest.raises(UnreadableScan, match="mask"):
        probe(write(mask=mask))


def test_scalars_may_be_datasets(tmp_path: Path) -> None:
    path = tmp_path / "scan"
    with h5py.File(path, "w") as file:
        for name, value in scan(rotation_center=39.5, slice_spacing_mm=2.5).items():
            file[name] = value
    header = probe(path)
    assert (header.matrix, header.pixel_spacing_mm, header.slice_spacing_mm) == ((SIZE, SIZE), (1.0, 1.0), 2.5)
    assert header.warnings == ()


def test_a_length_as_text_is_refused_with_the_cure(write: Write) -> None:
    with pytest.raises(UnreadableScan, match="as a number, not as text"):
        probe(write(pixel_size_mm="2.0"))


def test_two_values_of_one_name_are_refused(tmp_path: Path) -> None:
    path = scans.write_hdf5(tmp_path / "scan", **scan())
    with h5py.File(path, "a") as file:
        file["pixel_size_mm"] = 0.5
    with pytest.raises(UnreadableScan, match=r"pixel_size_mm: found different values: 1\.0, 0\.5"):
        probe(path)


def test_the_thickness_of_slices_stands_in_for_their_spacing(write: Write) -> None:
    assert probe(write(slice_thickness_mm=3.0)).slice_spacing_mm == 3.0
    assert "slice_thickness_mm 3" in warned(write(slice_thickness_mm=3.0))
    assert probe(write()).slice_spacing_mm is None
    with pytest.raises(UnreadableScan, match="slice_spacing_mm"):
        probe(write(slice_spacing_mm=-1.0))


def test_names_that_mean_nothing_are_named(write: Write) -> None:
    told = warned(write(bad_pixels=np.zeros(3), exposure=4.0, sensitivity_maps=np.zeros(3)))
    assert "not used" in told
    for name in ("bad_pixels", "exposure", "sensitivity_maps"):
        assert name in told


def test_of_many_or_strange_names_only_the_number_is_told(write: Write) -> None:
    plain = {f"array_{index}": np.zeros(1) for index in range(30)}
    strange = {"Mustermann^Erika": 1.0, "a\x1b[31mred": 1.0, "x" * 300: 1.0, "born19710203": 1.0}
    told = warned(write(**plain, **strange))
    assert "and 26 more" in told
    assert len(told) < 300
    assert not any(each[:12] in told for each in strange)
    assert "not used, as these names mean nothing here: 4 of other names" in warned(write(**strange))


def test_a_geometry_that_is_not_given_is_assumed_aloud(write: Write) -> None:
    assert "parallel beams are assumed" in warned(write(geometry=None))


@pytest.mark.parametrize("spelt", ["Parallel", "PARALLEL", " parallel beam", "parallel_beam", "parallel3d"])
def test_parallel_may_be_spelt_otherwise(spelt: str, write: Write) -> None:
    assert probe(write(geometry=spelt)).warnings == ()


@pytest.mark.parametrize(("spelt", "word"), [("Cone", "cone beam"), ("cone-beam", "cone beam"), ("helical", "helical")])
def test_another_geometry_is_refused_by_name_with_the_cure(spelt: str, word: str, write: Write) -> None:
    with pytest.raises(UnsupportedScan, match=f"found {word}.*fan_flat"):
        probe(write(geometry=spelt))


RADIANS: dict[str, NDArray[np.float64]] = {
    "93 half turns on": 93 * np.pi + HALF_TURN,
    "float32, far on": (93 * np.pi + HALF_TURN).astype(np.float32).astype(np.float64),
    "both ends, far on": 40 * np.pi + np.linspace(0, np.pi, VIEWS),
    "a full turn back": -20 * np.pi - np.arange(VIEWS) * 2 * np.pi / VIEWS,
    "a third, far on": 93 * np.pi + HALF_TURN / 3,
    "golden angle, not folded": np.arange(VIEWS) * np.pi * (np.sqrt(5) - 1) / 2,
    "golden angle of a full turn": np.arange(VIEWS) * np.pi * (3 - np.sqrt(5)),
    "a column": HALF_TURN[:, None],
    "a row": HALF_TURN[None],
}


@pytest.mark.parametrize("name", RADIANS)
def test_radians_may_begin_anywhere(name: str, write: Write) -> None:
    angles = RADIANS[name]
    path = write(sinogram=sinogram(angles.reshape(-1)), angles=angles)
    assert [each for each in probe(path).warnings if not (name.startswith("a third") and "limited angle" in each)] == []
    assert read(path).angles.shape == (VIEWS,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "degrees", [np.arange(60.0), np.arange(60) * 3.0, np.arange(60) * 6.0, 90 + np.arange(60) / 10]
)
def test_degrees_are_refused_with_what_they_would_be(degrees: NDArray[np.float64], write: Write) -> None:
    with pytest.raises(UnreadableScan, match=r"degrees, expected radians, .* \(numpy.deg2rad\)"):
        probe(write(angles=degrees))


@pytest.mark.parametrize("name", ["theta", "anglesRad"])
def test_angles_under_another_name_are_taken_and_that_is_told(name: str, write: Write) -> None:
    path = write(angles=None, **{name: HALF_TURN})
    assert probe(path).warnings == (f"{name} is read as angles",)
    assert metrics.psnr(fbp(path), truth()) > 30


def test_few_degrees_taken_for_radians_are_suspected(write: Write) -> None:
    degrees = np.arange(0, 6, 0.1)
    assert "may be degrees" in warned(write(sinogram=sinogram(np.deg2rad(degrees)), angles=degrees))


@pytest.mark.parametrize("shape", [(60, 1, 80), (1, 60, 80, 1), (60, 80, 1), (1, 1, 60, 80)])
def test_axes_of_length_1_do_not_matter(shape: tuple[int, ...], write: Write) -> None:
    path = write(sinogram=sinogram().reshape(shape))
    header, found = probe(path), read(path, [0])
    assert (header.slices, header.views, header.detectors) == (1, 60, 80)
    assert isinstance(found, CTAcquisition)
    assert np.array_equal(found.sinogram[0], sinogram())
    assert f"{shape} is read as (1, 60, 80)" in "".join(header.warnings)


SWAPPED: dict[str, NDArray[np.float32]] = {
    "detectors first": sinogram().T,
    "detectors before views": np.stack([sinogram().T] * 3),
    "views before slices": np.stack([sinogram()] * 3, axis=1),
    "views before one slice": sinogram()[:, None],
}


@pytest.mark.parametrize("name", SWAPPED)
def test_an_order_of_axes_that_shapes_tell_is_taken_and_told(name: str, write: Write) -> None:
    path = write(sinogram=np.ascontiguousarray(SWAPPED[name]))
    header, found = probe(path), read(path)
    assert (header.views, header.detectors) == (60, 80)
    assert isinstance(found, CTAcquisition)
    for each in found.sinogram:
        assert np.array_equal(each, sinogram())
    assert f"{SWAPPED[name].shape} is read as" in "".join(header.warnings)


def test_an_image_that_would_be_too_large_has_fewer_pixels_of_the_same_field(write: Write) -> None:
    wide = np.repeat(sinogram(), 20, axis=1)
    header = probe(write(sinogram=wide, image_size=None, pixel_size_mm=None, detector_spacing_mm=0.05))
    assert header.matrix == (1024, 1024)
    assert header.pixel_spacing_mm[0] == pytest.approx(80 / 1024)
    assert any("takes 1600 pixels of 0.05 mm a side: 1024 of 0.078125 mm" in each for each in header.warnings)


def test_more_detectors_than_pixels_of_an_image_are_taken(write: Write) -> None:
    wide = np.repeat(sinogram(), 20, axis=1)
    assert probe(write(sinogram=wide, detector_spacing_mm=0.05)).detectors == 1600
    with pytest.raises(UnsupportedScan, match=r"at most 1500 detectors; sum or average neighbouring detectors"):
        probe(write(sinogram=wide, detector_spacing_mm=0.05), Limits(max_detectors=1500))
    with pytest.raises(UnsupportedScan, match=r"found 1024 pixels a side.*image_size=800 and pixel_size_mm=0\.1 to"):
        probe(
            write(sinogram=wide, detector_spacing_mm=0.05, pixel_size_mm=None, image_size=None), Limits(max_matrix=800)
        )


def _dead(p: NDArray[np.float32]) -> NDArray[np.float32]:
    p[:, 45], p[:, 30] = 0, p[:, 30] * 1.3
    return p


def _empty(p: NDArray[np.float32]) -> NDArray[np.float32]:
    p[20:23] = 0
    return p


def _dimmed(p: NDArray[np.float32]) -> NDArray[np.float32]:
    p[10] *= 0.3
    return p


SQUARE = np.arange(DETECTORS) * np.pi / DETECTORS
ODD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "transmissions": ({"sinogram": np.exp(-sinogram())}, ["look like transmissions", "i0=1"]),
    "dim counts": ({"sinogram": 40 * np.exp(-sinogram())}, ["look like transmissions or counts", "i0=40"]),
    "counts": ({"sinogram": counts(20000.0)}, ["if these are counts"]),
    "whole numbers": ({"sinogram": np.round(sinogram() * 20).astype(np.int16)}, ["whole numbers"]),
    "dead detectors": (
        {"sinogram": _dead(sinogram())},
        ["detector 45: the same reading", "detector 30: readings unlike"],
    ),
    "empty views": ({"sinogram": _empty(sinogram())}, ["views 20 to 22: every detector reads the same"]),
    "a dim view": ({"sinogram": _dimmed(sinogram())}, ["view 10: the sum over the detectors is 30 percent"]),
    "a beam too strong": ({"sinogram": sinogram() - np.float32(0.05)}, ["rays beside the object read -0.05"]),
    "a beam too weak": ({"sinogram": sinogram() + np.float32(0.05)}, ["rays beside the object read 0.05", "weaker"]),
    "another sign": ({"sinogram": -sinogram()}, ["the logarithm's sign seems lost"]),
    "multiplied": ({"sinogram": 1000 * sinogram()}, ["if they were multiplied, as by 1000"]),
    "transposed": ({"sinogram": sinogram(SQUARE).T.copy(), "angles": SQUARE}, ["the axes look swapped"]),
    "views first": (
        {"sinogram": np.stack([sinogram() for _ in range(VIEWS)], axis=1)},
        ["(views, slices, detectors) rather than (slices, views, detectors)"],
    ),
    "cut off": ({"sinogram": sinogram(detectors=36)}, ["edge are far from 0 in 60 of 60 views"]),
    "another order of views": (
        {"sinogram": sinogram(shift=(8.0, 0.0))[(np.arange(VIEWS) * 7) % VIEWS]},
        ["the centre of mass"],
    ),
    "i0 beside line integrals": ({"i0": 1e4}, ["i0 is not used"]),
    "another i0": ({"sinogram": counts(20000.0), "quantity": "counts", "i0": 5000.0}, ["times what i0 or flat says"]),
    "line integrals called counts": ({"quantity": "counts", "i0": 1e5}, ["are these counts"]),
}


def test_projections_that_are_cut_off_are_told_to_be_continued(write: Write) -> None:
    assert probe(write(sinogram=sinogram(detectors=36))).corrections == (CONTINUED,)
    assert probe(write(sinogram=sinogram())).corrections == ()


@pytest.mark.parametrize("name", ODD)
def test_what_breaks_the_laws_of_line_integrals_is_named(name: str, write: Write) -> None:
    parts, words = ODD[name]
    told = warned(write(**parts))
    for each in words:
        assert each in told


TURNS: dict[str, Callable[[int], NDArray[np.float64]]] = {
    "half turn": lambda views: np.arange(views) * np.pi / views,
    "half turn with both ends": lambda views: np.linspace(0, np.pi, views),
    "full turn": lambda views: np.arange(views) * 2 * np.pi / views,
    "full turn with both ends": lambda views: np.linspace(2 * np.pi, 0, views),
    "golden angle": lambda views: np.arange(views) * np.pi * (np.sqrt(5) - 1) / 2 % np.pi,
    "limited angle": lambda views: np.linspace(0.3, 1.4, views),
}
DISC = ((0.0, 0.0, 22.0, 22.0, 0.0, 0.02), (0.0, 0.0, 15.0, 15.0, 0.0, -0.01))
PIN = ((0.0, 0.0, 22.0, 18.0, 0.0, 0.01), (0.0, 0.0, 0.7, 0.7, 0.0, 0.5))
METAL = (*ELLIPSES, (8.0, 9.0, 2.0, 2.0, 0.0, 1.2))
SPOTS = ((-15.0, 3.0, 2.0, 2.0, 0.0, 0.05), (12.0, -9.0, 1.5, 2.0, 0.0, 0.05))


def said_of(turn: str, warning: str) -> bool:
    return turn == "limited angle" and "no view lies within" in warning


def test_a_limited_angle_is_told(write: Write) -> None:
    angles = np.linspace(0, 2 * np.pi / 3, VIEWS)
    assert "no view lies within 58 degrees" in warned(write(sinogram=sinogram(angles), angles=angles))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("views", [8, 12, 31, 60, 80, 180])
def test_right_scans_raise_no_alarm(turn: str, views: int, tmp_path: Path) -> None:
    angles, rng = TURNS[turn](views), np.random.default_rng(views)
    for ellipses in (ELLIPSES, DISC, PIN, METAL, SPOTS):
        for offset in (0.0, 0.5, 3.3):
            exact = sinogram(angles, offset=offset, ellipses=ellipses, noise=0)
            centre = {"rotation_center": 39.5 + offset}
            noisy = exact + rng.normal(scale=0.02, size=exact.shape).astype(np.float32)
            for each in (exact, noisy):
                path = scans.write_npz(tmp_path / "scan", **scan(sinogram=each, angles=angles, **centre))
                assert [each for each in probe(path).warnings if not said_of(turn, each)] == []
            photons = rng.poisson(3000 * np.exp(-exact)).astype(np.uint16)
            how = {"quantity": "counts", "i0": 3000.0, **centre}
            path = scans.write_npz(tmp_path / "scan", **scan(sinogram=photons, angles=angles, **how))
            told = [each for each in probe(path).warnings if "without photons" not in each]
            assert [each for each in told if not said_of(turn, each)] == []


def test_a_volume_of_as_many_slices_as_views_raises_no_alarm(write: Write) -> None:
    drifting = np.stack([sinogram(shift=(0.1 * index, -0.05 * index)) for index in range(VIEWS)])
    assert probe(write(sinogram=drifting)).warnings == ()


def _data_exchange(file: h5py.File) -> None:
    file["exchange/theta"] = np.arange(9.0)


def _nexus(file: h5py.File) -> None:
    file.create_group("measured").attrs["NX_class"] = "NXentry"
    file["measured/data"] = np.zeros((9, 8))


@pytest.mark.parametrize(
    ("make", "words"), [(_data_exchange, "Data Exchange.*exchange/theta"), (_nexus, "NeXus.*NXtomo.*angles")]
)
def test_layouts_that_are_known_but_not_read_are_refused_by_name(
    make: Callable[[h5py.File], None], words: str, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "scan", "w") as file:
        make(file)
    with pytest.raises(UnknownFormat, match=words):
        probe(tmp_path / "scan")


def test_a_file_without_a_scan_tells_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match=r"it holds .*proj"):
        probe(scans.write_npz(tmp_path / "scan", proj=sinogram(), theta=HALF_TURN))


def test_the_sandboxed_reader_understands_the_same(tmp_path: Path) -> None:
    parts = scan(sinogram=counts(UNEVEN, DARK), quantity="counts", flat=UNEVEN, dark=DARK, rotation_center=41.0)
    path = scans.write_hdf5(tmp_path / "scan", **parts, mask=np.arange(DETECTORS) != 3, other=np.zeros(2))
    prober = Prober()
    try:
        assert prober.probe(path) == probe(path)
        with pytest.raises(ReconstructionError, match="rotation_center"):
            prober.probe(scans.write_hdf5(tmp_path / "scan", **{**parts, "rotation_center": 99.0}))
    finally:
        prober.close()
