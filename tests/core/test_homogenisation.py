"""Noise of purification: homogenised, antithetic, and ADMM's dual variable beside it."""

import itertools

import numpy as np
import pytest
import torch

from udig_recon.core.algorithms.udig_dip import udig_dip
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.operators import XRayTransform
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.priors.homogenisation import homogenise
from udig_recon.core.priors.noise_levels import antithetic_normal


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def smooth(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2)


def band_levels(image: torch.Tensor) -> list[float]:
    """Noise level of an image by rings of frequency."""
    power = torch.fft.fft2(image).abs().square()[0, 0] / image.numel()
    cycles = torch.fft.fftfreq(image.shape[-1])
    radius = torch.hypot(cycles[:, None], cycles)
    edges = (0.03, 0.1, 0.2, 0.3, 0.5)
    return [float(power[(radius >= low) & (radius < high)].mean().sqrt()) for low, high in itertools.pairwise(edges)]


def test_an_error_of_any_colour_becomes_white_noise_of_the_level() -> None:
    shape, sigma = (1, 1, 128, 128), 0.3
    error = smooth(torch.randn(shape, generator=generator()))
    assert max(band_levels(error)) > 3 * min(band_levels(error))
    noise = homogenise(torch.randn(shape, generator=torch.Generator().manual_seed(5)), error, sigma)
    strong = max(band_levels(error)[0], sigma)  # what is above the level already gets nothing
    levels = band_levels(error + noise)
    assert levels[0] == pytest.approx(strong, rel=0.1)
    assert levels[2:] == pytest.approx([sigma] * 2, rel=0.1)


def test_no_error_gets_white_noise() -> None:
    noise = torch.randn((2, 1, 16, 16), generator=generator())
    assert torch.allclose(homogenise(noise, torch.zeros_like(noise), 0.2), 0.2 * noise, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3, 9), (2, 2, 1, 1)])
def test_noise_is_made_for_images_smaller_than_the_smoothing(shape: tuple[int, ...]) -> None:
    assert homogenise(torch.ones(shape), torch.ones(shape), 0.1).shape == shape


def test_antithetic_noise_comes_in_pairs_of_sum_zero() -> None:
    noise = antithetic_normal(torch.empty(5, 1, 64, 64), generator())
    assert torch.equal(noise[:2], -noise[3:])
    assert noise.std() == pytest.approx(1, abs=0.03)


ADMM = UDiGDIP(
    outer_iterations=4,
    samples=2,
    noise_scale=1.0,
    noise="homogenised",
    antithetic=True,
    dual_step=1.0,
    consistency_iterations=3,
    consistency_weight=0.3,
)


def last(iterates: Iterates) -> Iterate:
    *_, iterate = iterates
    return iterate


def runs(p: UDiGDIP, state: State | None = None) -> Iterates:
    A = XRayTransform(np.arange(8) * np.pi / 8, 16, 25, 1.0, 1.0)
    image = torch.rand(1, 1, 16, 16, generator=generator())
    y = A.forward(image)
    y = y + 0.01 * torch.randn(y.shape, generator=generator())
    network = torch.nn.Linear(1, 1)
    return udig_dip(y, A, torch.zeros_like(image), network, lambda x, _: smooth(x), p, generator(), state)


def test_a_run_with_a_dual_variable_resumes_with_the_same_bits() -> None:
    states = [each.state() if each.state is not None else None for each in runs(ADMM)]
    whole = last(runs(ADMM))
    for state in states[2:-1:2]:
        assert torch.equal(last(runs(ADMM, state)).image, whole.image)


def test_without_a_step_the_dual_variable_stays_zero() -> None:
    plain = ADMM.model_copy(update={"dual_step": 0.0})
    end = last(runs(plain))
    assert not torch.equal(end.image, last(runs(ADMM)).image)
    assert end.state is not None
    assert not end.state()["dual"].any()
