"""Loops of the engine never wait for a GPU, and launch few kernels: run on tensors without data.

A tensor of the device `meta` has a shape and nothing else, so whatever must know a value on the host fails: `item`,
`tolist`, `bool`, `nonzero`, a mask as an index, a copy to the CPU. Every operation that is not a view is one launch.
"""

import contextlib
import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from udig_recon.core.acquisition import Modality
from udig_recon.core.algorithms.tv import total_variation
from udig_recon.core.algorithms.udig_dip import udig_dip
from udig_recon.core.operators import MultiCoilMRI
from udig_recon.core.operators.solvers import conjugate_gradient_iterates, proximal
from udig_recon.core.parameters import UDiGDIP, complete
from udig_recon.core.priors import edm
from udig_recon.core.priors.body_box import BodyBox
from udig_recon.core.priors.edm import EDMPrior
from udig_recon.core.priors.purify import purify
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, poisson_disc

SIZE = 32
FREE = {
    *("view", "reshape", "slice", "select", "expand", "unsqueeze", "squeeze", "permute", "transpose", "t", "split"),
    *("split_with_sizes", "unbind", "alias", "detach", "as_strided", "real", "imag", "view_as_real"),
    *("view_as_complex", "_conj", "_unsafe_view", "lift_fresh", "empty", "empty_like", "new_empty", "empty_strided"),
}
"""Operations of PyTorch that launch nothing."""


class Launches(TorchDispatchMode):
    """Counts the operations on tensors of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        on_device = any(isinstance(each, Tensor) and each.is_meta for each in torch.utils._pytree.tree_leaves(result))
        self.count += on_device and function.overloadpacket.__name__ not in FREE
        return result


def without_data(A: MultiCoilMRI) -> MultiCoilMRI:
    """The operator on the device `meta`; its noise, which is estimated once a slice, is known."""
    other = copy.copy(A)
    for name, value in vars(A).items():
        setattr(other, name, value.to("meta") if isinstance(value, Tensor) else value)
    other.noise_level = lambda _: 0.01
    return other


@pytest.fixture(params=["lines", "points"])
def A(request) -> MultiCoilMRI:  # noqa: N802 -- the operator is called so everywhere
    shape, rng = (SIZE, SIZE), np.random.default_rng(0)
    mask = cartesian_lines(shape, 2, 0.2, rng) if request.param == "lines" else poisson_disc(shape, 2, 6, rng)
    return without_data(MultiCoilMRI(torch.from_numpy(birdcage_maps(4, shape)), torch.from_numpy(mask)))


@pytest.fixture
def prior(monkeypatch) -> EDMPrior:
    monkeypatch.setattr(edm, "has_fast_bfloat16", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which `meta` does not have
    return EDMPrior(2, (8, 16), 1).to("meta").requires_grad_(False)


def nothing(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launches(count: int, iterates) -> float:
    """Of an iteration, on average over so many after the first."""
    next(iterates)
    with Launches() as seen:
        assert sum(1 for _ in islice(iterates, count)) == count
    return seen.count / count


def test_what_a_host_must_know_fails_without_data():
    x = nothing(3)
    waits = (x.tolist, x.cpu, lambda: float(x.sum()), lambda: bool((x > 0).any()), lambda: x[x > 0], x.nonzero)
    for wait in waits:
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


def test_the_normal_map_is_applied_in_few_launches(A):
    with Launches() as seen:
        A.normal(nothing(1, 2, SIZE, SIZE))
    assert seen.count <= 11


def test_conjugate_gradients_never_wait(A):
    x = nothing(1, 2, SIZE, SIZE)
    assert launches(8, conjugate_gradient_iterates(A.normal, x, x)) <= 28
    proximal(A.normal, x, x, 0.1, 8)


@pytest.mark.parametrize("weight", [0.01, 1e-4])
def test_total_variation_never_waits(A, weight):
    y = nothing(1, 4, SIZE, SIZE, dtype=torch.complex64)
    assert launches(5, total_variation(y, A, weight, torch.Generator(), None)) <= 180


def test_a_purification_never_waits(prior):
    p, x = complete(UDiGDIP(), Modality.MRI), nothing(1, 2, SIZE, SIZE)
    with Launches() as seen:
        *_, purified = purify(prior, x, 0.1, p, torch.Generator().manual_seed(0))
    assert purified.shape == x.shape
    assert seen.count <= 80


@pytest.mark.parametrize("preset", ["standard", "preview"])
def test_the_loop_of_udig_dip_never_waits(A, prior, preset, monkeypatch):
    monkeypatch.setattr(BodyBox, "around", BodyBox.whole)  # found once, before the loop
    p, y = complete(UDiGDIP(preset=preset), Modality.MRI), nothing(1, 4, SIZE, SIZE, dtype=torch.complex64)
    start, network = nothing(1, 2, SIZE, SIZE), torch.nn.Conv2d(1, 1, 1)
    iterates = udig_dip(y, A, start, network, prior, p, torch.Generator().manual_seed(0))
    assert launches(20, iterates) <= 330
