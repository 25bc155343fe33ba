"""Hallucination map: where an image differs from the prior-free one and the measurements cannot tell the difference."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import conjugate_gradient

ITERATIONS = 10
"""Conjugate gradient iterations. Components that so few do not reach are hardly determined by the measurements."""
RIDGE = 1e-3
"""Added to A^H A, whose norm is 1: components that are measured more weakly count as unmeasured."""
WIDTH = 2.0
"""Standard deviation in pixels of the window over which differences are averaged."""


def hallucination_map(image: Tensor, prior_free_baseline: Tensor, A: LinearOperator) -> Tensor:
    """Difference of an image (1, C, H, W) from the prior-free one that the measurements do not see: (1, 1, H, W).

    With d = image - prior_free_baseline it is the part d - (A^H A + e)^-1 A^H A d, by a few conjugate gradient
    iterations: its length over channels, as root mean square over a Gaussian window, as a share of the object's
    brightness. An empty baseline gives zero.
    """
    if not bool(prior_free_baseline.any()):
        return torch.zeros_like(image[:, :1])
    difference = image - prior_free_baseline
    with torch.no_grad():
        measured = conjugate_gradient(lambda x: A.normal(x) + RIDGE * x, A.normal(difference), None, ITERATIONS)
    energy = (difference - measured).square().sum(1, keepdim=True)
    return _smooth(energy).clamp(min=0).sqrt() / intensity_scale(prior_free_baseline)


def _smooth(plane: Tensor) -> Tensor:
    reach = math.ceil(3 * WIDTH)
    steps = torch.arange(-reach, reach + 1, device=plane.device)
    kernel = torch.exp(-(steps**2) / (2 * WIDTH**2))
    kernel = kernel / kernel.sum()
    across = F.conv2d(F.pad(plane, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])
