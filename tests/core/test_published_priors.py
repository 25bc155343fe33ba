"""Networks that predict noise or a score are the denoiser D(x, sigma), whatever schedule they were trained with."""

import numpy as np
import pytest
import torch
from torch import nn

from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.networks.adm import ADMUNet
from udig_recon.core.networks.ncsnpp import NCSNppUNet
from udig_recon.core.priors import published
from udig_recon.core.priors.published import EpsilonPrior, LinearSchedule, ScorePrior

BETAS = np.linspace(1e-4, 0.02, 1000)
KEPT = np.cumprod(1 - BETAS)
SIGMAS = np.sqrt((1 - KEPT) / KEPT)
MEAN, VARIANCE = 0.4, 0.09
NOISE_RANGE = (0.01, 378.0)


def schedule():
    return LinearSchedule(1e-4, 0.02, 1000)


class GaussianEpsilon(nn.Module):
    """E[n | sqrt(a) x0 + sqrt(1 - a) n] for x0 ~ N(MEAN, VARIANCE); a second half of channels that must not be used."""

    def forward(self, x, t):
        level = np.exp(np.interp(t.numpy(), np.arange(1000), np.log(SIGMAS)))
        a = torch.as_tensor(1 / (1 + level**2), dtype=torch.float32)[:, None, None, None]
        epsilon = (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * VARIANCE + 1 - a)
        return torch.cat([epsilon, torch.full_like(epsilon, float("nan"))], 1)


class GaussianScore(nn.Module):
    """The score of N(MEAN, VARIANCE) with noise sigma."""

    def forward(self, x, sigma):
        return -(x - MEAN) / (VARIANCE + sigma[:, None, None, None] ** 2)


def epsilon_prior(network, channels):
    return EpsilonPrior(network, channels, schedule())


GAUSSIAN = {
    "epsilon": lambda: epsilon_prior(GaussianEpsilon(), 2),
    "score": lambda: ScorePrior(GaussianScore(), 1, NOISE_RANGE),
}


@pytest.mark.parametrize("kind", GAUSSIAN)
@pytest.mark.parametrize("sigma", [0.012, 0.05, 0.3, 0.518, 2.0, 30.0, 150.0])
def test_of_gaussian_data_the_denoiser_is_the_posterior_mean(kind, sigma):
    x = MEAN + (VARIANCE + sigma**2) ** 0.5 * torch.randn(3, 2, 8, 9, generator=torch.Generator().manual_seed(0))
    expected = MEAN + VARIANCE / (VARIANCE + sigma**2) * (x - MEAN)
    assert torch.allclose(GAUSSIAN[kind]()(x, sigma), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_below_the_least_noise_the_denoiser_goes_to_the_identity(kind):
    prior, x = GAUSSIAN[kind](), torch.randn(1, 2, 8, 8)
    assert torch.equal(prior(x, 0.0), x)
    expected = MEAN + VARIANCE / (VARIANCE + 0.005**2) * (x - MEAN)
    assert torch.allclose(prior(x, 0.005), expected, atol=1e-5)


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_each_image_of_a_batch_has_its_own_noise_level(kind):
    prior, x, levels = GAUSSIAN[kind](), torch.randn(3, 2, 8, 8), torch.tensor([0.02, 0.4, 5.0])
    apart = torch.cat([prior(x[n : n + 1], float(level)) for n, level in enumerate(levels)])
    assert torch.allclose(prior(x, levels), apart, atol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("epsilon", "157.4"), ("score", "378")])
def test_noise_beyond_the_training_is_refused(kind, most):
    with pytest.raises(UnsupportedScan, match=f"noise levels up to {most}, found 400"):
        GAUSSIAN[kind]()(torch.zeros(1, 2, 8, 8), 400.0)


