"""Blocks that the published U-Nets share: resampling by a factor of two."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Resampling = Callable[[Tensor], Tensor]
"""Changes the resolution of images (B, C, H, W)."""

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def keep_resolution(x: Tensor) -> Tensor:
    """Return x."""
    return x


def halve_by_mean(x: Tensor) -> Tensor:
    """Means of 2 x 2 pixels of x (B, C, H, W)."""
    return F.avg_pool2d(x, 2)


def double_by_repetition(x: Tensor) -> Tensor:
    """Each pixel of x (B, C, H, W) four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halve_by_filter(x: Tensor) -> Tensor:
    """Every second pixel of x (B, C, H, W) after the binomial filter [1, 3, 3, 1]."""
    return F.conv2d(x, binomial_kernel(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def double_by_filter(x: Tensor) -> Tensor:
    """Double the resolution of x (B, C, H, W): four times the adjoint of `halve_by_filter`."""
    return F.conv_transpose2d(x, binomial_kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def binomial_kernel(x: Tensor, gain: float) -> Tensor:
    """Kernels (C, 1, 4, 4) of the filter [1, 3, 3, 1] in both directions for the channels of x; they sum to `gain`."""
    line = torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device) / sum(BINOMIAL)
    return (gain * torch.outer(line, line)).expand(x.shape[1], 1, -1, -1)
