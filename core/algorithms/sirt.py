"""SIRT: simultaneous iterative reconstruction, non-negative (Gregor, Benson 2008)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from udig_recon.core.inputs import Inputs
from udig_recon.core.interruption import check_interruption
from udig_recon.core.iterates import Iterate, Iterates, State, snapshot
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.parameters import SIRT

MIN_SUM = 1e-6
"""Share of the largest row or column sum below which a ray misses the image, or a pixel is met by no ray."""
RARELY_MET = 0.1
"""The same share for a pixel that hardly any ray meets."""
MAX_INTERPOLATION_STEPS = 100


def sirt(inputs: Inputs, p: SIRT, _: Generator, state: State | None = None) -> Iterates:
    """Iterate x <- max(x + C A^T R (y - A x), 0); R, C: reciprocal row and column sums of A.

    Pixels that hardly any measured ray meets are interpolated from the pixels around them.
    """
    y, A = inputs.y, inputs.A
    columns = A.adjoint(torch.ones_like(y))
    holes = _find_holes(columns > RARELY_MET * columns.max())
    x = torch.zeros_like(columns)
    R = _reciprocal(A.forward(torch.ones_like(x)))
    C = _reciprocal(columns)
    first = 0
    if state is not None:
        x, first = state["x"].to(x.device), state["step"]
    for step in range(first, p.iterations):
        check_interruption()
        residual = y - A.forward(x)
        x = (x + C * A.adjoint(R * residual)).clamp(min=0)
        image = _interpolate(x, holes)
        yield Iterate(step + 1, p.iterations, image, residual.square().mean(), snapshot(x=x, step=step + 1))


def _find_holes(met: Tensor) -> Tensor | None:
    """Pixels (1, 1, H, W) that are not met, nor joined to the image's border by such; None: there are none."""
    unmet = ~met
    if not bool(unmet.any()):
        return None
    outside = torch.zeros_like(unmet)
    outside[..., [0, -1], :], outside[..., [0, -1]] = unmet[..., [0, -1], :], unmet[..., [0, -1]]
    while True:
        grown = (F.max_pool2d(outside.float(), 3, stride=1, padding=1) > 0) & unmet
        if bool((grown == outside).all()):
            break
        outside = grown
    holes = unmet & ~outside
    return holes if bool(holes.any()) else None


def _interpolate(x: Tensor, holes: Tensor | None) -> Tensor:
    """Image (1, 1, H, W) whose holes solve Laplace's equation between their borders."""
    if holes is None:
        return x
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], device=x.device)[None, None]

    def laplacian(image: Tensor) -> Tensor:
        return torch.where(holes, F.conv2d(image, kernel, padding=1), 0)

    around = torch.where(holes, 0, x)
    steps = min(int(holes.sum()), MAX_INTERPOLATION_STEPS)
    return around + conjugate_gradient(laplacian, -laplacian(around), None, steps).clamp(min=0)


def _reciprocal(sums: Tensor) -> Tensor:
    # Rays that miss the image and pixels that no ray meets change nothing.
    return torch.where(sums > MIN_SUM * sums.max(), 1 / sums, torch.zeros_like(sums))
