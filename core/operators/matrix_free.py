"""Matrix-free projector of parallel and fan beams: view by view in memory of a few images, on any device."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from udig_recon.core.interruption import check_interruption
from udig_recon.core.scan_geometry import Geometry

_MARGIN = 4  # bins beyond a pixel's shadow, which the filter of the interpolation reaches


class _View(NamedTuple):
    """Where pixels fall on the detector's bins in one view; all (pixels,) or one number."""

    bins: Tensor  # number of the bin below, int32
    share: Tensor  # of a pixel in the next bin
    length: Tensor | float  # mm: the pixel's area over the width of a detector where the pixel is


class MatrixFreeProjector:
    """Mean line integrals over each detector's width, and their exact transpose, without a stored matrix.

    Pixels are shared out to the two nearest detectors (De Man, Basu 2002, "pixel-driven"). Rows of detectors are then
    convolved with the shadow of a pixel in their view, over that of linear interpolation: of parallel beams this is
    the strip model up to interpolation between bins; of fans the shadow is that at the axis.
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        geometry.check()
        self._geometry, self._device = geometry, device
        width = math.sqrt(2) * geometry.pixel_size_mm * geometry.magnification / geometry.detector_spacing_mm
        self._margin = math.ceil(width / 2) + _MARGIN
        self._bins = geometry.detectors + 2 * self._margin
        self._length = 2 ** math.ceil(math.log2(self._bins + 2 * self._margin))
        self._frequencies = torch.fft.rfftfreq(self._length, device=device)
        x = torch.arange(geometry.image_size, dtype=torch.float64) - (geometry.image_size - 1) / 2
        self._x = (x * geometry.pixel_size_mm).to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) of images (B, pixels)."""
        # Made first: small results between large temporary arrays would keep a C library from using memory again.
        rays = x.new_empty(len(x), len(self._geometry.angles), self._geometry.detectors)
        for number, view in self._views():
            rays[:, number] = self._cut(self._spread(x, view), number)
        return rays.flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`: (B, views * detectors) to (B, pixels)."""
        rays = y.reshape(len(y), len(self._geometry.angles), self._geometry.detectors)
        image = y.new_zeros(len(y), self._geometry.image_size**2)
        for number, view in self._views():
            bins = self._filtered(F.pad(rays[:, number], (self._margin, self._margin)), number)
            for row, target in zip(bins, image, strict=True):
                below, above = row.index_select(0, view.bins), row[1:].index_select(0, view.bins)
                target += torch.lerp(below, above, view.share) * view.length
        return image

    def _views(self) -> Iterator[tuple[int, _View]]:
        for number in range(len(self._geometry.angles)):
            check_interruption()
            yield number, self._view(number)

    def _view(self, number: int) -> _View:
        geometry, theta = self._geometry, self._geometry.angles[number]
        cos, sin = math.cos(theta), math.sin(theta)
        unit, length = geometry.detector_spacing_mm, geometry.pixel_size_mm**2
        density: Tensor | float = length / unit
        middle = geometry.axis + self._margin
        if geometry.beam == "parallel":
            # The two terms are exact; their sum of float32 is right to a thousandth of a bin.
            columns, rows = (self._x * (cos / unit) + middle).float(), (self._x * (-sin / unit)).float()
            place = rows[:, None] + columns
            low, high = rows.min() + columns.min(), rows.max() + columns.max()
        else:
            across = (self._x * cos).float() + (self._x * -sin).float()[:, None]
            along = (geometry.source_origin_mm - self._x * sin).float() + (self._x * -cos).float()[:, None]
            unit /= geometry.source_detector_mm
            squared = along.square()
            distance = (squared + across.square()).sqrt()
            if geometry.beam == "fan_flat":
                place, density = across / along, (distance * (length / unit) / squared).flatten()
            else:
                place, density = torch.atan2(across, along), (length / unit / distance).flatten()
            place = place / unit + middle
            low, high = place.aminmax()
        place = place.flatten()
        if low < 0 or high > self._bins - 1:
            density = density * ((place >= 0) & (place <= self._bins - 1))
            place = place.clamp(0, self._bins - 1)
        start = place.floor().clamp_(max=self._bins - 2)
        return _View(start.int(), place - start, density)

    def _spread(self, x: Tensor, view: _View) -> Tensor:
        """Bins (B, bins) of images (B, pixels): the transpose of linear interpolation."""
        bins, rows = view.bins.long(), []
        for image in x:
            mass = image * view.length
            above = mass * view.share
            row = self._sums(bins, mass - above) + F.pad(self._sums(bins, above)[:-1], (1, 0))
            rows.append(row.to(x.dtype))
        return torch.stack(rows)

    def _sums(self, bins: Tensor, values: Tensor) -> Tensor:
        """Sum of the values in each bin."""
        # A GPU adds in any order, which float64 keeps below float32's rounding.
        exact = values.double() if values.is_cuda else values
        return exact.new_zeros(self._bins).scatter_add_(0, bins, exact)

    def _cut(self, bins: Tensor, number: int) -> Tensor:
        return self._filtered(bins, number)[:, self._margin : self._margin + self._geometry.detectors]

    def _filtered(self, bins: Tensor, number: int) -> Tensor:
        """Bins (B, bins) convolved with a pixel's shadow and a detector's width, less the interpolation's triangle."""
        geometry, theta = self._geometry, self._geometry.angles[number]
        pixel = geometry.pixel_size_mm * geometry.magnification / geometry.detector_spacing_mm
        f = self._frequencies
        shadow = torch.sinc(f * (pixel * math.cos(theta))) * torch.sinc(f * (pixel * math.sin(theta)))
        spectrum = torch.fft.rfft(bins, self._length) * (shadow / torch.sinc(f))
        filtered: Tensor = torch.fft.irfft(spectrum, self._length)
        return filtered[:, : self._bins]
