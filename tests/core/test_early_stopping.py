"""Laws of the iterates that measurements left out choose: which one is taken, when a run ends, what is left out."""

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch

from tests.core.test_algorithms import CASES, called, iterates
from tests.support.scans import phantom
from udig_recon.core import algorithms
from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.inputs import Inputs
from udig_recon.core.operators import MultiCoilMRI, XRayTransform
from udig_recon.core.parameters import (
    DIP,
    FBP,
    SIRT,
    CGSense,
    DIPProbe,
    EarlyStoppingParameters,
    ZeroFilled,
    check_views,
)
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.selection.early_stopping import EXPLAINED_DISCREPANCY, MIN_GAIN, HoldoutValidation
from udig_recon.core.selection.holdout import train_mask
from udig_recon.core.selection.output_variance import ALPHA
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, poisson_disc, simulate_ct, simulate_mri

CPU = torch.device("cpu")
NOISY = {Modality.MRI: (CGSense, 0.05), Modality.CT: (SIRT, 2e3)}
"""A method whose iterates come to fit the noise, and the noise."""


def problem(modality, noise=None, size=48):
    """A phantom seen by six coils at every second line, or from 24 angles."""
    rng = np.random.default_rng(1)
    image = phantom(1, size)[0]
    if modality is Modality.CT:
        return slice_problem(simulate_ct(0.02 * image, 24, noise, rng), 0, CPU)
    mask = cartesian_lines((size, size), 2, 0.1, rng)
    maps = birdcage_maps(6, (size, size))
    scan = simulate_mri(image.astype(np.complex64), maps, mask, rng, noise_level=noise or 0.0, with_maps=True)
    return slice_problem(scan, 0, CPU)


def noisy(modality, **knobs):
    """A run on noisy measurements; unless it is told to, no discrepancy ends it."""
    method, noise = NOISY[modality]
    knobs = {"iterations": 120, "discrepancy": 0, **knobs}
    return list(reconstruct(problem(modality, noise), method(**knobs), seed=3))


def rng():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("modality", list(Modality))
def test_the_image_is_the_iterate_of_least_residual_on_what_was_left_out(modality):
    *path, last = noisy(modality, refit=False, patience=1)
    least = min(path, key=lambda it: it.validation_residual)
    assert torch.equal(last.image, least.image)
    assert last.validation_residual == least.validation_residual
    assert last.step == last.steps == 120


@pytest.mark.parametrize("modality", list(Modality))
def test_a_run_that_ends_early_loses_little_and_the_less_patient_one_ends_no_later(modality):
    *whole, best = noisy(modality, refit=False, patience=1)
    lengths = []
    for patience in (0.1, 0.2, 0.4):
        *path, last = noisy(modality, refit=False, patience=patience)
        lengths.append(len(path))
        assert all(torch.equal(it.image, same.image) for it, same in zip(path, whole, strict=False))
        # Gains that are too small to wait for are all that it can lose.
        assert last.validation_residual**2 * (1 - MIN_GAIN) <= best.validation_residual**2
    assert lengths == sorted(lengths)
    assert lengths[1] < len(whole)


@pytest.mark.parametrize("modality", list(Modality))
def test_no_iterate_is_taken_whose_misfit_noise_does_not_explain(modality):
    method, noise = NOISY[modality]
    seen = problem(modality, noise)
    A = seen.operator
    inputs = Inputs(seen.measurements, A)
    validation = HoldoutValidation(inputs, train_mask(A, method(), rng()))
    *_, last = noisy(modality, refit=False, patience=0.2)
    assert validation.score(last.image).discrepancy <= EXPLAINED_DISCREPANCY


@pytest.mark.parametrize("modality", list(Modality))
def test_the_refit_is_the_run_on_all_measurements_up_to_the_iterate_chosen(modality):
    *path, last = noisy(modality)
    trial = [it for it in path if it.step < 120]
    best = min(trial, key=lambda it: it.validation_residual).step
    whole = noisy(modality, holdout_share=0)
    assert torch.equal(last.image, whole[best - 1].image)
    assert [it.step for it in path[len(trial) :]] == list(range(121, 120 + best))


