"""What the methods that fit a network to one scan share: the loop of updates, its running mean and its state."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.iterates import Iterate, Iterates, State, restore
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import RandomInput


class Fed(nn.Module):
    """f_theta(z) with its input, which is fixed, moved on, or learnt with the weights."""

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
    """The knobs of the loop."""

    @property
    def averaging(self) -> float:
        """Decay of the running mean of outputs."""
        ...


Objective = Callable[[], tuple[Tensor, Tensor]]
"""Makes the output (1, C, H, W) and the loss to go down from, a scalar."""


def noise_input(A: LinearOperator, p: RandomInput, rng: Generator) -> Tensor:
    """A random input (1, input_channels, H, W)."""
    return 0.1 * torch.rand(1, p.input_channels, *A.image_shape[1:], generator=rng, device=rng.device)


def held_in(it: Iterate, step: int, around: State) -> Callable[[], State] | None:
    """The state of an iterate as a part of the state of a method that has it made, at a step of that."""
    inner = it.state
    return None if inner is None else lambda: {**around, "inner": inner(), "step": step}


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
    first, mean = 0, None
    if state is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        restore(rng, state["rng"])
        first, mean = state["step"], state["mean"].to(rng.device)
    for step in range(first, iterations):
        image, loss = objective()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        image = image.detach()
        # A short memory at first: the first outputs are far from anything.
        decay = min(p.averaging, step / (step + 10))
        mean = image if mean is None else torch.lerp(image, mean, decay)
        if after is not None:
            after(step)

        def resume(step: int = step, mean: Tensor = mean) -> State:
            weights = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            return {**weights, "rng": rng.get_state(), "step": step + 1, "mean": mean}

        yield Iterate(step + 1, iterations, mean, loss.detach(), resume)
