"""Optimal eye surgeon: which few weights a network needs is found at its initialisation, then only those are fitted."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from udig_recon.core.algorithms.fitting import fit, noise_input
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, Stage, State, run_stages
from udig_recon.core.parameters import OES

TEMPERATURE = 0.2
"""Of the relaxed coin of each weight."""


def oes(inputs: Inputs, p: OES, rng: Generator, state: State | None = None) -> Iterates:
    """Ghosh et al. (2024): a mask m over weights theta_0 at initialisation, then DIP of the masked network.

    First min over q of E |A f(theta_0 m) - y|^2 + weight KL(q, sparsity), m ~ Bernoulli(q) relaxed; then the share
    `sparsity` of weights with the largest q is kept, and min over theta of |A f(theta m) - y|^2.
    """
    y, A = inputs.y, inputs.A
    z = noise_input(A, p, rng)
    network = inputs.build_network("unet", z.shape[1], rng)
    model = Masked(network, p.sparsity)

    def fit_mask(inner: State | None) -> Iterates:
        def objective() -> tuple[Tensor, Tensor]:
            image = model(z, model.sample_relaxed_masks(rng))
            return image, A.misfit(image, y) + p.divergence_weight * model.divergence(p.sparsity)

        optimiser = torch.optim.Adam(model.logits.parameters(), p.mask_learning_rate)
        return fit(model, objective, optimiser, p.mask_iterations, p, rng, inner)

    def fit_weights(inner: State | None) -> Iterates:
        masks: list[Tensor] = []

        def objective() -> tuple[Tensor, Tensor]:
            if not masks:  # once the logits of a resumed run are restored
                masks.extend(model.prune(p.sparsity))
            image = model(z, masks)
            return image, A.misfit(image, y)

        optimiser = torch.optim.Adam(network.parameters(), p.learning_rate)
        return fit(model, objective, optimiser, p.iterations, p, rng, inner)

    # The mask's logits, which the second stage takes over, are in the state of the model.
    stages = [Stage(fit_mask, p.mask_iterations), Stage(fit_weights, p.iterations)]
    return run_stages(stages, SimpleNamespace(), state, y.device)


class Masked(nn.Module):
    """A network whose kernels are multiplied by masks; `logits` are those of the probabilities of their weights."""

    def __init__(self, network: nn.Module, share: float) -> None:
        super().__init__()
        self.network = network
        self.names = [name for name, weight in network.named_parameters() if weight.ndim == 4]
        weights = dict(network.named_parameters())
        level = math.log(share / (1 - share)) if share < 1 else 20.0
        self.logits = nn.ParameterList(torch.full_like(weights[name], level) for name in self.names)

    def forward(self, z: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """The image (1, C, H, W) of z (1, C_in, H, W)."""
        weights = dict(self.network.named_parameters())
        kept = {name: weights[name] * mask for name, mask in zip(self.names, masks, strict=True)}
        image: Tensor = functional_call(self.network, kept, (z,))
        return image

    def sample_relaxed_masks(self, rng: Generator) -> list[Tensor]:
        """Coins between 0 and 1, which have slopes: sigmoid((logit + logistic noise) / temperature)."""
        coins = (torch.rand(each.shape, generator=rng, device=each.device) for each in self.logits)
        return [
            ((each + coin.logit(eps=1e-6)) / TEMPERATURE).sigmoid()
            for each, coin in zip(self.logits, coins, strict=True)
        ]

    def prune(self, share: float) -> list[Tensor]:
        """Masks of 0 and 1 that keep the likeliest share of all weights."""
        logits = torch.cat([each.detach().flatten() for each in self.logits])
        count = max(1, round(share * logits.numel()))
        kept = torch.zeros_like(logits)
        kept[logits.argsort(descending=True, stable=True)[:count]] = 1
        parts = torch.split(kept, [each.numel() for each in self.logits])
        return [part.reshape(each.shape) for part, each in zip(parts, self.logits, strict=True)]

    def divergence(self, share: float) -> Tensor:
        """Sum of the Kullback-Leibler divergences of the weights' coins from one of that share, a scalar."""
        q = torch.cat([each.flatten() for each in self.logits]).sigmoid().clamp(1e-6, 1 - 1e-6)
        share = min(max(share, 1e-6), 1 - 1e-6)
        return (q * (q / share).log() + (1 - q) * ((1 - q) / (1 - share)).log()).sum()
