"""uDiG-DIP: a network is fitted to one scan while a diffusion prior purifies its input (Liang et al. 2025)."""

from functools import partial
from typing import Any, SupportsFloat

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.coils.joint_maps import has_coil_maps, refit_maps
from udig_recon.core.iterates import Iterate, Iterates, Misfit, Resumable, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import proximal
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.priors.body_box import BodyBox
from udig_recon.core.priors.homogenisation import homogenise
from udig_recon.core.priors.noise_levels import antithetic_normal, normal_like
from udig_recon.core.priors.purify import Denoiser, adds_noise, purify

SMALLEST_WEIGHT = 1e-5
"""Least weight of the purified input against the data: it keeps unmeasured parts where the prior put them."""


def udig_dip(
    y: Tensor,
    A: LinearOperator,
    z: Tensor,
    network: nn.Module,
    prior: Denoiser,
    p: UDiGDIP,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """Algorithm 1 of Liang et al. (2025): K times N steps on |A f(z) - y|^2 + lambda |f(z) - z|^2, then z <- DP(f(z)).

    z (1, C, H, W) is the start. Purified inputs are pulled to the data by a few conjugate gradient steps unless
    `consistency_iterations` is 0, as the paper has it, with coil maps that are refitted to every `maps_period`-th
    purified input. The image is f(z) after the last purification (step 5), or as `output` says. `samples` inputs run in
    parallel, each with its own noise, and the image is their mean: each approaches a draw from the posterior, and the
    mean of draws has a smaller error than any of them.

    With `dual_step` the two steps are ADMM's (Boyd et al. 2011, section 3.1.1): f(z) + u is purified, what comes of it
    less u is pulled to the data, and the scaled dual variable u grows by the difference of the two images. Where no
    network is fitted, the prior sees the body alone (`BodyBox`), and where no noise is added either, its input is
    z + `momentum` (z - z_before), after Polyak (1964): a third of the iterations reach the same image.
    """
    resumable = Resumable(rng)
    if p.inner_iterations > 0:  # the first optimiser of a process takes PyTorch a second to load
        optimiser = torch.optim.Adam(network.parameters(), p.learning_rate)
        resumable = Resumable(rng, network=network, optimiser=optimiser)
    rhs, noise = A.adjoint(y), A.noise_level(y)
    z = z.expand(p.samples, -1, -1, -1)
    mean, before, first = z, z, 0
    dual, denoised = torch.zeros_like(z), z
    box = BodyBox.whole(z) if p.inner_iterations else BodyBox.around(z)
    refits_maps, remembers = p.maps_period > 0 and has_coil_maps(A), p.dual_step > 0 or p.noise == "homogenised"
    if state is not None:
        values = resumable.restore(state, z.device)
        z, mean, before, first = values["z"], values["mean"], values["before"], values["step"]
        dual, denoised = values.get("dual", dual), values.get("denoised", denoised)
        box = BodyBox(*values["box"])
        if has_coil_maps(A) and "maps" in values:
            A = A.with_maps(values["maps"])
            rhs = A.adjoint(y)
    loss: SupportsFloat = Misfit(A, z, y)
    image, model = z.mean(0, keepdim=True), A if refits_maps else None
    for k in range(first, p.outer_iterations):
        for _ in range(p.inner_iterations):
            loss = update(network, optimiser, z, y, A, p.autoencoding_weight)
            yield Iterate(k, p.outer_iterations, image, loss, operator=model)
        if k % p.purification_period == 0:
            sigma = noise_level(k, p)
            draw = partial(draw_noise, p, box.crop(denoised))
            ahead, before = z + momentum(p, sigma) * (z - before), z
            for purified in purify(prior, box.crop(apply_network(network, ahead, p) + dual), sigma, p, rng, draw):
                z = box.pad(purified, ahead)
                yield Iterate(k, p.outer_iterations, image, loss, operator=model)
            denoised = z
            if refits_maps and k % p.maps_period == 0 and has_coil_maps(A):
                A = refit_maps(A, y, z.mean(0, keepdim=True))
                rhs = A.adjoint(y)
            z = consistent(denoised - dual, rhs, A, p, noise / sigma)
            if p.dual_step > 0:
                dual = dual + p.dual_step * (z - denoised * A.support)
        output = apply_network(network, z, p)
        if p.output == "consistent":
            output = consistent(output, rhs, A, p, noise / noise_level(k, p))
        loss = loss if p.inner_iterations else Misfit(A, z, y)
        mean = torch.lerp(output, mean, min(p.averaging, k / (k + 10)))
        image = (mean if p.output == "mean" else output).mean(0, keepdim=True)
        model = A if refits_maps else None
        memory: dict[str, Any] = {"dual": dual, "denoised": denoised} if remembers else {}
        if refits_maps and has_coil_maps(A):
            memory["maps"] = A.maps
        snapshot = resumable.snapshot(z=z, mean=mean, before=before, box=list(box), step=k + 1, **memory)
        yield Iterate(k + 1, p.outer_iterations, image, loss, snapshot, operator=model)


def draw_noise(p: UDiGDIP, denoised: Tensor, x: Tensor, sigma: float, rng: Generator) -> Tensor:
    """Noise of level sigma for x (B, C, H, W), of the parameters' kind; `denoised` is the last purified image."""
    white = antithetic_normal(x, rng) if p.antithetic else normal_like(x, rng)
    return homogenise(white, x - denoised, sigma) if p.noise == "homogenised" else sigma * white


def noise_level(k: int, p: UDiGDIP) -> float:
    """Level of purification k: from `noise_level` geometrically down to `final_noise_level`."""
    share = k / max(1, p.outer_iterations - 1)
    return float(p.noise_level * (p.final_noise_level / p.noise_level) ** share)


def momentum(p: UDiGDIP, sigma: float) -> float:
    """Momentum of the purification at a noise level: none beside noise, a network or a dual variable."""
    return 0.0 if p.inner_iterations or p.dual_step > 0 or adds_noise(p, sigma) else p.momentum


def update(
    network: nn.Module, optimiser: torch.optim.Optimizer, z: Tensor, y: Tensor, A: LinearOperator, weight: float
) -> Tensor:
    """One step on |A f(z) - y|^2 + weight |f(z) - z|^2, equation (6); returns the loss."""
    image = network(z)
    loss = A.misfit(image, y) + weight * (image - z).square().sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    detached: Tensor = loss.detach()
    return detached


def apply_network(network: nn.Module, z: Tensor, p: UDiGDIP) -> Tensor:
    """f(z); z itself where no network is fitted."""
    if p.inner_iterations == 0:
        return z
    with torch.no_grad():
        image: Tensor = network(z)
    return image


def consistent(d: Tensor, rhs: Tensor, A: LinearOperator, p: UDiGDIP, noise_ratio: float) -> Tensor:
    """A few conjugate gradient steps from d towards min |A z - y|^2 + mu |z - d|^2, mu = weight (noise / sigma)^2.

    The weight is `consistency_weight` times the forward model's factor.
    """
    if p.consistency_iterations == 0:
        return d
    d = d * A.support  # a prior would add structure where nothing is measured
    mu = max(A.consistency_factor * p.consistency_weight * noise_ratio**2, SMALLEST_WEIGHT)
    z = proximal(A.normal, rhs, d, mu, p.consistency_iterations)
    return z.clamp(min=0) if A.nonnegative else z
