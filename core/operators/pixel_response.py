"""Pixel response of a CT image whose pixels are means over their area: a short filter along the detectors."""

import torch
from torch import Tensor

from udig_recon.core.scan_geometry import Geometry

BOXES = 2
"""Means over a pixel's area between an object and the projections of its pixels; see `PixelResponse`."""


class PixelResponse:
    """The filter H along the detectors that undoes the blur of pixels: projections of the object are H A_0 x.

    A pixel is the mean of the object over the pixel's area, and the projector A_0 spreads it over that area again. So
    A_0 x is the projection of the object blurred twice by a box of the pixel's width d, whose variance along every
    direction is d^2 / 12. H restores that to second order: with taps t detectors away, which are a pixel at the axis,

        H(f) = 1 + (1 / 3) sin^2(pi f d),    1 at low frequencies, 4/3 at the pixels' highest.

    A pixel that is narrower than a detector has its taps one detector away, with a smaller weight. The sinogram is
    continued by its mirror image beyond the ends, which keeps H symmetric (it is its own transpose) and constants
    constant.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._shape = len(geometry.angles), geometry.detectors
        width = geometry.pixel_size_mm * geometry.magnification / geometry.detector_spacing_mm  # in detectors
        near = max(1, int(width))
        share = max(0.0, width - near)
        # Of taps between two detectors each takes a share; together they keep the variance.
        weight = BOXES * width**2 / 24 / ((1 - share) * near**2 + share * (near + 1) ** 2)
        taps = {near: (1 - share) * weight, near + 1: share * weight}
        self._taps = {tap: value for tap, value in taps.items() if value > 0 and tap < geometry.detectors}

    def apply(self, rays: Tensor) -> Tensor:
        """H of rays (B, views * detectors)."""
        rows = rays.reshape(-1, *self._shape)
        result = rows * (1 + 2 * sum(self._taps.values()))
        for tap, weight in self._taps.items():
            mirrored = torch.cat([rows[..., :tap].flip(-1), rows, rows[..., -tap:].flip(-1)], -1)
            around = mirrored[..., : -2 * tap] + mirrored[..., 2 * tap :]
            result.sub_(around, alpha=weight)
        return result.reshape(rays.shape)
