"""Several seeds of one slice: their mean, how far they differ, and how a run of them goes on where it was stopped."""

from importlib import import_module

import numpy as np
import pytest
import torch

from tests.support import scans
from tests.support.checkpoint_folder import checkpoints_in
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.coils.joint_maps import has_coil_maps
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters import METHODS, complete, parse, require_random
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import ensemble, reconstruct

pytestmark = pytest.mark.long

LENGTHS = ("iterations", "outer_iterations", "mask_iterations", "steps")
CPU = torch.device("cpu")
SEEDS = 3
STOPS = 7
"""of each run, spread over it"""
DDS = {"method": "dds", "steps": 3}
JUDGED = {"method": "udig_dip", "outer_iterations": 4, "fit_maps": False, "holdout_share": 0.2}
DIP = {"method": "dip", "iterations": 4}
TRUSTED = {"method": "udig_dip", "preset": "preview", "outer_iterations": 3}


@pytest.fixture(params=list(Modality), scope="module")
def problem(request, tmp_path_factory):
    parts = scans.mri(slices=1) if request.param is Modality.MRI else scans.ct(slices=1)
    path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan", **parts)
    return slice_problem(formats.read(path), 0, CPU)


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    """Two iterations with each weight of total variation, so that a judged run has all its stages and few steps."""
    judged = import_module("udig_recon.core.algorithms.udig_dip_guarded")
    monkeypatch.setattr(judged, "ALONE", judged.ALONE._replace(tv=(2, 3)))
    monkeypatch.setattr(import_module("udig_recon.core.reconstruct"), "BASELINE_ITERATIONS", 3)


def of(problem, knobs):
    return complete(parse(knobs), problem.modality)


def last(iterates):
    *_, found = iterates
    return found


@pytest.mark.parametrize("knobs", [DDS, JUDGED, DIP], ids=lambda knobs: knobs["method"])
def test_image_and_deviation_are_those_of_the_seeds_run_one_by_one(problem, knobs):
    method = of(problem, knobs)
    found = last(ensemble(problem, method, seed=5, seeds=SEEDS))
    alone = [last(reconstruct(problem, method, seed=5 + number)).image for number in range(SEEDS)]
    torch.testing.assert_close(found.image, torch.stack(alone).mean(0))
    expected = np.std([problem.magnitude(image) for image in alone], axis=0, ddof=1)
    np.testing.assert_allclose(problem.crop(found.deviation), expected, rtol=1e-3, atol=1e-3 * expected.max())
    assert expected.max() > 0


@pytest.mark.parametrize("knobs", [DDS, TRUSTED, JUDGED], ids=str)
def test_one_seed_is_the_run_itself(problem, knobs):
    method = of(problem, knobs)
    found, alone = last(ensemble(problem, method, seed=5)), last(reconstruct(problem, method, seed=5))
    assert torch.equal(found.image, alone.image)
    assert found.deviation is None
    assert found.prior_check == alone.prior_check


@pytest.mark.parametrize("knobs", [DDS, JUDGED, DIP], ids=lambda knobs: knobs["method"])
@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_steps_never_fall_and_only_the_last_iterate_is_at_the_end(problem, knobs, seeds):
    iterates = list(ensemble(problem, of(problem, knobs), seed=0, seeds=seeds))
    assert len({it.steps for it in iterates}) == 1
    steps = [it.step for it in iterates]
    assert steps == sorted(steps)
    assert [it.step == it.steps for it in iterates] == [False] * (len(iterates) - 1) + [True]


@pytest.mark.parametrize("knobs", [DDS, JUDGED, DIP], ids=lambda knobs: knobs["method"])
def test_stopped_anywhere_it_goes_on_from_its_checkpoint_file_to_the_same_bits(problem, knobs, tmp_path):
    method = of(problem, knobs)
    stops = 0
    for unbroken in ensemble(problem, method, seed=5, seeds=SEEDS):
        if unbroken.state is not None:
            kept = checkpoints_in(tmp_path, stops)
            kept.save(unbroken.step, {"state": unbroken.state()})
            kept.wait()
            stops += 1
    assert stops >= SEEDS - 1
    for number in np.linspace(0, stops - 1, STOPS).astype(int):
        state = checkpoints_in(tmp_path, number).load(CPU)["state"]
        resumed = last(ensemble(problem, method, seed=5, seeds=SEEDS, state=state))
        assert torch.equal(resumed.image, unbroken.image)
        assert torch.equal(resumed.deviation, unbroken.deviation)
        assert (resumed.prior_check, resumed.validation_residual) == (
            unbroken.prior_check,
            unbroken.validation_residual,
        )


def test_the_models_of_iterates_have_all_measurements(problem):
    models = [it.operator for it in reconstruct(problem, of(problem, JUDGED), seed=0) if it.operator is not None]
    assert bool(models) == has_coil_maps(problem.operator)
    assert all(torch.equal(model.measured, problem.operator.measured) for model in models)


@pytest.mark.parametrize("inner", [0, 1])
def test_an_image_of_refitted_maps_brings_its_model_with_each_iterate(problem, inner):
    method = of(problem, {**TRUSTED, "prior_calls": 2, "inner_iterations": inner})
    refitted = [it.operator is not None for it in reconstruct(problem, method, seed=0)]
    assert set(refitted) == {has_coil_maps(problem.operator)}


def test_seeds_are_judged_together(problem):
    method = of(problem, JUDGED)
    found = last(ensemble(problem, method, seed=5, seeds=SEEDS)).prior_check
    alone = [last(reconstruct(problem, method, seed=5 + number)).prior_check for number in range(SEEDS)]
    assert found == PriorCheck.combine(alone)
    assert found.prior_weight == pytest.approx(np.mean([prior_check.prior_weight for prior_check in alone]))
    for name, residual in found.residuals.items():
        assert residual**2 == pytest.approx(np.mean([prior_check.residuals[name] ** 2 for prior_check in alone]))


def test_a_verdict_together_with_itself_is_itself():
    prior_check = PriorCheck(
        prior_weight=0.25, best_at=0.5, residuals={"tv": 0.25, "udig_dip": 0.5}, tv_weight=0.5, reference_slice=3
    )
    assert PriorCheck.combine([prior_check, prior_check]) == prior_check


def test_an_empty_slice_is_empty_whatever_the_seed(tmp_path):
    parts = scans.mri(slices=1)
    parts["kspace"] = parts["kspace"] * 0
    parts["kspace"][0, 0, 0, 0] = 1  # a file of nothing but zeros is refused
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts)), 0, CPU)
    problem.measurements.zero_()
    found = last(ensemble(problem, of(problem, DDS), seed=0, seeds=2))
    assert not found.image.any()
    assert not found.deviation.any()


@pytest.mark.parametrize("name", METHODS)
def test_what_another_seed_does_not_change_takes_one_only(name, tmp_path):
    kind = METHODS[name]
    modality = kind.modalities[-1]
    parts = scans.ct(slices=1) if modality is Modality.CT else scans.mri(slices=1)
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts)), 0, CPU)
    short = {knob: 2 for knob in LENGTHS if knob in kind.model_fields}
    method = of(problem, {"method": name, **short})
    same = torch.equal(*(last(reconstruct(problem, method, seed=seed)).image for seed in (0, 1)))
    assert method.is_random == (not same)
    require_random(method, 1)
    if same:
        with pytest.raises(UnsupportedScan, match="same image for every seed"):
            require_random(method, 2)
    else:
        require_random(method, 2)
