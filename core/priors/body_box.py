"""Body box: the part of an image that a prior is evaluated on, since outside the body there is nothing to restore."""

import math
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

VISIBLE = 0.05
"""Share of the brightest pixel above which a pixel may belong to the body."""
BRIGHTEST = 2.0
"""A pixel above this, in the unit of priors, counts as this: beside metal or a hot spot tissue stays visible."""
NEIGHBOURHOOD = 5
"""Side in pixels of the square of which more than half must be visible, so that single pixels of noise do not count."""
MARGIN = 12
"""Pixels around the body."""
MULTIPLE = 8
"""Sides are multiples of this, which networks with three levels take without padding."""


class BodyBox(NamedTuple):
    """A rectangle of pixels: rows `top` to `bottom` and columns `left` to `right`, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, x: Tensor) -> Self:
        """The whole of an image (B, C, H, W)."""
        return cls(0, x.shape[-2], 0, x.shape[-1])

    @classmethod
    def around(cls, x: Tensor) -> Self:
        """The box of the body in images (B, C, H, W) in the unit of priors, with a margin; of no body, the whole."""
        magnitude = x.norm(dim=(0, 1)) / math.sqrt(len(x))
        visible = (magnitude > VISIBLE * magnitude.max().clamp(max=BRIGHTEST)).float()[None, None]
        share = F.avg_pool2d(visible, NEIGHBOURHOOD, 1, NEIGHBOURHOOD // 2)[0, 0]
        inside = share > 0.5
        return cls(*_extent(inside.any(1)), *_extent(inside.any(0)))

    def crop(self, x: Tensor) -> Tensor:
        """The part of x (B, C, H, W) in the box."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def pad(self, part: Tensor, like: Tensor) -> Tensor:
        """An image of the shape of `like` that is `part` in the box and zero outside."""
        if part.shape == like.shape:
            return part
        padded = torch.zeros_like(like)
        padded[..., self.top : self.bottom, self.left : self.right] = part
        return padded


def _extent(occupied: Tensor) -> tuple[int, int]:
    """First place and end of the occupied places, with a margin, their distance a multiple of `MULTIPLE`."""
    size, places = len(occupied), occupied.nonzero().flatten().tolist()
    if not places:
        return 0, size
    first, last = max(0, places[0] - MARGIN), min(size, places[-1] + 1 + MARGIN)
    length = min(size, -(-(last - first) // MULTIPLE) * MULTIPLE)
    first = max(0, min(first, size - length))
    return first, first + length
