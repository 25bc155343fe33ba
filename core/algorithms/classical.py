"""Reconstructions without a network: adjoint, filtered back-projection, conjugate gradients, SIRT."""

from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from udig_recon.core.interruption import check_interruption
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import Descent, conjugate_gradient, conjugate_gradient_iterates
from udig_recon.core.parameters import FBP, SIRT, CGSense, ZeroFilled

LEAST_SUM = 1e-6
"""Share of the largest row or column sum below which a ray misses the image, or a pixel is met by no ray."""
HARDLY_MET = 0.1
"""The same of a pixel that hardly any ray meets."""
MOST_FILLING_STEPS = 100


def zero_filled(y: Tensor, A: LinearOperator, _: ZeroFilled) -> Iterates:
    """A^H y: what is not measured counts as zero."""
    yield Iterate(1, 1, A.adjoint(y), torch.zeros(()))


def fbp(y: Tensor, A: LinearOperator, p: FBP) -> Iterates:
    """Filtered back-projection, in 1/mm."""
    yield Iterate(1, 1, A.direct(y, p.filter), torch.zeros(()))


def cg_sense(y: Tensor, A: LinearOperator, p: CGSense, state: State | None = None) -> Iterates:
    """Conjugate gradients on (A^H A + ridge) x = A^H y from zero (Pruessmann et al. 2001)."""
    rhs = A.adjoint(y)
    first, reached = 0, None
    if state is not None:
        first, reached = state["step"], Descent(**{name: part.to(y.device) for name, part in state["descent"].items()})
    points = conjugate_gradient_iterates(lambda x: A.normal(x) + p.ridge * x, rhs, torch.zeros_like(rhs), reached)
    for step, point in enumerate(islice(points, p.iterations - first), first + 1):
        resume: State = {"descent": point._asdict(), "step": step}
        yield Iterate(step, p.iterations, point.x, A.misfit(point.x, y) / y.numel(), resume.copy)


def sirt(y: Tensor, A: LinearOperator, p: SIRT, state: State | None = None) -> Iterates:
    """Iterate x <- max(x + C A^T R (y - A x), 0); R, C: reciprocal row and column sums of A (Gregor, Benson 2008).

    Pixels that hardly any measured ray meets, amid others that are met, continue those smoothly.
    """
    columns = A.adjoint(torch.ones_like(y))
    holes = _enclosed(columns > HARDLY_MET * columns.max())
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
        resume: State = {"x": x, "step": step + 1}
        yield Iterate(step + 1, p.iterations, _filled_in(x, holes), residual.square().mean(), resume.copy)


def _enclosed(met: Tensor) -> Tensor | None:
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


def _filled_in(x: Tensor, holes: Tensor | None) -> Tensor:
    """Image (1, 1, H, W) whose holes solve Laplace's equation between their borders."""
    if holes is None:
        return x
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], device=x.device)[None, None]

    def laplacian(image: Tensor) -> Tensor:
        return torch.where(holes, F.conv2d(image, kernel, padding=1), 0)

    around = torch.where(holes, 0, x)
    steps = min(int(holes.sum()), MOST_FILLING_STEPS)
    return around + conjugate_gradient(laplacian, -laplacian(around), torch.zeros_like(x), steps).clamp(min=0)


def _reciprocal(sums: Tensor) -> Tensor:
    # Rays that miss the image and pixels that no ray meets change nothing.
    return torch.where(sums > LEAST_SUM * sums.max(), 1 / sums, torch.zeros_like(sums))
