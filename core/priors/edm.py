"""EDM prior: the denoiser with the preconditioning of Karras et al. (2022) that this project trains."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from udig_recon.core.device import has_fast_bfloat16
from udig_recon.core.networks.denoiser import DenoiserUNet
from udig_recon.core.priors.architectures import EDMNetwork

SIGMA_DATA = 0.3
"""Standard deviation of the training images, scaled to about [0, 1] (Karras et al. 2022)."""


class EDMPrior(nn.Module):
    """E[x0 | x0 + sigma n = x] with the preconditioning of Karras et al. (2022), table 1.

    Images (B, C, H, W) are scaled so that the object lies in about [0, 1]; sigma is in the same unit.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.network = DenoiserUNet(channels, widths, blocks)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) at noise level sigma, a number or (B,)."""
        level, s = _level(x, sigma)
        total = (s**2 + SIGMA_DATA**2).sqrt()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=has_fast_bfloat16(x.device)):
            residual = self.network(x / total, level.log())
        c_skip, c_out = (SIGMA_DATA / total) ** 2, s * SIGMA_DATA / total
        denoised: Tensor = c_skip * x + c_out * residual.float()
        return denoised

    def encoder_features(self, x: Tensor, sigma: float | Tensor, above: int = 0) -> Tensor:
        """Features of the network's coarsest level, or of one `above` it, for x (B, C, H, W) at noise level sigma.

        They are in float32.
        """
        level, s = _level(x, sigma)
        return self.network.encoder_features(x / (s**2 + SIGMA_DATA**2).sqrt(), level.log(), above)


def _level(x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
    """The noise level of each image, as (B,) and (B, 1, 1, 1)."""
    # Filled by the device: to copy a number there is to wait for it.
    level = sigma.to(x.device) if isinstance(sigma, Tensor) else x.new_full((), sigma)
    level = level.float().expand(x.shape[0])
    return level, level[:, None, None, None]


def load_edm(description: EDMNetwork, weights: Mapping[str, Tensor]) -> nn.Module:
    """The prior of a description with these weights. Raises RuntimeError when they do not fit."""
    prior = EDMPrior(description.channels, description.widths, description.blocks)
    prior.load_state_dict(weights)
    return prior
