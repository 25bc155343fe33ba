"""The ADM U-Net of Dhariwal and Nichol (2021), its tensors named as published checkpoints name them."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udig_recon.core.networks.blocks import Resampling, double_by_repetition, halve_by_mean, keep_resolution

GROUPS = 32


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width): cosines, then sines, of t 10000^(-i / half) (Vaswani et al. 2017)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / half))
    phase = t[:, None].float() * frequencies
    return torch.cat([phase.cos(), phase.sin()], 1)


class Residual(nn.Module):
    """Residual block, scaled and shifted by the time embedding; it may halve or double the resolution."""

    def __init__(
        self, channels_in: int, channels_out: int, features: int, resampling: Resampling = keep_resolution
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * channels_out))
        # The identity stands where training had its dropout: the convolution is number 3 in every checkpoint.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels_out),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        same = channels_in == channels_out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, features) -> (B, C_out, H', W')."""
        norm, activation, convolution = self.in_layers
        hidden = convolution(self.resampling(activation(norm(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, 1)
        norm, *rest = self.out_layers
        hidden = norm(hidden) * (1 + scale) + shift
        for layer in rest:
            hidden = layer(hidden)
        result: Tensor = self.skip_connection(self.resampling(x)) + hidden
        return result


class Attention(nn.Module):
    """Self-attention over pixels. The rows of `qkv` are ordered (head, q | k | v, channel of the head)."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pixels = x.flatten(2)
        mixed = self.qkv(self.norm(pixels)).unflatten(1, (self.heads, 3, -1))
        q, k, v = (part.transpose(-1, -2) for part in mixed.unbind(2))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        result: Tensor = (pixels + self.proj_out(attended)).unflatten(2, x.shape[-2:])
        return result


class Stage(nn.ModuleList):
    """Layers in a row; residual blocks see the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, features) -> (B, C_out, H', W')."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, Residual) else layer(x)
        return x


class ADMUNet(nn.Module):
    """F(x, t): images (B, channels, H, W) and time steps (B,) -> noise, and the variance's half if it was learned.

    `width` times `multipliers` are the channels of the levels, finest first; `attention` names the levels that attend
    by how much smaller than the image they are (16: a sixteenth). H and W are multiples of `multiple`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int] = (),
        learned_variance: bool = True,
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        self.width = width
        self.multiple = 2 ** (len(multipliers) - 1)
        features = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))
        widths = [width * multiplier for multiplier in multipliers]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(channels, widths[0], 3, padding=1)])])
        skips = [widths[0]]
        for level, wide in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(_stage(skips[-1], wide, features, 2**level in attention, head_channels))
                skips.append(wide)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage([Residual(wide, wide, features, halve_by_mean)]))
                skips.append(wide)
        here = widths[-1]
        self.middle_block = Stage(
            [Residual(here, here, features), Attention(here, head_channels), Residual(here, here, features)]
        )
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            for block in range(blocks + 1):
                stage = _stage(here + skips.pop(), wide, features, 2**level in attention, head_channels)
                if level and block == blocks:
                    stage.append(Residual(wide, wide, features, double_by_repetition))
                self.output_blocks.append(stage)
                here = wide
        channels_out = 2 * channels if learned_variance else channels
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, here), nn.SiLU(), nn.Conv2d(here, channels_out, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, channels, H, W), (B,) -> (B, channels or twice as many, H, W)."""
        embedding = self.time_embed(timestep_embedding(t, self.width))
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], 1), embedding)
        result: Tensor = self.out(x)
        return result


def _stage(channels_in: int, channels_out: int, features: int, attends: bool, head_channels: int) -> Stage:
    block = Residual(channels_in, channels_out, features)
    return Stage([block, Attention(channels_out, head_channels)] if attends else [block])
