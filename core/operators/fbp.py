"""Filtered back-projection of fans, and the ramp filter of fans and parallel beams (Kak, Slaney 1988, chapter 3)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from udig_recon.core.interruption import check_interruption
from udig_recon.core.operators.base import Window
from udig_recon.core.scan_geometry import Geometry


def filter_rays(sinogram: Tensor, spacing: float, window: Window, *, curved: bool = False, blur: float = 1) -> Tensor:
    """Sinogram (..., detectors) convolved with the band-limited ramp |f|, padded against wrap-around.

    `curved` takes `spacing` for an angle of equiangular fans. `blur` above 1 is a width in detectors over which the
    result is averaged, less the width 1 of linear interpolation.
    """
    detectors = sinogram.shape[-1]
    length = 2 ** int(np.ceil(np.log2(2 * detectors)))
    n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    # Sampled in space: sampling |f| itself would take the mean of the image away.
    kernel = torch.where(n.remainder(2) == 1, -1 / (np.pi * n * spacing) ** 2, torch.zeros_like(n))
    kernel[0] = 1 / (2 * spacing) ** 2
    if curved:
        away = n * spacing * (n.abs() < detectors)  # further entries meet nothing but padding
        kernel = kernel / torch.sinc(away / np.pi) ** 2
    response = torch.fft.rfft(kernel).real * spacing
    frequencies = torch.fft.rfftfreq(length, dtype=torch.float64)
    if blur > 1:
        response = response * torch.sinc(blur * frequencies) / torch.sinc(frequencies)
    if window == "hann":
        response = response * (1 + torch.cos(2 * np.pi * frequencies)) / 2
    spectrum = torch.fft.rfft(sinogram, length) * response.to(sinogram)
    filtered: Tensor = torch.fft.irfft(spectrum, length)
    return filtered[..., :detectors]


def back_project_rays(sinogram: Tensor, geometry: Geometry, window: Window) -> Tensor:
    """Filtered back-projection (B, 1, n, n) in 1/mm of rays (B, 1, views, detectors) weighted by `ray_weights`."""
    # What the filter makes of rays lies beyond them, too: beyond the shorter side of a detector off the middle.
    before = max(0, math.ceil(geometry.detectors - 1 - 2 * geometry.axis))
    after = max(0, math.ceil(2 * geometry.axis - (geometry.detectors - 1)))
    axis, detectors = geometry.axis + before, geometry.detectors + before + after
    geometry = geometry._replace(detectors=detectors, rotation_center=axis)
    rays = F.pad(sinogram, (before, after))
    places = np.arange(detectors, dtype=np.float64)
    rays = rays * torch.from_numpy(np.cos(geometry.fan_angles(places))).to(sinogram)
    curved, fan = geometry.beam == "fan_curved", geometry.beam != "parallel"
    # Filtered at the axis, where lengths are R / D times those at the detector; of curved detectors along angles.
    distance = geometry.source_origin_mm if fan else 1.0
    unit = geometry.detector_spacing_mm / (geometry.source_detector_mm if fan else 1.0)
    width = geometry.pixel_size_mm * geometry.magnification / geometry.detector_spacing_mm
    filtered = filter_rays(rays, unit if curved else unit * distance, window, curved=curved, blur=width)
    padded = F.pad(filtered, (1, 1)).flatten(0, 1)
    x = (torch.arange(geometry.image_size, device=sinogram.device) - (geometry.image_size - 1) / 2).to(sinogram)
    x = x * geometry.pixel_size_mm
    y = -x[:, None]
    image = sinogram.new_zeros(len(padded), geometry.image_size, geometry.image_size)
    for view, theta in enumerate(geometry.angles):
        check_interruption()
        cos, sin = math.cos(theta), math.sin(theta)
        place, density = x * cos + y * sin, torch.ones(())
        if fan:
            along = distance + y * cos - x * sin
            density = distance / (place**2 + along**2) if curved else (distance / along) ** 2
            place = torch.atan2(place, along) if curved else place / along
        place = (place / unit + (axis + 1)).clamp(0, detectors + 1)
        start = place.floor().clamp(max=detectors)
        share, index = place - start, start.long()
        row = padded[:, view]
        image = image + torch.lerp(row[:, index], row[:, index + 1], share) * density
    return image[:, None]
