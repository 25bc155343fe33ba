"""Deep image prior: fit a network with a fixed random input to the scan."""

import torch
from torch import Generator, Tensor, nn

from core.iterates import Iterate, Iterates, State
from core.operators import LinearOperator
from core.parameters import DIP


def dip(
    y: Tensor, A: LinearOperator, network: nn.Module, p: DIP, rng: Generator, state: State | None = None
) -> Iterates:
    """Minimise |A f_theta(z) - y|^2 over theta, z fixed (Ulyanov et al. 2018; equation (1) of Liang et al. 2025).

    The image is the running mean of the outputs, which varies less than the last one.
    """
    device = A.adjoint(y).device
    z = 0.1 * torch.rand(1, p.input_channels, *A.image_shape[1:], generator=rng, device=device)
    optimiser = torch.optim.Adam(network.parameters(), p.learning_rate)
    first, mean = 0, None
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first, mean = state["step"], state["mean"].to(device)
    for step in range(first, p.iterations):
        image = network(z)
        loss = A.misfit(image, y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        image = image.detach()
        # A short memory at first: the first outputs are far from anything.
        decay = min(p.averaging, step / (step + 10))
        mean = image if mean is None else torch.lerp(image, mean, decay)

        def resume(step: int = step, mean: Tensor = mean) -> State:
            weights = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
            return {**weights, "step": step + 1, "mean": mean}

        yield Iterate(step + 1, p.iterations, mean, loss.detach(), resume)
