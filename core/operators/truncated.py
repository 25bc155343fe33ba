"""Projections of an object wider than the detector, continued beyond it, so that filtering makes no bright ring."""

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 3
"""Detectors at either end by whose mean a projection is continued."""
FLATTEST = 0.95
"""Largest value at an end as a share of a projection's usual largest: a higher one would continue for ever."""
LONGEST = 1.0
"""Length of the continuation, in lengths of the detector, at most."""


def continue_rays(sinogram: Tensor, axis: float) -> tuple[Tensor, int]:
    """Parallel projections (B, 1, views, detectors) continued on both sides, and by how many detectors each.

    A projection that does not fall to 0 continues as that of an ellipse about the axis: of its mean end on that side,
    and of its largest mean over an eighth of the detector at the axis (after Hsieh et al. 2004). Where no projection
    reaches beyond the detector by half a detector, it is as it was, and 0.
    """
    detectors = sinogram.shape[-1]
    length = max(1, round(LONGEST * detectors))
    smooth = F.avg_pool1d(sinogram.flatten(0, -2)[:, None], max(1, detectors // 8), stride=1)
    peak = smooth.amax(-1).reshape(*sinogram.shape[:-1], 1).clamp(min=torch.finfo(sinogram.dtype).tiny)
    reaches = (axis + 0.5, detectors - 0.5 - axis)
    ends = (sinogram[..., :EDGE].mean(-1, keepdim=True), sinogram[..., -EDGE:].mean(-1, keepdim=True))
    beyond = torch.arange(length, device=sinogram.device).to(sinogram) + 0.5
    sides = []
    for reach, end in zip(reaches, ends, strict=True):
        least = max(reach, detectors / 8)
        share = (end / peak).clamp(0, FLATTEST)
        radius = (least - EDGE / 2) / (1 - share.square()).sqrt()  # the mean end lies so far inside
        chord = (1 - ((least + beyond) / radius).square()).clamp(min=0).sqrt()
        sides.append(chord * peak * (share > 0))
    if not any(bool(side.any()) for side in sides):
        return sinogram, 0
    return torch.cat((sides[0].flip(-1), sinogram, sides[1]), -1), length
