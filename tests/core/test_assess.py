"""Where a prior may have invented, and what a finished slice is worth."""

import pytest
import torch

from tests.support import scans
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters import METHODS, complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.hallucination import hallucination_map
from udig_recon.core.quality.rating import LEVELS
from udig_recon.core.reconstruct import ensemble

LENGTHS = ("iterations", "outer_iterations", "mask_iterations", "steps")
CPU = torch.device("cpu")


@pytest.fixture(params=list(Modality))
def problem(request, tmp_path):
    parts = scans.mri(slices=1, coils=1, acceleration=4) if request.param is Modality.MRI else scans.ct(slices=1)
    return slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts)), 0, CPU)


def unseen(A, rng):
    """Images of norm 1 of which the data see hardly anything, and all but hardly anything."""
    x = torch.randn((1, *A.image_shape), generator=rng) * A.support
    hidden = x
    for _ in range(300):
        hidden = hidden - 0.9 * A.normal(hidden)
    seen = A.normal(A.normal(A.normal(x)))
    return hidden / hidden.norm(), seen / seen.norm()


def test_the_map_shows_what_data_do_not_see_and_not_what_they_do(problem):
    A = problem.operator
    plain = A.adjoint(problem.measurements)
    hidden, seen = unseen(A, torch.Generator().manual_seed(1))
    of_hidden, of_seen = (hallucination_map(plain + 0.3 * plain.norm() * d, plain, A) for d in (hidden, seen))
    assert float(of_hidden.square().mean()) > 10 * float(of_seen.square().mean())


def test_the_unit_of_the_map_is_the_object_s_and_of_agreement_it_shows_nothing(problem):
    A = problem.operator
    plain = A.adjoint(problem.measurements)
    hidden, _ = unseen(A, torch.Generator().manual_seed(1))
    image = plain + 0.3 * plain.norm() * hidden
    heat = hallucination_map(image, plain, A)
    assert torch.equal(hallucination_map(8 * image, 8 * plain, A), heat)
    assert not hallucination_map(plain, plain, A).any()


def test_of_an_empty_slice_nothing_is_invented(problem):
    nothing = torch.zeros(1, *problem.operator.image_shape)
    assert not hallucination_map(nothing, nothing, problem.operator).any()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("empty", [False, True])
def test_every_method_and_every_slice_has_a_grade_and_every_prior_a_map(problem, name, empty):
    kind = METHODS[name]
    if problem.modality not in kind.modalities:
        return
    knobs = {knob: 2 for knob in LENGTHS if knob in kind.model_fields}
    if empty:
        problem.measurements.zero_()
    method = complete(parse({"method": name, **knobs}), problem.modality)
    *_, last = ensemble(problem, method, seed=0)
    found = assess(problem, method, last)
    assert found.rating.level in (("check",) if empty else LEVELS)
    assert (found.hallucination is not None) == method.needs_prior
    assert (found.metrics["hallucination_share"] is not None) == method.needs_prior
    if found.hallucination is not None:
        assert found.hallucination.shape == problem.magnitude(last.image).shape
        trusted = last.prior_check is None or last.prior_check.prior_weight > 0
        assert found.hallucination.any() == (trusted and not empty)


def test_the_spread_is_that_of_the_seeds_over_the_object(problem):
    method = complete(parse({"method": "dds", "steps": 2}), problem.modality)
    *_, one = ensemble(problem, method, seed=0)
    *_, three = ensemble(problem, method, seed=0, seeds=3)
    assert assess(problem, method, one).metrics["seed_std"] is None
    assert assess(problem, method, three).metrics["seed_std"] > 0
