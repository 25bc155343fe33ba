"""The bundled priors' network: a small U-Net on 2 x 2 pixel-unshuffled images, conditioned on the noise level."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Fourier features of log sigma through a small perceptron: (B,) -> (B, features)."""

    frequencies: Tensor

    def __init__(self, features: int, count: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(16), count)), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * count, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, log_sigma: Tensor) -> Tensor:
        """Embed log_sigma (B,)."""
        phase = log_sigma[:, None] * self.frequencies
        embedded: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], 1))
        return embedded


class Block(nn.Module):
    """Residual block without normalisation, scaled and shifted by the noise embedding (FiLM)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(features, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        # Small, not zero: without normalisation layers the sum of blocks must start tame.
        self.second.weight.data.mul_(0.1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W), (B, features) -> (B, C, H, W)."""
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        hidden = self.first(F.silu(x)) * (1 + scale) + shift
        result: Tensor = x + self.second(F.silu(hidden))
        return result


class DenoiserUNet(nn.Module):
    """F(x, log sigma): image channels in and out, any height and width (padded to a multiple inside).

    `widths` are the channels of each level, finest first; the finest works on half the image's resolution. `blocks` is
    the number of residual blocks per level on the way down and on the way up.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int = 2, features: int = 128) -> None:
        super().__init__()
        self.multiple = 2 ** len(widths)
        self.embedding = NoiseEmbedding(features)
        self.enter = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.leave = nn.Conv2d(widths[0], 4 * channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        self.down = nn.ModuleList(_level(width, blocks, features) for width in widths)
        self.up = nn.ModuleList(_level(width, blocks, features) for width in widths[:-1])
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)

    def forward(self, x: Tensor, log_sigma: Tensor) -> Tensor:
        """(B, C, H, W), (B,) -> (B, C, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.embedding(log_sigma)
        *skips, hidden = self._levels(x, embedding)
        for index in reversed(range(len(self.up))):
            hidden = F.pixel_shuffle(self.grow[index](hidden), 2) + skips[index]
            for block in self.up[index]:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding)
        out = F.pixel_shuffle(self.leave(F.silu(hidden)), 2)
        return out[..., :height, :width]

    def encoder_features(self, x: Tensor, log_sigma: Tensor, above: int = 0) -> Tensor:
        """What the coarsest level, or one `above` it, makes of x (B, C, H, W), each by its channels.

        A network with fewer levels has its finest one say it.
        """
        levels = self._levels(x, self.embedding(log_sigma))
        return levels[max(0, len(levels) - 1 - above)]

    def _levels(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """What each level on the way down makes of x, finest first."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        hidden = self.enter(F.pixel_unshuffle(x, 2))
        levels = []
        for index, level in enumerate(self.down):
            for block in level:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding)
            levels.append(hidden)
            if index < len(self.shrink):
                hidden = self.shrink[index](hidden)
        return levels


def _level(width: int, blocks: int, features: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width, features) for _ in range(blocks))
