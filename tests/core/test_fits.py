"""Laws of the relatives of the deep image prior, with a network of a few kernels."""

from itertools import pairwise

import torch

from tests.support.matrix_operator import Matrix
from tests.support.toy_inputs import ToyInputs
from udig_recon.core.algorithms.aseq_dip import aseq_dip
from udig_recon.core.algorithms.es_dip import es_dip
from udig_recon.core.algorithms.oes import Masked
from udig_recon.core.algorithms.self_guided_dip import self_guided_dip
from udig_recon.core.algorithms.tv_dip import total_variation, tv_dip
from udig_recon.core.networks.dip import initialise
from udig_recon.core.parameters import ESDIP, TVDIP, ASeqDIP, SelfGuidedDIP

SHAPE = (1, 6, 6)


def network():
    kernels = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 1))
    return initialise(kernels, rng())


def rng():
    return torch.Generator().manual_seed(0)


def scan():
    """Half of the pixels of a square, measured one by one."""
    A = Matrix(torch.eye(36)[::2], SHAPE)
    image = torch.zeros(1, *SHAPE)
    image[..., 1:4, 2:5] = 1
    return A, A.forward(image)


def fitted(method, p):
    A, y = scan()
    return list(method(ToyInputs(y, A, network=network), p, rng()))


def test_an_early_stop_gives_the_output_that_varied_least_and_ends_the_run():
    found = fitted(
        es_dip,
        ESDIP(iterations=400, learning_rate=0.05, variance_patience=20, warm_up=5, averaging=0.0, input_channels=1),
    )
    assert len(found) < 400
    assert found[-1].step == found[-1].steps
    assert all(torch.equal(it.image, found[-1].image) for it in found[-20:])
    whole = fitted(es_dip, ESDIP(iterations=30, variance_patience=100, input_channels=1))
    assert [it.step for it in whole] == list(range(1, 31))


def test_total_variation_in_the_loss_smooths_the_output():
    rough, smooth = (
        fitted(tv_dip, TVDIP(iterations=150, learning_rate=0.02, weight=weight, averaging=0.0, input_channels=1))[
            -1
        ].image
        for weight in (0.0, 0.1)
    )
    assert float(total_variation(smooth)) < 0.8 * float(total_variation(rough))


def test_an_input_that_is_the_output_moves_and_one_that_is_learnt_does_too():
    A, y = scan()
    z = A.adjoint(y)
    for method, p in ((aseq_dip, ASeqDIP(iterations=5)), (self_guided_dip, SelfGuidedDIP(iterations=5, draws=2))):
        states = [it.state()["model"]["z"].clone() for it in fitted(method, p)[-1:]]
        assert not torch.equal(states[0], z)


def test_an_input_is_held_between_two_outputs():
    A, y = scan()
    path = aseq_dip(ToyInputs(y, A, network=network), ASeqDIP(iterations=6), rng())
    inputs = [it.state()["model"]["z"].clone() for it in path]
    assert torch.equal(inputs[0], A.adjoint(y))
    moved = [not torch.equal(a, b) for a, b in pairwise(inputs)]
    assert moved == [True, False, True, False, True]


def test_pruning_keeps_the_likeliest_share_of_the_weights():
    model = Masked(network(), 0.25)
    with torch.no_grad():
        for logits in model.logits:
            logits.copy_(torch.randn(logits.shape, generator=rng()))
    masks = torch.cat([mask.flatten() for mask in model.prune(0.25)]).bool()
    logits = torch.cat([each.detach().flatten() for each in model.logits])
    assert int(masks.sum()) == round(0.25 * len(masks))
    assert float(logits[masks].min()) >= float(logits[~masks].max())
    z = torch.rand(1, *SHAPE, generator=rng())
    assert torch.equal(model(z, [torch.ones_like(each) for each in model.logits]), model.network(z))
    assert float(model.divergence(0.25).detach()) > 0
    assert abs(float(Masked(network(), 0.25).divergence(0.25).detach())) < 1e-4
