"""The unit of networks and priors: what a scan is divided by, so that its object lies in about [0, 1]."""

import torch
from torch import Tensor

WATER = 0.5
"""What soft tissue is in the unit of the CT priors."""


def unit(image: Tensor) -> float:
    """What 1 is for networks and priors, from a rough image (1, C, H, W) in the scan's units.

    MRI: the 99th percentile of the magnitude inside the object. CT: soft tissue, the median of what is denser than
    half of the densest tenth, comes to lie at `WATER`.
    """
    if image.shape[1] == 2:
        magnitude = image.norm(dim=1).flatten()
        inside = magnitude[magnitude > 0.1 * magnitude.max()]
        return float(torch.quantile(inside[:: 1 + inside.numel() // 2**23], 0.99))
    attenuation = image.clamp(min=0).flatten()
    inside = attenuation[attenuation > 0.1 * attenuation.max()]
    dense = inside[inside > 0.5 * torch.quantile(inside[:: 1 + inside.numel() // 2**23], 0.9)]
    return float(dense.median()) / WATER