@pytest.mark.parametrize("modality", list(Modality))
def test_what_is_left_out_finds_a_better_image_than_the_whole_run_does(modality):
    seen = problem(modality, NOISY[modality][1])
    picked, whole = (
        seen.image_metrics(noisy(modality, **knobs)[-1].image).psnr for knobs in ({}, {"holdout_share": 0})
    )
    assert picked > whole + 1


@pytest.mark.parametrize("modality", list(Modality))
def test_a_run_ends_where_the_noise_explains_its_misfit(modality):
    seen = problem(modality, NOISY[modality][1])
    *whole, _ = noisy(modality, refit=False, patience=1)
    # That of the run is of what it sees, which is not quite that of all measurements.
    levels = [seen.image_metrics(it.image).noise_discrepancy for it in whole]
    path = noisy(modality, refit=False, patience=1, discrepancy=levels[4])
    assert len(path) < len(whole)
    assert all(level > 0.95 * levels[4] for level in levels[: len(path) - 1])


@pytest.mark.parametrize("modality", list(Modality))
def test_no_iterate_is_taken_or_waited_for_before_the_earliest(modality):
    *path, last = noisy(modality, refit=False, patience=0.1, min_progress=0.5)
    eligible = [it for it in path if it.step >= 60]
    assert min(path, key=lambda it: it.validation_residual).step < 60
    assert torch.equal(last.image, min(eligible, key=lambda it: it.validation_residual).image)
    assert path[-1].step == 60 + 0.1 * 120 - 1


@pytest.mark.parametrize("modality", list(Modality))
def test_noise_discrepancy_of_the_truth_is_one(modality):
    _, noise = NOISY[modality]
    seen = problem(modality, noise)
    truth = torch.from_numpy(seen.reference)[None, None]
    truth = truth if modality is Modality.CT else torch.cat([truth, torch.zeros_like(truth)], 1)
    assert seen.image_metrics(truth).noise_discrepancy == pytest.approx(1, abs=0.25)


@pytest.mark.long
@pytest.mark.parametrize(("method", "modality"), CASES, ids=called)
def test_every_image_is_judged_unless_nothing_is_to_be_left_out(method, modality):
    if isinstance(
        method, EarlyStoppingParameters
    ):  # in a walk of a few steps the second half is not better than the first
        method = method.model_copy(update={"min_progress": 0.0})
    *_, last = iterates(method, modality)
    share = getattr(method, "holdout_share", None)
    judged = share != 0 and getattr(method, "preset", "standard") == "standard" and not isinstance(method, DIPProbe)
    assert (last.validation_residual is not None) == judged
    assert not judged or 0 < last.validation_residual < 3


@pytest.mark.long
@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("knobs", [{}, {"holdout": "lines", "holdout_share": 0.2}], ids=["samples", "lines"])
def test_a_watched_run_goes_on_from_either_of_its_stages(modality, stage, knobs):
    seen, method = problem(modality), DIP(iterations=9, **knobs)
    points = list(reconstruct(seen, method, seed=3))
    if not (reached := [it for it in points if it.state is not None and it.state()["stage"] == stage]):
        pytest.fail("no point of that stage")
    kept = io.BytesIO()
    first, *_ = reconstruct(seen, method, seed=3)
    assert first.step == 1
    for it in reconstruct(seen, method, seed=3):
        if it.step == reached[-1].step:
            torch.save(it.state(), kept)
            break
    kept.seek(0)
    *_, resumed = reconstruct(seen, method, seed=3, state=torch.load(kept, weights_only=True))
    assert torch.equal(resumed.image, points[-1].image)
    assert resumed.validation_residual == points[-1].validation_residual
    assert torch.equal(resumed.iterate_variance, points[-1].iterate_variance)


