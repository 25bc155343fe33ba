"""Inputs of methods whose prior, initial estimate or network a test makes itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.inputs import Inputs


@dataclass(frozen=True, eq=False)
class ToyInputs(Inputs):
    """Inputs with a denoiser, a first image and a network of a test's own; what is None is as in any run."""

    denoiser: Callable[[Tensor, float], Tensor] | None = None
    estimate: Tensor | None = None
    network: Callable[[], nn.Module] | None = field(default=None)

    def load_prior(self, name: str | None) -> nn.Module:
        """The test's denoiser, whatever the name."""
        return super().load_prior(name) if self.denoiser is None else AsModule(self.denoiser)

    def cg_estimate(self) -> Tensor:
        """The test's image."""
        return super().cg_estimate() if self.estimate is None else self.estimate

    def build_network(self, name: str, channels_in: int, rng: Generator) -> nn.Module:
        """The test's network, whatever the name."""
        return super().build_network(name, channels_in, rng) if self.network is None else self.network()


class AsModule(nn.Module):
    """A denoiser that is called as a module."""

    def __init__(self, denoiser: Callable[[Tensor, float], Tensor]) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        """D(x, sigma)."""
        image: torch.Tensor = self.denoiser(x, sigma)
        return image
