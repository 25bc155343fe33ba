"""Networks f_theta that are fitted to one scan."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udig_recon.core.device import has_fast_bfloat16


class Convolutions(nn.Sequential):
    """Two 3 x 3 convolutions, each with normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """The paper's U-Net: three poolings, widths 64-128-256-256, batch normalisation, bilinear upsampling."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.enter = Convolutions(channels_in, 64)
        self.down = nn.ModuleList([Convolutions(64, 128), Convolutions(128, 256), Convolutions(256, 256)])
        self.up = nn.ModuleList([Convolutions(512, 128), Convolutions(256, 64), Convolutions(128, 64)])
        self.leave = nn.Conv2d(64, channels_out, 1)

    def forward(self, z: Tensor) -> Tensor:
        """(1, C_in, H, W) -> (1, C_out, H, W), any H and W."""
        height, width = z.shape[-2:]
        # Three poolings of 8 pixels would leave one, of which a batch norm knows no variance.
        right, below = (max(-side % 8, 16 - side) for side in (width, height))
        hidden = F.pad(z, (0, right, 0, below), mode="replicate")
        with torch.autocast(z.device.type, torch.bfloat16, enabled=has_fast_bfloat16(z.device)):
            features = [self.enter(hidden)]
            for block in self.down:
                features.append(block(F.max_pool2d(features[-1], 2)))
            hidden = features.pop()
            for block in self.up:
                hidden = F.interpolate(hidden, scale_factor=2.0, mode="bilinear", align_corners=False)
                hidden = block(torch.cat([features.pop(), hidden], 1))
        # The last layer in single precision: bfloat16 would limit the image to about 45 dB.
        image: Tensor = self.leave(hidden.float())
        return image[..., :height, :width]


class ResidualUNet(nn.Module):
    """z + g(z): a small U-Net g on 2 x 2 pixel-unshuffled input whose last layer starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (32, 64, 96, 128)
        self.enter = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(a, a, 3, padding=1) for a in widths[:-1])
        self.down_norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths)
        self.up_norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[:-1])
        self.leave = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(1, C, H, W) -> (1, C, H, W), any H and W."""
        height, width = z.shape[-2:]
        padded = F.pad(z, (0, -width % 16, 0, -height % 16), mode="replicate")
        with torch.autocast(z.device.type, torch.bfloat16, enabled=has_fast_bfloat16(z.device)):
            hidden = F.silu(self.down_norms[0](self.enter(F.pixel_unshuffle(padded, 2))))
            skips = []
            for layer, norm in zip(self.down, self.down_norms[1:], strict=True):
                skips.append(hidden)
                hidden = F.silu(norm(layer(hidden)))
            for index in reversed(range(len(self.up))):
                hidden = F.pixel_shuffle(self.grow[index](hidden), 2) + skips[index]
                hidden = F.silu(self.up_norms[index](self.up[index](hidden)))
            correction = F.pixel_shuffle(self.leave(hidden), 2)
        return z + correction.float()[..., :height, :width]


def initialise(network: nn.Module, rng: torch.Generator) -> nn.Module:
    """Draw the weights from `rng`, Kaiming-uniform as PyTorch does by default; a residual f starts at f(z) = z."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=rng)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
    if isinstance(network, ResidualUNet):
        nn.init.zeros_(network.leave.weight)
        nn.init.zeros_(network.leave.bias)  # type: ignore[arg-type]
    return network
