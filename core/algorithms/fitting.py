"""Fit of a network to one scan: the loop of updates, its running mean and its state, for all variants of DIP."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.iterates import Iterate, Iterates, Resumable, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import RandomInput


class Fed(nn.Module):
    """f_theta(z) with its input, which is fixed, replaced now and then, or learnt with the weights."""

    z: Tensor

    def __init__(self, network: nn.Module, z: Tensor, *, learnt: bool = False) -> None:
        super().__init__()
        self.network = network
        if learnt:
            self.z = nn.Parameter(z.clone())
        else:
            self.register_buffer("z", z.clone())

    def forward(self) -> Tensor:
        """The image (1, C, H, W)."""
        image: Tensor = self.network(self.z)
        return image


class Updates(Protocol):
    """Parameters of the loop."""

    @property
    def averaging(self) -> float:
        """Decay of the running mean of outputs."""
        ...


Objective = Callable[[], tuple[Tensor, Tensor]]
"""Makes the output (1, C, H, W) and the loss to minimise, a scalar."""


def noise_input(A: LinearOperator, p: RandomInput, rng: Generator) -> Tensor:
    """A random input (1, input_channels, H, W)."""
    return 0.1 * torch.rand(1, p.input_channels, *A.image_shape[1:], generator=rng, device=rng.device)


def fit(
    model: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    iterations: int,
    p: Updates,
    rng: Generator,
    state: State | None,
    after: Callable[[int], None] | None = None,
) -> Iterates:
    """Iterates of gradient steps on the objective, the image their outputs' running mean; `after` follows each."""
    resumable = Resumable(rng, model=model, optimiser=optimiser)
    first, mean = 0, None
    if state is not None:
        values = resumable.restore(state, rng.device)
        first, mean = values["step"], values["mean"]
    for step in range(first, iterations):
        image, loss = objective()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        image = image.detach()
        # A short memory at first: the first outputs are far from the image.
        decay = min(p.averaging, step / (step + 10))
        mean = image if mean is None else torch.lerp(image, mean, decay)
        if after is not None:
            after(step)
        yield Iterate(step + 1, iterations, mean, loss.detach(), resumable.snapshot(step=step + 1, mean=mean))
