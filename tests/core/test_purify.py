"""Purification where the answer is known: the prior N(0, s^2) has D(x, sigma) = x s^2 / (s^2 + sigma^2)."""

import math

import pytest
import torch

from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.priors.purify import Symmetry, purify, rotate_phase
from udig_recon.core.random_numbers import derived, on_host

S = 0.7


def gaussian(x, sigma):
    return x * S**2 / (S**2 + sigma**2)


def walk(x, sigma, **knobs):
    rng = torch.Generator().manual_seed(1)
    *_, last = purify(gaussian, x, sigma, UDiGDIP(**{"symmetries": False, **knobs}), rng)
    return last


def test_level_zero_is_the_identity():
    x = torch.randn(1, 2, 8, 8)
    assert torch.allclose(walk(x, 1e-6), x, atol=1e-5)


def test_one_call_without_noise_is_the_denoiser():
    x = torch.randn(1, 1, 8, 8)
    assert torch.allclose(walk(x, 0.5), gaussian(x, 0.5))


def test_many_calls_keep_the_priors_variance():
    # The deterministic walk maps N(0, s^2 + sigma^2) onto N(0, s^2): x -> x s / sqrt(s^2 + sigma^2).
    x = S * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(2))
    purified = walk(x, 0.5, prior_calls=200, noise_scale=1.0)
    assert float(purified.std()) == pytest.approx(S, rel=0.01)


def test_symmetries_do_not_move_what_an_equivariant_prior_gives():
    x = torch.randn(1, 2, 9, 12)
    assert torch.allclose(walk(x, 0.4, symmetries=True), walk(x, 0.4), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_symmetry_undone_is_the_identity_and_keeps_the_norm(channels):
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, channels, 7, 10)
    for _ in range(20):
        turn = Symmetry.draw(channels, rng)
        assert float(turn.apply(x).norm()) == pytest.approx(float(x.norm()), rel=1e-5)
        assert torch.allclose(turn.undo(turn.apply(x)), x, atol=1e-6)


def test_phase_is_multiplication_by_a_unit_complex_number():
    x = torch.randn(1, 2, 4, 4)
    turned = rotate_phase(x, math.pi / 3)
    expected = torch.complex(x[:, 0], x[:, 1]) * torch.exp(torch.tensor(1j * math.pi / 3))
    assert torch.allclose(torch.complex(turned[:, 0], turned[:, 1]), expected, atol=1e-6)


def test_what_the_host_draws_follows_from_the_state_of_the_device():
    states = [torch.Generator().manual_seed(seed).get_state() for seed in (1, 1, 2)]
    first, again, other = (torch.rand(3, generator=derived(state)) for state in states)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    rng = torch.Generator()
    assert on_host(rng) is rng
