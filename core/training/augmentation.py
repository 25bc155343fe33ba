"""Data augmentation: patches of slices, rotated, mirrored, zoomed, changed in brightness, with a phase for MRI."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.training.dataset import TrainingImage

ZOOM = (0.8, 1.5)
TURN = 0.3  # radians
LOG_BRIGHTNESS = (-0.35, 0.25)


def batch(images: Sequence[TrainingImage], modality: Modality, size: int, count: int, rng: Generator) -> Tensor:
    """`count` patches (count, C, size, size) of images drawn by their weights."""
    weights = torch.tensor([image.weight for image in images])
    chosen = torch.multinomial(weights, count, replacement=True, generator=rng).tolist()
    magnitude = torch.stack([patch(images[index].pixels, size, rng) for index in chosen])
    return with_phase(magnitude, rng) if modality is Modality.MRI else magnitude


def patch(pixels: Tensor, size: int, rng: Generator) -> Tensor:
    """One patch (1, size, size) of a slice (1, H, W); half of them are left on the slice's grid, as sharp as it is."""
    interpolated = uniform(0, 1, rng) < 0.5
    zoom = uniform(*ZOOM, rng) if interpolated else 1.0
    turn = uniform(-TURN, TURN, rng) if interpolated else 0.0
    centre = [_centre(extent, size / zoom, rng) for extent in pixels.shape[1:]]
    if not interpolated:
        # Whole pixels, or half-way between two for an even size: nothing is then interpolated.
        centre = [math.floor(place) + 0.5 * (1 - size % 2) for place in centre]
    cut = F.grid_sample(pixels[None].float(), _grid(centre, pixels.shape, size, zoom, turn), align_corners=False)[0]
    cut = torch.rot90(cut, int(uniform(0, 4, rng)), (1, 2))
    mirrored = cut.flip(2) if uniform(0, 1, rng) < 0.5 else cut
    return mirrored * math.exp(uniform(*LOG_BRIGHTNESS, rng))


def with_phase(magnitude: Tensor, rng: Generator) -> Tensor:
    """Give magnitudes (B, 1, H, W) a smooth random phase without branch cuts: (B, 2, H, W), real and imaginary part."""
    batch, _, height, width = magnitude.shape
    coarse = torch.randn(batch, 1, 4, 4, generator=rng) * 0.8 * torch.rand(batch, 1, 1, 1, generator=rng)
    phase = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    phase = phase + 2 * math.pi * torch.rand(batch, 1, 1, 1, generator=rng)
    return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)


def uniform(low: float, high: float, rng: Generator) -> float:
    """One number, uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def _centre(extent: int, reach: float, rng: Generator) -> float:
    """A random centre of a patch `reach` pixels wide within `extent` pixels."""
    return math.floor(uniform(0, max(extent - reach, 0), rng)) + (min(reach, extent) - 1) / 2


def _grid(centre: Sequence[float], shape: Sequence[int], size: int, zoom: float, turn: float) -> Tensor:
    """Sampling points (1, size, size, 2) for grid_sample, in its units of half the image."""
    steps = (torch.arange(size) - (size - 1) / 2) / zoom
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    y = centre[0] + dy * math.cos(turn) - dx * math.sin(turn)
    x = centre[1] + dy * math.sin(turn) + dx * math.cos(turn)
    return torch.stack([(2 * x + 1) / shape[2] - 1, (2 * y + 1) / shape[1] - 1], -1)[None]