def test_predicted_noise_is_subtracted():
    # Tweedie: x0 = (x_t - sqrt(1 - a) eps) / sqrt(a) = x - sigma eps; with the sign of a score it would be added.
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 2, 8, 8, generator=rng)

    class Oracle(nn.Module):
        def forward(self, x, t):
            return torch.cat([noise, x], 1)

    for sigma in (0.1, 1.0, 20.0):
        assert torch.allclose(epsilon_prior(Oracle(), 2)(clean + sigma * noise, sigma), clean, atol=1e-5 * (1 + sigma))


def test_network_sees_the_image_with_its_variance_preserved():
    seen = []

    class Listener(nn.Module):
        def forward(self, x, t):
            seen.append((x, t))
            return torch.zeros_like(x)

    x = torch.randn(1, 1, 8, 8)
    epsilon_prior(Listener(), 1)(x, float(SIGMAS[149]))
    assert torch.allclose(seen[0][0], x * KEPT[149] ** 0.5, atol=1e-6)
    assert float(seen[0][1]) == pytest.approx(149, abs=0.01)


def test_time_rises_with_the_noise_level_and_is_exact_at_every_step():
    times = schedule()(torch.as_tensor(SIGMAS, dtype=torch.float32))
    assert np.allclose(times.numpy(), np.arange(1000), atol=0.02)
    fine = schedule()(torch.logspace(-2, 2.19, 5000))
    assert (fine.diff() > 0).all()
    assert float(fine.min()) >= 0
    assert float(fine.max()) <= 999


def test_noise_level_0_518_is_150_steps_of_noise():
    # The networks count from 0: after the 150th step they are given t = 149.
    assert float(schedule()(torch.tensor([0.5182]))) + 1 == pytest.approx(150, abs=0.05)


@pytest.mark.parametrize("kind", ["adm", "ncsnpp"])
def test_network_of_one_channel_denoises_real_and_imaginary_part_apart(kind):
    prior, x = tiny(kind, 1), torch.randn(2, 2, 8, 8)
    parts = [prior(x[:, part : part + 1], 0.3) for part in (0, 1)]
    assert torch.allclose(prior(x, 0.3), torch.cat(parts, 1), atol=1e-2)


@pytest.mark.parametrize("kind", ["adm", "ncsnpp"])
@pytest.mark.parametrize("size", [(8, 8), (7, 13), (3, 6)])
def test_any_height_and_width_is_denoised(kind, size):
    x = torch.randn(1, 2, *size)
    denoised = tiny(kind, 2)(x, torch.tensor([0.3]))
    assert denoised.shape == x.shape
    assert denoised.isfinite().all()


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_training_on_another_range_is_undone(kind):
    # Data of N(MEAN, VARIANCE) seen as -1 to 1, where the image has 0 to 1.
    plain = GAUSSIAN[kind]()
    wider = (
        EpsilonPrior(plain.network, 2, schedule(), (-1.0, 1.0))
        if kind == "epsilon"
        else ScorePrior(plain.network, 1, NOISE_RANGE, (-1.0, 1.0))
    )
    x = torch.randn(1, 2, 8, 8)
    assert torch.allclose(2 * wider((x + 1) / 2, 0.2) - 1, plain(x, 0.4), atol=1e-5)


def tiny(kind, channels):
    torch.manual_seed(0)
    if kind == "adm":
        return epsilon_prior(ADMUNet(channels, 32, (1, 2), 1), channels).eval().requires_grad_(False)
    return ScorePrior(NCSNppUNet(channels, 8, (1, 2), 1, 10), channels, NOISE_RANGE).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["adm", "ncsnpp"])
def test_half_the_precision_changes_the_step_by_a_few_percent(kind, monkeypatch):
    prior, x = tiny(kind, 2), torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    steps = []
    for fast in (False, True):
        monkeypatch.setattr(published, "has_fast_bfloat16", lambda _, fast=fast: fast)
        steps.append(prior(x, 0.3) - x)
    assert (steps[0] - steps[1]).norm() < 0.05 * steps[0].norm()
