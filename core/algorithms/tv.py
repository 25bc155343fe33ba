"""Total variation (Rudin, Osher, Fatemi 1992) by the alternating direction method of multipliers."""

from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.norms import root_sum_of_squares
from udig_recon.core.operators.solvers import conjugate_gradient_iterates
from udig_recon.core.parameters import TV
from udig_recon.core.selection.weight_search import OF_THIS_PROBLEM, draw_search, solve_regularised, solve_with_weight

WEIGHTS = tuple(10 ** (-exponent / 2) for exponent in range(3, 9))
TRIAL_ITERATIONS = 20
INNER_ITERATIONS = 4
EDGE = 0.1
"""Differences below this share of the object's brightness are taken for none in a step; sets the speed alone."""
MAX_PENALTY = 1.0
"""Of differences against their copy, else EDGE's; sets the speed under large weights alone."""
SIGN_PENALTY = 0.02
"""Of an image against its non-negative copy; sets the speed alone."""
RELAXATION = 1.6


def tv(inputs: Inputs, p: TV, rng: Generator, state: State | None = None) -> Iterates:
    """Iterates of min_x |A x - y|^2 / 2 + weight TV(x), x >= 0 in CT; the weight by held-out data where none is given.

    TV(x) sums the lengths of all differences of a pixel with the next ones: right and below, real and imaginary.
    """
    y, A, iterations = inputs.y, inputs.A, (TRIAL_ITERATIONS, p.iterations)
    if p.weight is not None:
        return solve_with_weight(total_variation, y, A, p.weight, iterations, rng, state)
    search = draw_search(y, A, WEIGHTS, rng, state)
    return solve_regularised(total_variation, y, A, search, iterations, rng, state)


def total_variation(y: Tensor, A: LinearOperator, weight: float, _: Generator, state: State | None) -> Iterator[State]:
    """Endless states of min_x |A x - y|^2 / 2 + weight |D x|, x >= 0 where images are non-negative.

    With z = D x, s = x and their multipliers: p in units of the weight, so |p| <= 1, and e (Goldstein, Osher 2009;
    relaxed as in Boyd et al. 2011, 3.4.3).
    """
    rhs = A.adjoint(y)
    rho, mu = min(weight / EDGE, MAX_PENALTY), SIGN_PENALTY if A.nonnegative else 0.0
    radius = weight / rho if weight > 0 else EDGE
    if state is None:
        x = s = e = torch.zeros_like(rhs)
        z = p = differences(x)
    else:
        x, s, e = state["x"], state["s"], state["e"]
        z, p = state["z"], state["p"]

    def normal(image: Tensor) -> Tensor:
        sums = torch.add(A.normal(image), squared_differences(image), alpha=rho)
        return sums.add_(image, alpha=mu) if mu > 0 else sums

    # What the normal map makes of x follows from the residual that conjugate gradients keep.
    if state is None:
        normal_x = torch.zeros_like(rhs)
    else:
        normal_x = state[OF_THIS_PROBLEM] if OF_THIS_PROBLEM in state else normal(x)
    while True:
        target = rhs + rho * differences_adjoint(z - radius * p) + mu * (s - e)
        points = conjugate_gradient_iterates(normal, target, x, normal_x0=normal_x)
        descent = next(islice(points, INNER_ITERATIONS - 1, None))
        x, normal_x = descent.x, target - descent.residual
        v = RELAXATION * differences(x) + (1 - RELAXATION) * z + radius * p
        p = v / length(v).clamp(min=radius)
        z = v - radius * p
        if A.nonnegative:
            v_s = RELAXATION * x + (1 - RELAXATION) * s + e
            s = v_s.clamp(min=0)
            e = v_s - s
        image = s if A.nonnegative else x
        yield {"image": image, "x": x, "s": s, "e": e, "z": z, "p": p, OF_THIS_PROBLEM: normal_x}


def differences(x: Tensor) -> Tensor:
    """D x, (2, B, C, H, W): the pixel below and the one to the right, less the pixel; 0 at the last row and column."""
    d = x.new_zeros((2, *x.shape))
    torch.sub(x[..., 1:, :], x[..., :-1, :], out=d[0, ..., :-1, :])
    torch.sub(x[..., 1:], x[..., :-1], out=d[1, ..., :-1])
    return d


def differences_adjoint(d: Tensor) -> Tensor:
    """D^T d, (B, C, H, W)."""
    x = torch.zeros_like(d[0])
    x[..., 1:, :] += d[0, ..., :-1, :]
    x[..., :-1, :] -= d[0, ..., :-1, :]
    x[..., 1:] += d[1, ..., :-1]
    x[..., :-1] -= d[1, ..., :-1]
    return x


def squared_differences(x: Tensor) -> Tensor:
    """D^T D x, (B, C, H, W): four times the pixel less its neighbours, at an edge itself."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    result = 4 * x
    for rows, columns in (((0, -2), (1, -1)), ((2, None), (1, -1)), ((1, -1), (0, -2)), ((1, -1), (2, None))):
        result.sub_(padded[..., slice(*rows), slice(*columns)])
    return result


def length(d: Tensor) -> Tensor:
    """Length (1, B, 1, H, W) of each pixel's differences (2, B, C, H, W), over directions and channels."""
    return root_sum_of_squares(d, (0, 2), keepdim=True)
