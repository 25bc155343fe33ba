"""The NCSN++ score network of Song et al. (2021), its tensors named as published checkpoints name them."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udig_recon.core.networks.blocks import (
    Resampling,
    binomial_kernel,
    double_by_filter,
    halve_by_filter,
    keep_resolution,
)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class FourierFeatures(nn.Module):
    """(B,) -> (B, 2 width): sines, then cosines, of 2 pi W log sigma. W was drawn once and never trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(width), requires_grad=False)

    def forward(self, log_sigma: Tensor) -> Tensor:
        """Embed log_sigma (B,)."""
        phase = 2 * math.pi * log_sigma[:, None] * self.W
        return torch.cat([phase.sin(), phase.cos()], 1)


class Residual(nn.Module):
    """BigGAN's residual block (Brock et al. 2019) divided by sqrt 2; it may halve or double the resolution."""

    def __init__(
        self, channels_in: int, channels_out: int, features: int, resampling: Resampling = keep_resolution
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.GroupNorm_0 = _norm(channels_in)
        self.Conv_0 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.Dense_0 = nn.Linear(features, channels_out)
        self.GroupNorm_1 = _norm(channels_out)
        self.Conv_1 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out and resampling is keep_resolution
        self.Conv_2 = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, features) -> (B, C_out, H', W')."""
        hidden = self.Conv_0(self.resampling(F.silu(self.GroupNorm_0(x))))
        hidden = hidden + self.Dense_0(F.silu(embedding))[:, :, None, None]
        hidden = self.Conv_1(F.silu(self.GroupNorm_1(hidden)))
        result: Tensor = (self.Conv_2(self.resampling(x)) + hidden) / math.sqrt(2)
        return result


class PixelwiseLinear(nn.Module):
    """The same linear map of the channels at every pixel; W is (in, out), the other way round than a convolution's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, pixels, C) -> (B, pixels, C)."""
        return x @ self.W + self.b


class Attention(nn.Module):
    """Self-attention of one head over pixels, divided by sqrt 2; NIN_0 to NIN_3 make q, k, v and the output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0 = PixelwiseLinear(channels)
        self.NIN_1 = PixelwiseLinear(channels)
        self.NIN_2 = PixelwiseLinear(channels)
        self.NIN_3 = PixelwiseLinear(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pixels = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(pixels)[:, None] for layer in (self.NIN_0, self.NIN_1, self.NIN_2))
        attended = self.NIN_3(F.scaled_dot_product_attention(q, k, v)[:, 0]).transpose(1, 2)
        result: Tensor = (x + attended.unflatten(2, x.shape[-2:])) / math.sqrt(2)
        return result


class PyramidConvolution(nn.Module):
    """The image pyramid's step down: binomial filter, then a 3 x 3 convolution at every second pixel."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.Conv2d_0 = nn.Conv2d(channels_in, channels_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""
        blurred = F.conv2d(x, binomial_kernel(x, 1.0), padding=2, groups=x.shape[1])
        result: Tensor = self.Conv2d_0(blurred)
        return result


class NCSNppUNet(nn.Module):
    """score(x, sigma) = F(2 x - 1, log sigma) / sigma for images (B, channels, H, W) in [0, 1] plus noise.

    `width` times `multipliers` are the channels of the levels, finest first. H and W are multiples of `multiple`. The
    `scales` noise levels of the checkpoint's `sigmas` are kept, not used: the network takes sigma itself.
    """

    sigmas: Tensor

    def __init__(self, channels: int, width: int, multipliers: Sequence[int], blocks: int, scales: int) -> None:
        super().__init__()
        self.blocks, self.levels = blocks, len(multipliers)
        self.multiple = 2 ** (self.levels - 1)
        self.register_buffer("sigmas", torch.zeros(scales))
        features = 4 * width
        widths = [width * multiplier for multiplier in multipliers]
        layers: list[nn.Module] = [
            FourierFeatures(width),
            nn.Linear(2 * width, features),
            nn.Linear(features, features),
            nn.Conv2d(channels, width, 3, padding=1),
        ]
        skips, pyramid = [width], channels
        for level, wide in enumerate(widths):
            for _ in range(blocks):
                layers.append(Residual(skips[-1], wide, features))
                skips.append(wide)
            if level < self.levels - 1:
                layers += [Residual(wide, wide, features, halve_by_filter), PyramidConvolution(pyramid, wide)]
                skips.append(wide)
                pyramid = wide
        here = widths[-1]
        layers += [Residual(here, here, features), Attention(here), Residual(here, here, features)]
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                layers.append(Residual(here + skips.pop(), wide, features))
                here = wide
            if level:
                layers.append(Residual(wide, wide, features, double_by_filter))
        layers += [_norm(here), nn.Conv2d(here, channels, 3, padding=1)]
        self.all_modules = nn.ModuleList(layers)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(B, channels, H, W), (B,) -> (B, channels, H, W)."""
        layers = iter(self.all_modules)
        fourier, first, second = next(layers), next(layers), next(layers)
        embedding = second(F.silu(first(fourier(sigma.log()))))
        hidden, skips = self._down(2 * x - 1, embedding, layers)
        hidden = next(layers)(hidden, embedding)
        hidden = next(layers)(hidden)
        hidden = next(layers)(hidden, embedding)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                hidden = next(layers)(torch.cat([hidden, skips.pop()], 1), embedding)
            if level:
                hidden = next(layers)(hidden, embedding)
        norm, convolution = layers
        # In single precision: sigma spans four orders of magnitude.
        result: Tensor = convolution(F.silu(norm(hidden))).float() / sigma[:, None, None, None]
        return result

    def _down(self, x: Tensor, embedding: Tensor, layers: Iterator[nn.Module]) -> tuple[Tensor, list[Tensor]]:
        pyramid, hidden = x, next(layers)(x)
        skips = [hidden]
        for level in range(self.levels):
            for _ in range(self.blocks):
                hidden = next(layers)(hidden, embedding)
                skips.append(hidden)
            if level < self.levels - 1:
                hidden = next(layers)(hidden, embedding)
                hidden = pyramid = (next(layers)(pyramid) + hidden) / math.sqrt(2)
                skips.append(hidden)
        return hidden, skips
