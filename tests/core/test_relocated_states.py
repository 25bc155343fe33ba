"""A state that was loaded onto a device, as checkpoints are, goes on to the same bits; there is no GPU in it.

Tensors of the state are told to lie elsewhere: what mixes them with others fails, as it would between devices, and so
does a generator that is set to one, since it takes tensors on the CPU alone.
"""

import copy
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from tests.support import scans
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters import METHODS, complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import ensemble

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
SHORT = dict.fromkeys(("iterations", "outer_iterations", "steps"), 4) | {"prior_calls": 2, "mask_iterations": 3}
MOVING = {torch.Tensor.to, torch.Tensor.cpu}
BETWEEN = {torch.Tensor.copy_}


class Elsewhere(torch.Tensor):
    """A tensor on another device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
            if func not in MOVING | BETWEEN and len({isinstance(leaf, cls) for leaf in leaves}) > 1:
                raise AssertionError(f"{func} of tensors on different devices")
            if func in MOVING:
                return func(args[0].as_subclass(torch.Tensor), *args[1:], **(kwargs or {})).clone()
            return tree_map(
                lambda part: far(part) if type(part) is torch.Tensor else part, func(*args, **(kwargs or {}))
            )


def far(tensor):
    """The tensor as it lies elsewhere."""
    return tensor.as_subclass(Elsewhere)


class Generator(torch.Generator):
    """Takes states on the CPU alone."""

    def set_state(self, state):
        assert not isinstance(state, Elsewhere), "RNG state must be a torch.ByteTensor"
        return super().set_state(state)


def moved(state):
    """A state as another device has it."""
    return tree_map(lambda part: far(part) if isinstance(part, torch.Tensor) else part, state)


@pytest.fixture(scope="module", params=list(Modality))
def problem(request, tmp_path_factory):
    parts = scans.mri(slices=1) if request.param is Modality.MRI else scans.ct(slices=1)
    parts["guide"] = np.sqrt(parts["reference"])
    path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan", **parts)
    return slice_problem(formats.read(path), 0, CPU)


def test_what_lies_elsewhere_fails_as_between_devices():
    state, rng = moved({"x": torch.ones(2), "rng": torch.Generator().get_state()}), Generator()
    with pytest.raises(AssertionError):
        state["x"] + torch.ones(2)
    with pytest.raises(AssertionError):
        rng.set_state(state["rng"])
    assert torch.equal(state["x"].to(CPU) + torch.ones(2), 2 * torch.ones(2))


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_state_of_every_method_may_have_been_loaded_onto_another_device(problem, name, seeds, monkeypatch):
    kind = METHODS[name]
    short = {knob: value for knob, value in SHORT.items() if knob in kind.model_fields}
    if problem.modality not in kind.modalities:
        return
    method = complete(parse({"method": name, **short}), problem.modality)
    if seeds > 1 and not (method.is_random and name in ("tv", "l1_wavelet", "dds", "udig_dip", "dip")):
        return
    for module in ("tv", "l1_wavelet"):
        monkeypatch.setattr(import_module(f"udig_recon.core.algorithms.{module}"), "TRIAL_ITERATIONS", 2)
    judged = import_module("udig_recon.core.algorithms.udig_dip_guarded")
    monkeypatch.setattr(judged, "ALONE", judged.ALONE._replace(tv=(2, 3)))
    monkeypatch.setattr(torch, "Generator", Generator)
    states = []
    for last in ensemble(problem, method, seed=5, seeds=seeds):
        if last.state is not None:
            states.append(copy.deepcopy(last.state()))
    for state in {0: states[0], 1: states[len(states) // 2], 2: states[-1]}.values() if states else ():
        *_, found = ensemble(problem, method, seed=5, seeds=seeds, state=moved(state))
        assert torch.equal(found.image, last.image)
