"""What is not measured is told from geometry and data; scans that are measured as usual raise no alarm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core.acquisition import Modality
from udig_recon.core.operators.coverage import angular_gap, axis_offset, truncation, unmeasured_share
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.rating import limits
from udig_recon.core.reconstruct import ensemble, reconstruct
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, poisson_disc, simulate_ct, simulate_mri

CPU = torch.device("cpu")
SIZE = 64
IMAGE = scans.ATTENUATION_1_PER_MM * np.roll(scans.phantom(1, SIZE)[0], 4, axis=0)


def rng():
    return np.random.default_rng(0)


def scan_ct(views, photons=1e6, **knobs):
    return simulate_ct(IMAGE, views, photons, rng(), **knobs)


def alarms(scan):
    """Names of the signals beyond their limits."""
    problem = slice_problem(scan, 0, CPU)
    known = limits(problem.modality)
    found = problem.operator.coverage(problem.measurements)
    return {name for name, value in found.items() if known[name].level(value) != "good"}


def rate_scan(scan, **knobs):
    problem = slice_problem(scan, 0, CPU)
    method = complete(parse(knobs), problem.modality)
    *_, last = ensemble(problem, method, seed=0)
    return assess(problem, method, last).rating


@pytest.mark.parametrize("views", [12, 18, 30, 60, 180])
@pytest.mark.parametrize("photons", [None, 1e6, 1e5, 1e4, 1e3])
def test_a_turn_of_views_of_a_whole_object_raises_no_alarm(views, photons):
    assert not alarms(scan_ct(views, photons))


def test_whole_turns_and_random_views_raise_no_alarm():
    assert not alarms(scan_ct(np.arange(90) * 2 * np.pi / 90))
    assert not alarms(scan_ct(np.sort(rng().uniform(0, np.pi, 90))))


@pytest.mark.parametrize(("covered", "mark"), [(60, "poor"), (120, "check"), (150, "check")])
def test_a_wedge_without_views_is_not_good_and_named(covered, mark):
    scan = scan_ct(np.deg2rad(np.arange(0, covered, 1.0)))
    assert alarms(scan) == {"angular_gap"}
    rating = rate_scan(scan, method="tv")
    assert rating.level == mark
    assert any("unmeasured directions" in reason for reason in rating.reasons)


def test_a_wedge_in_the_middle_is_found_and_few_even_views_are_not_one():
    angles = np.deg2rad(np.delete(np.arange(0, 180, 1.0), np.s_[70:110]))
    assert angular_gap(angles) == pytest.approx(40.0)
    assert angular_gap(np.arange(12) * np.pi / 12) == pytest.approx(0, abs=1e-6)
    assert angular_gap(np.array([0.0, np.pi / 2])) == pytest.approx(75.0)
    assert angular_gap(angles + 7.3) == pytest.approx(40.0)


@pytest.mark.parametrize("sides", [(14, 14), (20, 0), (0, 20)])
def test_projections_that_do_not_end_within_the_detector_are_named(sides):
    # Of an object to one side the views see the one end of the detector, or the other, or both.
    left, right = sides
    image = np.roll(IMAGE, left - right, axis=1)
    scan = simulate_ct(image, 60, 1e6, rng(), detectors=SIZE + 1 - left - right)
    rating = rate_scan(scan, method="tv")
    assert rating.level in ("check", "poor")
    assert any("do not reach zero at the detector's edges" in reason for reason in rating.reasons)


@pytest.mark.long
@pytest.mark.parametrize("views", [12, 60, 180])
@pytest.mark.parametrize("offset", [-2.0, -0.5, 0.5, 1.0])
def test_the_axis_is_found_to_a_tenth_of_a_detector(views, offset):
    scan = scan_ct(views)
    places = np.arange(scan.sinogram.shape[-1], dtype=float)
    moved = np.stack([np.interp(places - offset, places, row) for row in scan.sinogram[0].astype(float)])
    assert axis_offset(moved, scan.angles) == pytest.approx(offset, abs=0.1)
    rating = rate_scan(replace(scan, sinogram=moved[None].astype(np.float32)), method="tv")
    assert rating.level in ("check", "poor")
    assert any("rotation axis" in reason for reason in rating.reasons)


def test_nothing_is_told_of_empty_or_hardly_any_data():
    empty, angles = np.zeros((20, 40)), np.arange(20) * np.pi / 20
    assert truncation(empty, 0.0) == axis_offset(empty, angles) == 0.0
    assert axis_offset(np.ones((3, 40)), angles[:3]) == 0.0
    half = scan_ct(20).sinogram[0].astype(float)
    half[::2] = 0
    assert axis_offset(half, angles) == 0.0


@pytest.mark.parametrize("size", [65, 128, 256])
@pytest.mark.parametrize(("acceleration", "fraction"), [(2, 0.08), (3, 0.08), (4, 0.06), (6, 0.04)])
def test_usual_lines_raise_no_alarm_but_by_rare_chance(size, acceleration, fraction):
    draw = rng()
    masks = [cartesian_lines((size, size), acceleration, fraction, draw) for _ in range(40)]
    limit = limits(Modality.MRI)["unmeasured"].check
    assert sum(unmeasured_share(mask) > limit for mask in masks) <= 4
    assert unmeasured_share(np.ones((size, size), bool)) == 0


def test_points_partial_fourier_regular_lines_and_padding_raise_no_alarm():
    lines = np.ones((128, 128), bool)
    limit = limits(Modality.MRI)["unmeasured"].check
    for columns in (np.s_[:32], np.s_[96:], np.s_[:48]):
        partial = lines.copy()
        partial[:, columns] = False
        assert unmeasured_share(partial) == 0
    padded = lines.copy()
    padded[:, :16] = padded[:, -16:] = False
    assert unmeasured_share(padded) < limit
    regular = np.broadcast_to(np.arange(128) % 8 == 0, (128, 128)) | np.pad(
        lines[:, :10], ((0, 0), (59, 59)), constant_values=False
    )
    assert unmeasured_share(regular) == 0
    assert unmeasured_share(poisson_disc((128, 128), 8, 16, rng())) == 0


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("kind", "mark"),
    [("central half", "check"), ("central fifth", "poor"), ("central block", "check"), ("partial 6x", "check")],
)
def test_an_end_of_k_space_that_is_not_measured_is_not_good_and_named(kind, mark, turned):
    size = 96
    mask = np.zeros((size, size), bool)
    match kind:
        case "central half":
            mask[:, 24:72] = True
        case "central fifth":
            mask[:, 38:58] = True
        case "central block":
            mask[24:72, 24:72] = True
        case _:
            mask[:, :72] = True
            mask &= (np.arange(size) % 6 == 0) | (np.abs(np.arange(size) - size // 2) < 6)
    image = scans.phantom(1, size)[0].astype(np.complex64)
    mask = mask.T.copy() if turned else mask
    scan = simulate_mri(image, birdcage_maps(4, (size, size)), mask, rng(), noise_level=0.005, with_maps=True)
    assert alarms(scan) == {"unmeasured"}
    rating = rate_scan(scan, method="cg_sense")
    assert rating.level in (mark, "poor")
    assert any("outer k-space was not measured" in reason for reason in rating.reasons)


@pytest.mark.parametrize("coils", ["one", "flat"])
@pytest.mark.parametrize("name", ["zero_filled", "cg_sense"])
def test_a_residual_that_is_1_by_construction_tells_nothing(coils, name):
    maps = birdcage_maps(1, (SIZE, SIZE)) if coils == "one" else np.full((2, SIZE, SIZE), 0.5**0.5, np.complex64)
    image = scans.phantom(1, SIZE)[0].astype(np.complex64)
    for mask in (np.ones((SIZE, SIZE), bool), cartesian_lines((SIZE, SIZE), 3, 0.2, rng())):
        rating = rate_scan(simulate_mri(image, maps, mask, rng(), noise_level=0.003, with_maps=True), method=name)
        assert rating.level == "unrated"
        assert "no held-out measurements" in rating.reasons[0]


def test_what_fills_k_space_is_judged_with_one_coil_too():
    image = scans.phantom(1, SIZE)[0].astype(np.complex64)
    mask = cartesian_lines((SIZE, SIZE), 2, 0.2, rng())
    scan = simulate_mri(image, birdcage_maps(1, (SIZE, SIZE)), mask, rng(), noise_level=0.003, with_maps=True)
    assert rate_scan(scan, method="tv").level in ("good", "check", "poor")


def test_the_axis_is_looked_for_where_the_geometry_has_it():
    scan = scan_ct(60)
    middle = (scan.sinogram.shape[-1] - 1) / 2
    sinogram = scan.sinogram[0].astype(float)
    assert axis_offset(sinogram, scan.angles, middle) == pytest.approx(0, abs=0.1)
    assert axis_offset(sinogram, scan.angles, middle + 1) == pytest.approx(-1, abs=0.1)


def masked(scan, measured):
    return replace(scan, sinogram=np.where(measured, scan.sinogram, 0), measured=measured)


def test_what_a_mask_leaves_out_counts_as_not_measured():
    scan = scan_ct(60)
    views, detectors = scan.sinogram.shape[1:]
    measured = np.ones((views, detectors), bool)
    wedge, field = measured.copy(), np.zeros_like(measured)
    wedge[10:35] = False
    field[:, 30:-30] = True
    assert alarms(masked(scan, wedge)) == {"angular_gap"}
    assert "truncation" in alarms(masked(scan, field))
    assert rate_scan(masked(scan, field), method="sirt").level in ("check", "poor")


def test_dead_detectors_gaps_and_edges_that_a_mask_leaves_out_raise_no_alarm():
    scan = scan_ct(60)
    for gap in (slice(20, 21), slice(30, 36), slice(46, 52), slice(0, 6), slice(-6, None)):
        measured = np.ones(scan.sinogram.shape[1:], bool)
        measured[:, gap] = False
        assert not alarms(masked(scan, measured)), gap


def test_an_object_that_ends_in_the_last_detector_but_one_is_not_cut_off():
    ramp = np.concatenate((np.arange(1.0, 20), np.arange(20.0, 0, -1)))
    tight = np.tile(np.concatenate(([0.0], ramp, [0.0])), (60, 1))
    assert truncation(tight, 0.0) == 0.0
    assert truncation(tight + 2, 0.0) > 0.05


def test_views_that_are_cut_off_say_nothing_of_the_axis():
    scan = scan_ct(60)
    sinogram = scan.sinogram[0].astype(float)
    middle = (sinogram.shape[1] - 1) / 2
    assert axis_offset(sinogram[:, :50], scan.angles, middle) == 0.0


def test_sirt_continues_the_image_where_no_measured_ray_passes():
    scan = scan_ct(60)
    measured = np.ones(scan.sinogram.shape[1:], bool)
    middle = measured.shape[1] // 2
    measured[:, middle - 3 : middle + 4] = False
    error = {}
    for name, each in (("whole", scan), ("gap", masked(scan, measured))):
        *_, last = reconstruct(slice_problem(each, 0, CPU), complete(parse({"method": "sirt"}), Modality.CT), seed=0)
        error[name] = last.image[0, 0].numpy() - IMAGE
    hole = (slice(31, 34), slice(31, 34))
    assert np.abs(IMAGE[hole]).min() > 0
    assert np.abs(error["gap"][hole]).max() < 0.25 * IMAGE.max()
    assert np.linalg.norm(error["gap"]) < 2 * np.linalg.norm(error["whole"])


def test_fbp_takes_missing_rays_from_its_image():
    # A full turn of which one half of the detector is missing lacks nothing.
    scan = scan_ct(60)
    turn = replace(
        scan,
        angles=np.concatenate((scan.angles, scan.angles + np.pi)),
        sinogram=np.concatenate((scan.sinogram, scan.sinogram[..., ::-1]), axis=1),
    )
    measured = np.ones(turn.sinogram.shape[1:], bool)
    measured[:, measured.shape[1] // 2 + 2 :] = False
    whole, half = (slice_problem(each, 0, CPU).direct()[0, 0].numpy() for each in (turn, masked(turn, measured)))
    assert np.linalg.norm(half - whole) < 0.1 * np.linalg.norm(whole)


def test_the_error_of_unmeasured_lines_is_expected_from_lines_like_them(monkeypatch):
    numbers = np.random.default_rng(1)
    image = (numbers.standard_normal((SIZE, SIZE)) + 1j * numbers.standard_normal((SIZE, SIZE))).astype(np.complex64)
    mask = cartesian_lines((SIZE, SIZE), 4, 0.08, numbers)
    scan = simulate_mri(image, birdcage_maps(4, image.shape), mask, numbers, noise_level=0.0, with_maps=True)
    operator, y = slice_problem(scan, 0, CPU).operator, slice_problem(scan, 0, CPU).measurements
    monkeypatch.setattr(operator, "noise_level", lambda _: 0.0)
    # An image that predicts nothing misses all energy; white images hold the same in every line.
    expected = operator.expected_error(y, 1.0)
    assert expected == pytest.approx(np.sqrt(np.mean(np.abs(image) ** 2) * (1 - mask.mean())), rel=0.05)
    assert operator.expected_error(y, 0.5) == pytest.approx(expected / 2)
    # What noise explains is no error of the image, but for a tenth that is left.
    monkeypatch.setattr(operator, "noise_level", lambda _: 1e3)
    assert operator.expected_error(y, 1.0) == pytest.approx(np.sqrt(0.1) * expected)


def test_more_than_tenfold_acceleration_raises_an_alarm():
    for acceleration, alarm in ((8, set()), (12, {"acceleration"})):
        mask = cartesian_lines((SIZE, SIZE), acceleration, 0.04, rng())
        scan = simulate_mri(
            IMAGE.astype(np.complex64), birdcage_maps(2, IMAGE.shape), mask, rng(), noise_level=0.0, with_maps=True
        )
        assert alarms(scan) - {"unmeasured"} == alarm


def test_where_every_line_is_measured_no_error_is_expected():
    scan = simulate_mri(
        IMAGE.astype(np.complex64), birdcage_maps(2, IMAGE.shape), np.ones((SIZE, SIZE), bool), rng(), with_maps=True
    )
    problem = slice_problem(scan, 0, CPU)
    assert problem.operator.expected_error(problem.measurements, 0.3) in (None, 0.0)


@pytest.mark.parametrize(("views", "held_out"), [(5, 1), (12, 2), (60, 6)])
def test_at_least_two_of_ten_or_more_views_are_held_out(views, held_out):
    operator = slice_problem(scan_ct(views), 0, CPU).operator
    kept = operator.partition(0.1, "lines", torch.Generator().manual_seed(0))
    assert int((~kept.expand(operator.measured.shape)).any(1).sum()) == held_out