@pytest.mark.parametrize("modality", list(Modality))
def test_output_variance_is_that_of_es_emv(modality):
    path = noisy(modality, holdout_share=0)
    mean, variance = path[0].image, 0.0
    for it in path:
        away = it.image - mean
        mean = mean + ALPHA * away
        variance = (1 - ALPHA) * (variance + ALPHA * float(away.square().mean()))
        assert float(it.iterate_variance) == pytest.approx(variance / float(it.image.square().mean()), rel=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize("modality", list(Modality))
def test_a_share_of_every_line_or_view_is_left_out_and_nothing_of_the_centre(modality, share):
    A = problem(modality).operator
    kept = A.partition(share, "samples", rng())
    dropped = (A.measured & ~kept).float().mean(0 if modality is Modality.MRI else 1)
    free = dropped > 0
    assert np.allclose(dropped[free], share, atol=0.05)
    if modality is Modality.MRI:
        lines = A.measured[0]
        centre = lines[22:27]
        assert centre.all()
        assert not free[22:27].any()
        assert free.sum() == lines.sum() - 5
    else:
        assert free.all()


def test_single_points_are_left_out_of_a_mask_of_points():
    mask = poisson_disc((48, 48), 4, 10, np.random.default_rng(0))
    A = MultiCoilMRI(torch.from_numpy(birdcage_maps(4, (48, 48))), torch.from_numpy(mask))
    kept = A.partition(0.1, "samples", rng())
    assert float((A.measured & ~kept).sum() / mask.sum()) == pytest.approx(0.1, abs=0.03)
    assert bool(kept[19:29, 19:29].all())


def test_missing_rays_change_noise_level_and_back_projection_little():
    seen = problem(Modality.CT, 2e3)
    A, y = seen.operator, seen.measurements
    kept = A.partition(0.1, "samples", rng())
    part = A.restrict(kept)
    assert part.noise_level(y * kept) == pytest.approx(A.noise_level(y), rel=0.2)
    whole = A.direct(y)
    assert float((part.direct(y * kept) - whole).norm() / whole.norm()) < 0.15


def fully_sampled():
    maps = torch.from_numpy(birdcage_maps(4, (24, 24)))
    return MultiCoilMRI(maps, torch.ones(24, 24, dtype=torch.bool))


def test_where_nothing_is_to_spare_nothing_is_left_out_unless_it_was_asked_for():
    A = fully_sampled()
    y = A.forward(torch.ones(1, 2, 24, 24))
    for method in (CGSense, ZeroFilled):
        *_, last = algorithms.run(Inputs(y, A), method(), rng())
        assert last.validation_residual is None
        with pytest.raises(UnsupportedScan, match="outside its calibration centre") as refusal:
            list(algorithms.run(Inputs(y, A), method(holdout_share=0.1), rng()))
        assert refusal.value.field == "parameters.holdout_share"


@pytest.mark.parametrize("method", [FBP, SIRT])
def test_more_views_left_out_than_can_be_spared_are_refused_with_what_can(method):
    asked = method(holdout_share=0.9, holdout="lines")
    A = XRayTransform(np.arange(5) * np.pi / 5, 16, 25, 1.0, 1.0)
    y = A.forward(torch.ones(1, 1, 16, 16))
    for refuse in (lambda: check_views(asked, 5), lambda: list(algorithms.run(Inputs(y, A), asked, rng()))):
        with pytest.raises(UnsupportedScan, match="holds out 4 of 5 views") as refusal:
            refuse()
        assert refusal.value.expected == "3 views or fewer; 0 holds out none"
    check_views(method(holdout_share=0.5, holdout="lines"), 5)
    check_views(method(holdout_share=0.9), 5)
    assert asdict(problem(Modality.CT).image_metrics(torch.zeros(1, 1, 48, 48)))["data_residual"] == pytest.approx(1)
