"""Inputs of a method: the linear problem y = A x of one slice, and what a method may use beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from torch import Generator, Tensor, nn

from udig_recon.core.iterates import Iterates, State
from udig_recon.core.networks.dip import ResidualUNet, UNet, initialise
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.card import Folders, find_card
from udig_recon.core.priors.load import load_prior
from udig_recon.core.priors.ood import load_ood_scorer
from udig_recon.core.slice_order import WarmStart

INITIAL_CG_ITERATIONS = 8


@dataclass(frozen=True, eq=False)
class Inputs:
    """One slice as a method receives it: y = A x, images (1, C, H, W) in the intensity scale of networks and priors.

    `images` are those that the scan holds beside its measurements: `reference`, the truth, and `guide`, a structural
    image. `priors` are folders of priors beside the bundled ones. `warm_start` has the results of a reference slice.
    """

    y: Tensor
    A: LinearOperator
    images: Mapping[str, Tensor] = field(default_factory=dict)
    priors: Folders = None
    warm_start: WarmStart | None = None

    def restrict(self, train: Tensor) -> Self:
        """The inputs without the measurements that are held out; `train` (bool, broadcastable to y) are the others."""
        return replace(self, y=self.y * train, A=self.A.restrict(train))

    def cg_estimate(self) -> Tensor:
        """A few conjugate gradient iterations on A^H A x = A^H y: the image from which samplers start."""
        rhs = self.A.adjoint(self.y)
        return conjugate_gradient(self.A.normal, rhs, None, INITIAL_CG_ITERATIONS)

    def load_prior(self, name: str | None) -> nn.Module:
        """The denoiser D(x, sigma) of a prior by its name; None: the bundled one. Raises MissingPrior."""
        return load_prior(name, self.A.modality, self.priors, self.y.device)

    def load_ood_scorer(self, name: str | None) -> Callable[[Tensor], float] | None:
        """The function that gives an image's OOD score for a prior; None: the prior has no statistics."""
        return load_ood_scorer(self.load_prior(name), find_card(name, self.A.modality, self.priors))

    def build_network(self, name: str, channels_in: int, rng: Generator) -> nn.Module:
        """A network with random weights that makes images: `unet`, or `residual`, which starts as the identity."""
        channels = self.A.image_shape[0]
        network = UNet(channels_in, channels) if name == "unet" else ResidualUNet(channels)
        return initialise(network.to(self.y.device), rng)


class Implementation(Protocol):
    """What `Parameters.implementation` names: iterates of a method, from the beginning or after a state."""

    def __call__(self, inputs: Inputs, p: Parameters, rng: Generator, state: State | None = None, /) -> Iterates:
        """Iterates of one run; the last one is the reconstruction. Same inputs, parameters and seed: same bits."""
        ...
