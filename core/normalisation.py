"""The unit of networks and priors: what a scan is divided by, so that its object lies in about [0, 1]."""

import torch
from torch import Tensor

from udig_recon.core.errors import UnsupportedScan

WATER = 0.5
"""What soft tissue is in the unit of the CT priors."""


def intensity_scale(image: Tensor) -> float:
    """What 1 is for networks and priors, from a rough image (1, C, H, W) in the scan's units.

    MRI: the 99th percentile of the magnitude inside the object. CT: soft tissue, the median of what is denser than
    half of the densest tenth, comes to lie at `WATER`. Raises UnsupportedScan where the image shows nothing.
    """
    values = image.norm(dim=1).flatten() if image.shape[1] == 2 else image.clamp(min=0).flatten()
    inside = values[values > 0.1 * values.max()]
    if not len(inside) or not bool(inside.isfinite().all()):
        most = f"{float(values.max()):.3g}"
        raise UnsupportedScan(
            f"a rough image of the slice reaches {most}: its measurements do not fit its geometry or coil maps",
            field="kspace" if image.shape[1] == 2 else "sinogram",
            found=f"an image of at most {most}",
            expected="finite values above 0",
        )
    if image.shape[1] == 2:
        return float(torch.quantile(inside[:: 1 + inside.numel() // 2**23], 0.99))
    dense = inside[inside > 0.5 * torch.quantile(inside[:: 1 + inside.numel() // 2**23], 0.9)]
    return float(dense.median()) / WATER
