"""The diffusion samplers where the answer is known: a Gaussian prior's posterior, or the published step by other means.

N(m, C) has D(x, s) = m + C (C + s^2)^-1 (x - m). With y = H x + n, n ~ N(0, v), the posterior has the precision
C^-1 + H^T H / v. Each published step is written anew here, with matrices, in the form of its paper.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.support.matrix_operator import SHAPE, VARIANCE, Matrix
from tests.support.toy_inputs import ToyInputs
from udig_recon.core.algorithms.daps import daps, gaussian, langevin
from udig_recon.core.algorithms.dcdp import dcdp
from udig_recon.core.algorithms.dds import dds
from udig_recon.core.algorithms.diffpir import diffpir
from udig_recon.core.algorithms.dps import dps
from udig_recon.core.algorithms.mcg import mcg
from udig_recon.core.algorithms.red_diff import red_diff
from udig_recon.core.algorithms.score_mri import score_mri
from udig_recon.core.operators import MultiCoilMRI, XRayTransform
from udig_recon.core.parameters import DAPS, DCDP, DDS, DPS, MCG, DiffPIR, REDDiff, ScoreMRI
from udig_recon.core.priors.noise_levels import noise_schedule


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def problem():
    """Four mixed measurements of six pixels whose prior has unequal and correlated variances."""
    H = numbers(4, 6, seed=1)
    A = Matrix(H / torch.linalg.matrix_norm(H, 2))
    root = numbers(6, 6, seed=2) / 2
    prior = Gaussian(1 + numbers(6, seed=3), root @ root.T + 0.1 * torch.eye(6))
    y = A.forward((1 + numbers(6, seed=4)).reshape(1, *SHAPE)) + 0.2 * numbers(1, 1, 1, 4, seed=5)
    return A, prior, y


class Gaussian:
    """The denoiser of N(m, C), and its posterior."""

    def __init__(self, m, C):
        self.m, self.C = m, C

    def __call__(self, x, sigma):
        gain = self.C @ torch.linalg.inv(self.C + sigma**2 * torch.eye(len(self.C)))
        return (self.m + (x.flatten(1) - self.m) @ gain.T).reshape(x.shape)

    def posterior(self, A, y):
        """Mean and covariance."""
        C = torch.linalg.inv(torch.linalg.inv(self.C) + A.H.T @ A.H / A.level**2)
        return C @ (torch.linalg.solve(self.C, self.m) + A.H.T @ y.flatten() / A.level**2), C


class Tiny(torch.nn.Module):
    """A denoiser that is a network: nothing about it is linear."""

    def __init__(self, shape=SHAPE):
        super().__init__()
        n = math.prod(shape)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.layers = torch.nn.Sequential(torch.nn.Linear(n + 1, 16), torch.nn.Tanh(), torch.nn.Linear(16, n))
        self.requires_grad_(False)

    def forward(self, x, sigma):
        level = torch.full((len(x), 1), math.log(sigma))
        return self.layers(torch.cat([x.flatten(1) / math.sqrt(1 + sigma**2), level], 1)).reshape(x.shape)


def chains(samples, shape=SHAPE):
    return torch.zeros(samples, *shape)


def last(iterates):
    *_, it = iterates
    return it.state()["x"].flatten(1)


def steps(iterates):
    """x (1, n) after each step."""
    return [it.state()["x"].flatten(1) for it in iterates]


def draws(A, p, seed=0):
    """The noise that a chain of one draws: at the start, then what a step asks for."""
    rng = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape or (1, *A.image_shape), generator=rng).flatten(1)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def agree(found, expected, tolerance=1e-4):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).norm()) <= tolerance * float(b.norm())


def is_posterior(x, mean, C):
    """Mean within 2 %, standard deviation of every pixel within 10 %."""
    assert float((x.mean(0) - mean).norm()) <= 0.02 * float(mean.norm())
    assert x.std(0) / C.diagonal().sqrt() == pytest.approx(1.0, abs=0.1)


@pytest.mark.long
def test_daps_samples_the_posterior(problem):
    A, prior, y = problem
    p = DAPS(steps=400, noise_level=3.0, final_noise_level=0.02, spread=1.0, langevin_steps=0)
    is_posterior(last(daps(ToyInputs(y, A, denoiser=prior, estimate=chains(4000)), p, rng())), *prior.posterior(A, y))


@pytest.mark.long
def test_daps_samples_the_posterior_by_langevin(problem):
    A, prior, y = problem
    p = DAPS(steps=200, noise_level=3.0, final_noise_level=0.03, spread=1.0, langevin_steps=40)
    is_posterior(last(daps(ToyInputs(y, A, denoiser=prior, estimate=chains(4000)), p, rng())), *prior.posterior(A, y))


@pytest.mark.parametrize("by", ["langevin", "perturbation"])
def test_both_draws_of_daps_have_the_law_of_centre_and_data(problem, by):
    A, _, y = problem
    centre, spread = chains(8000) + 0.5, 0.09
    rhs = A.adjoint(y)
    if by == "langevin":
        x = langevin(A, rhs, centre, spread, VARIANCE, DAPS(langevin_steps=400, langevin_rate=0.1), rng())
    else:
        x = gaussian(y, A, rhs, centre, spread, VARIANCE, 10, rng())
    C = torch.linalg.inv(torch.eye(6) / spread + A.H.T @ A.H / VARIANCE)
    is_posterior(x.flatten(1), C @ (0.5 / spread + rhs.flatten() / VARIANCE), C)


def test_score_mri_samples_what_is_not_measured_and_keeps_what_is():
    """Under a prior of independent pixels, half of them measured without noise, this is the posterior."""
    shape, n = (1, 8, 8), 64
    A = Matrix(torch.eye(n)[::2], shape)
    prior = Gaussian(1 + numbers(n, seed=3), torch.diag(0.2 + numbers(n, seed=4).abs()))
    y = A.forward(numbers(1, *shape, seed=5))
    p = ScoreMRI(steps=200, noise_level=10.0, final_noise_level=0.01)
    x = last(score_mri(ToyInputs(y, A, denoiser=prior, estimate=chains(4000, shape)), p, rng()))
    assert torch.allclose(x[:, ::2], y.flatten().expand(4000, -1), atol=1e-4)
    is_posterior(x[:, 1::2], prior.m[1::2], prior.C[1::2, 1::2])


def test_score_mri_by_coils_is_that_of_the_image_where_there_is_one_coil():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, ::2] = True
    A = MultiCoilMRI(torch.ones(1, 8, 8, dtype=torch.complex64), mask)
    x = numbers(1, 2, 8, 8, seed=1)
    y = A.forward(x)
    prior = Tiny((2, 8, 8))
    combined, separate = (
        [
            it.image
            for it in score_mri(ToyInputs(y, A, denoiser=prior, estimate=x), ScoreMRI(steps=5, coils=coils), rng())
        ]
        for coils in ("combined", "separate")
    )
    agree(separate, combined)


def kept(sigma):
    """The a of the variance preserving process at that level."""
    return 1 / (1 + sigma**2)


@pytest.mark.parametrize("schedule", ["geometric", "linear_vp"])
def test_dps_takes_the_published_steps(problem, schedule):
    """Ancestral steps of x_t = sqrt(a) x0 + sqrt(1 - a) n, less zeta grad_(x_t) |y - H x0(x_t)|."""
    A, _, y = problem
    prior, p = Tiny(), DPS(steps=6, step_size=0.7, schedule=schedule)
    levels, draw = noise_schedule(p), draws(A, p)
    x = math.sqrt(kept(levels[0])) * levels[0] * draw()
    expected = []
    for here, there in pairwise(levels):
        a, after = kept(here), kept(there)
        x = x.requires_grad_()
        score = (prior((x / math.sqrt(a)).reshape(1, *SHAPE), here).flatten(1) * math.sqrt(a) - x) / (1 - a)
        x0 = (x + (1 - a) * score) / math.sqrt(a)
        (gradient,) = torch.autograd.grad((y.flatten() - x0 @ A.H.T).norm(), x)
        alpha = a / after
        mean = (math.sqrt(alpha) * (1 - after) * x + math.sqrt(after) * (1 - alpha) * x0) / (1 - a)
        noise = math.sqrt((1 - after) / (1 - a) * (1 - alpha)) * draw()
        x = (mean + noise - p.step_size * gradient).detach()
        expected.append(x / math.sqrt(after))
    agree(steps(dps(ToyInputs(y, A, denoiser=prior, estimate=chains(1)), p, rng())), expected)


def conjugate_gradients(M, b, x, iterations):
    """Written with matrices."""
    r = b - M @ x
    d = r
    for _ in range(iterations):
        step = (r @ r) / (d @ M @ d)
        x, previous, r = x + step * d, r, r - step * M @ d
        d = r + (r @ r) / (previous @ previous) * d
    return x


@pytest.mark.parametrize("gamma", [None, 3.0])
def test_dds_takes_the_published_steps(problem, gamma):
    """x = sqrt(a') x0' + sqrt(1 - a') (eta n + sqrt(1 - eta^2) eps), x0' by CG on I + gamma H^T H, or on H^T H."""
    A, _, y = problem
    prior, p = Tiny(), DDS(steps=6, consistency_weight=gamma, consistency_iterations=2)
    levels, draw = noise_schedule(p), draws(A, p)
    x = math.sqrt(kept(levels[0])) * levels[0] * draw()
    HtH, Hty = A.H.T @ A.H, A.H.T @ y.flatten()
    expected = []
    for here, there in pairwise(levels):
        a, after = kept(here), kept(there)
        x0 = prior((x / math.sqrt(a)).reshape(1, *SHAPE), here).flatten()
        eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        M, b = (HtH, Hty) if gamma is None else (torch.eye(6) + gamma * HtH, x0 + gamma * Hty)
        found = conjugate_gradients(M, b, x0, 2)
        mixed = p.stochasticity * draw() + math.sqrt(1 - p.stochasticity**2) * eps
        x = math.sqrt(after) * found + math.sqrt(1 - after) * mixed
        expected.append(x / math.sqrt(after))
    agree(steps(dds(ToyInputs(y, A, denoiser=prior, estimate=chains(1)), p, rng())), expected)


def test_diffpir_takes_the_published_steps(problem):
    """x0' = argmin |y - H x|^2 + rho |x - x0|^2, rho = lambda v a / (1 - a), and noise beside that of x0'."""
    A, _, y = problem
    prior, p = Tiny(), DiffPIR(steps=6, consistency_weight=2.0, consistency_iterations=12)
    levels, draw = noise_schedule(p), draws(A, p)
    x = math.sqrt(kept(levels[0])) * levels[0] * draw()
    expected = []
    for here, there in pairwise(levels):
        a, after = kept(here), kept(there)
        x0 = prior((x / math.sqrt(a)).reshape(1, *SHAPE), here).flatten()
        rho = p.consistency_weight * VARIANCE * a / (1 - a)
        found = torch.linalg.solve(A.H.T @ A.H + rho * torch.eye(6), A.H.T @ y.flatten() + rho * x0)
        eps = (x - math.sqrt(a) * found) / math.sqrt(1 - a)
        mixed = math.sqrt(p.stochasticity) * draw() + math.sqrt(1 - p.stochasticity) * eps
        x = math.sqrt(after) * found + math.sqrt(1 - after) * mixed
        expected.append(x / math.sqrt(after))
    agree(steps(diffpir(ToyInputs(y, A, denoiser=prior, estimate=chains(1)), p, rng())), expected, 1e-3)


def test_red_diff_takes_the_published_steps(problem):
    """Adam on |y - H mu|^2 / 2 + lambda (sigma_t / alpha_t) [eps(x_t) - n] . mu, x_t = alpha_t mu + sigma_t n."""
    A, _, y = problem
    prior, p = Tiny(), REDDiff(steps=8)
    levels, draw = noise_schedule(p), draws(A, p)
    mu, first, second = torch.zeros(1, 6), 0.0, 0.0
    expected = []
    for t, level in enumerate(levels[:-1], 1):
        alpha, sigma, n = math.sqrt(kept(level)), math.sqrt(1 - kept(level)), draw()
        x = alpha * mu + sigma * n
        eps = (x - alpha * prior((x / alpha).reshape(1, *SHAPE), level).flatten(1)) / sigma
        slope = (mu @ A.H.T - y.flatten()) @ A.H + p.weight * sigma / alpha * (eps - n)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        mu = mu - p.learning_rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        expected.append(mu)
    agree(steps(red_diff(ToyInputs(y, A, denoiser=prior, estimate=chains(1)), p, rng())), expected)


def test_dcdp_takes_the_published_steps(problem):
    """Gradient steps on |y - H v|^2 from x, here conjugate, then x = D(v + s n, s)."""
    A, _, y = problem
    prior, p = Tiny(), DCDP(steps=5, consistency_iterations=2)
    draw, x = draws(A, p), torch.zeros(6)
    expected = []
    for level in noise_schedule(p)[:-1]:
        v = conjugate_gradients(A.H.T @ A.H, A.H.T @ y.flatten(), x, 2)
        x = prior((v + level * draw()).reshape(1, *SHAPE), level).flatten()
        expected.append(x[None])
    agree(steps(dcdp(ToyInputs(y, A, denoiser=prior, estimate=chains(1)), p, rng())), expected)


def test_mcg_takes_the_published_steps():
    """Predictor, corrector, d = (1 - A^+ A) grad |FBP(y - A x0)|, Kaczmarz, with matrices."""
    A = XRayTransform(np.arange(4) * np.pi / 4, 6, 9, 1.0, 1.0)
    pixels = torch.eye(36).reshape(36, 1, 6, 6)
    H = A.forward(pixels).flatten(1).T
    rays = torch.eye(36).reshape(36, 1, 4, 9)
    back = A.direct(rays).flatten(1).T
    y = A.forward(numbers(1, 1, 6, 6, seed=1).abs())
    prior, p = Tiny(A.image_shape), MCG(steps=5, projection_iterations=24, noise_level=0.5)
    levels, draw = noise_schedule(p), draws(A, p)

    def score(x, level):
        return (prior(x.reshape(1, 1, 6, 6), level).flatten() - x) / level**2

    x, expected = levels[0] * draw().flatten(), []
    unseen = torch.eye(36) - torch.linalg.pinv(H.double(), rtol=1e-6).float() @ H
    for k, (here, there) in enumerate(pairwise(levels)):
        gap = here**2 - there**2
        x = x + gap * score(x, here) + math.sqrt(gap) * draw().flatten()
        x = x.requires_grad_()
        g, z = score(x, here), draw().flatten()
        size = 2 * (p.corrector_ratio * z.norm() / g.norm()).detach() ** 2
        moved = (x + size * g + (2 * size).sqrt() * z).detach()
        (d,) = torch.autograd.grad((back @ (y.flatten() - H @ (x + here**2 * g))).norm(), x)
        kaczmarz = H.T @ (y.flatten() - H @ moved) / (H.T @ H @ torch.ones(36))
        x = moved + (1 - 0.4 * k / 5) * kaczmarz - p.gradient_weight * unseen @ d
        expected.append(x[None])
    agree(steps(mcg(ToyInputs(y, A, denoiser=prior, estimate=chains(1, A.image_shape)), p, rng())), expected, 0.01)


@pytest.mark.parametrize("schedule", ["geometric", "linear_vp"])
def test_noise_levels_fall_from_the_first_to_the_last_and_end_at_none(schedule):
    levels = noise_schedule(DDS(steps=9, noise_level=80.0, final_noise_level=0.02, schedule=schedule))
    assert levels == sorted(levels, reverse=True)
    assert (len(levels), levels[-1]) == (10, 0.0)
    assert (levels[0], levels[-2]) == pytest.approx((80.0, 0.02), rel=1e-4)


def test_the_linear_schedule_is_that_of_ddpm():
    """T = 1000 steps: a of its steps 1000 and 1 are the ends; 150 steps of noise are 0.518."""
    levels = noise_schedule(DDS(steps=1000, noise_level=157.0, final_noise_level=0.01, schedule="linear_vp"))
    assert levels[1000 - 150] == pytest.approx(0.518, rel=0.01)
