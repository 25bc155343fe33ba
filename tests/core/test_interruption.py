"""Whatever loop a computation is in, it asks whether to go on, and asking changes nothing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.support import scans
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.algorithms.initial_estimate import initial_estimate
from udig_recon.core.coils.espirit import espirit
from udig_recon.core.inputs import Inputs
from udig_recon.core.interruption import check_interruption, interruptible
from udig_recon.core.operators.radon import StripProjector
from udig_recon.core.operators.solvers import conjugate_gradient, operator_norm
from udig_recon.core.parameters import METHODS, complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.reconstruct import ensemble
from udig_recon.core.scan_geometry import Geometry

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
SHORTENED = dict.fromkeys(("iterations", "outer_iterations", "steps"), 2) | {"mask_iterations": 1}


class Stopped(Exception):
    """What the caller has the computation raise."""


class Count:
    """Counts how often it is asked, and stops the computation when it is asked for the `last` time."""

    def __init__(self, last: float = float("inf")) -> None:
        self.asked, self.last = 0, last

    def __call__(self) -> None:
        self.asked += 1
        if self.asked >= self.last:
            raise Stopped


def asked(computation) -> int:
    """How often a computation asks."""
    count = Count()
    with interruptible(count):
        computation()
    return count.asked


@pytest.fixture(scope="module", params=list(Modality))
def problem(request, tmp_path_factory):
    parts = scans.mri(slices=1) if request.param is Modality.MRI else scans.ct(slices=1)
    parts["guide"] = np.sqrt(parts["reference"])
    path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan", **parts)
    return slice_problem(formats.read(path), 0, CPU)


def image_of(problem, knobs, check=None):
    """The image of a method with few steps, and its assessment's signals."""
    short = {knob: value for knob, value in SHORTENED.items() if knob in METHODS[knobs["method"]].model_fields}
    method = complete(parse({**short, **knobs}), problem.modality)

    def computed():
        *_, last = ensemble(problem, method, seed=3)
        return last.image, assess(problem, method, last).metrics

    if check is None:
        return computed()
    with interruptible(check):
        return computed()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_stopped_wherever_it_asks_and_asking_does_not_change_a_bit(problem, name):
    if problem.modality not in METHODS[name].modalities:
        return
    knobs, count = {"method": name}, Count()
    image, metrics = image_of(problem, knobs)
    watched, same = image_of(problem, knobs, count)
    assert torch.equal(image, watched)
    assert metrics == same
    for last in {1, max(1, count.asked // 2), count.asked} if count.asked else ():
        with pytest.raises(Stopped):
            image_of(problem, knobs, Count(last))
    assert torch.equal(image, image_of(problem, knobs)[0])


def test_each_step_of_each_inner_loop_asks(problem):
    A, y = problem.operator, problem.measurements
    x = A.adjoint(y)
    assert asked(lambda: conjugate_gradient(A.normal, x, torch.zeros_like(x), 7)) == 7
    assert asked(lambda: operator_norm(A.normal, x + 1, iterations=5)) >= 2
    rng = torch.Generator().manual_seed(0)
    assert asked(lambda: Inputs(y, A).cg_estimate()) >= 8
    assert asked(lambda: initial_estimate(Inputs(y, A), "tv", rng)) >= 100
    many = {"method": "daps", "langevin_steps": 300, "steps": 1}
    assert asked(lambda: image_of(problem, many)) >= 300
    walk = {"method": "dcdp", "prior_calls": 9, "steps": 1}
    assert asked(lambda: image_of(problem, walk)) >= 9


def test_maps_and_projectors_ask_while_they_are_made():
    kspace = torch.from_numpy(scans.mri(slices=1)["kspace"][0])
    assert asked(lambda: espirit(kspace, (16, 16))) >= 20  # iterations of each block of rows
    angles = tuple(np.arange(180) * np.pi / 180)
    assert asked(lambda: StripProjector(Geometry(angles, 64, 91, 1.0, 1.0), CPU)) >= 8


def test_a_single_evaluation_of_a_network_can_be_stopped_in_every_layer_forward_and_backward():
    network = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(5)))
    z = torch.ones(1, 2, 8, 8)
    assert asked(lambda: network(z)) == 6
    assert asked(lambda: network(z).sum().backward()) >= 11
    for last in range(1, 12):
        with pytest.raises(Stopped), interruptible(Count(last)):
            network(z).sum().backward()


def test_outside_nothing_is_asked_and_inside_the_innermost_check_is():
    outer, inner = Count(), Count()
    check_interruption()
    with interruptible(outer):
        check_interruption()
        with interruptible(inner):
            check_interruption()
        check_interruption()
    check_interruption()
    nn.Identity()(torch.ones(1))
    assert (outer.asked, inner.asked) == (2, 1)


def test_a_run_that_was_stopped_in_an_inner_loop_goes_on_from_its_state_to_the_same_bits(problem):
    method = complete(parse({"method": "daps", "steps": 4, "langevin_steps": 3}), problem.modality)
    *_, whole = ensemble(problem, method, seed=1)
    total = asked(lambda: list(ensemble(problem, method, seed=1)))
    states = []
    with pytest.raises(Stopped), interruptible(Count(total // 2)):
        states.extend(copy.deepcopy(it.state()) for it in ensemble(problem, method, seed=1) if it.state is not None)
    *_, last = ensemble(problem, method, seed=1, state=states[-1])
    assert torch.equal(last.image, whole.image)
