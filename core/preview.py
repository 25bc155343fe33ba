"""Preview image of a slice from its measurements alone: zero-filled MRI, filtered back-projection in CT. Torch-free.

It is for people who look at what they have uploaded. It is made where scans are read, without the engine, so that it
is coarser than a reconstruction: no coil maps or prewhitening, CT on a grid of at most 256 x 256 pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import CTAcquisition, MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.preprocessing.sinograms import geometry_of
from udig_recon.core.ray_weights import ray_weights
from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.sinogram_statistics import fill_missing_rays

Image = NDArray[np.floating[Any]]
Values = NDArray[np.float64]

MOST_PIXELS = 256
"""A side of a CT preview."""
MOST_VIEWS = 360
"""Of a CT preview; of more measured views every second, third ... is used."""
DENSITY_ROUNDS = 5
OVERSAMPLING = 2
"""Of the grid that non-Cartesian samples are spread on."""


def preview_image(scan: Any) -> NDArray[np.float32]:
    """Preview (y, x) of an acquisition of one slice: root sum of squares over coils, or attenuation in 1/mm.

    Raises KeyError for a type of acquisition that is not among `PREVIEWS`.
    """
    image = PREVIEWS[type(scan).__name__](scan)
    return np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def zero_filled(scan: MRIAcquisition) -> Image:
    """Root sum of squares over coils of zero-filled Cartesian k-space, cropped to the size of the reconstruction."""
    energy = np.zeros(scan.kspace.shape[2:], np.float32)
    for kspace in scan.kspace[0]:
        energy += np.abs(_inverse_transform(kspace)) ** 2
    return _crop(np.sqrt(energy), scan.recon_size)


def gridded(scan: NonCartesianAcquisition) -> Image:
    """The same of k-space along a trajectory, spread linearly on a grid with density compensation (Pipe, Menon 1999).

    The grid is twice as fine, and images are divided by the transform of the linear kernel, sinc^2.
    """
    measured = np.ones(scan.kspace.shape[2:], bool) if scan.measured is None else scan.measured[0]
    points = scan.trajectory[0][measured].astype(np.float64)
    grid = tuple(OVERSAMPLING * side for side in scan.matrix)
    places, shares = _neighbours(points, grid)
    weights = np.ones(len(points))
    for _ in range(DENSITY_ROUNDS):
        density = _spread(weights, places, shares, grid).reshape(-1)
        weights /= np.maximum((density[places] * shares).sum(axis=0), np.finfo(float).tiny)
    lobes = [np.sinc((np.arange(side) - side // 2) / (OVERSAMPLING * side)) ** 2 for side in scan.matrix]
    lobe = lobes[0][:, None] * lobes[1]
    # The origin is pixel n // 2 of either grid.
    starts = [OVERSAMPLING * side // 2 - side // 2 for side in scan.matrix]
    middle = tuple(slice(start, start + side) for start, side in zip(starts, scan.matrix, strict=True))
    energy = np.zeros(scan.matrix, np.float32)
    for samples in scan.kspace[0]:
        kspace = _spread(samples[measured] * weights, places, shares, grid)
        energy += np.abs(_inverse_transform(kspace)[middle] / lobe) ** 2
    return _crop(np.sqrt(energy), scan.recon_size)


def back_projected(scan: CTAcquisition) -> Image:
    """Filtered back-projection of parallel beams or fans (Kak, Slaney 1988, chapter 3), negative values as zero."""
    measured = scan.measured_of(0)
    sinogram = scan.sinogram[0].astype(np.float64)
    known = np.ones(sinogram.shape, bool) if measured is None else np.broadcast_to(measured, sinogram.shape)
    views = np.flatnonzero(known.any(axis=1))
    views = views[:: max(1, -(-len(views) // MOST_VIEWS))]
    geometry = geometry_of(replace(scan, angles=scan.angles[views]))
    size = min(geometry.image_size, MOST_PIXELS)
    if not len(views):
        return np.zeros((size, size))
    rays, _ = fill_missing_rays(sinogram[views], known[views])
    geometry = geometry._replace(image_size=size, pixel_size_mm=geometry.pixel_size_mm * geometry.image_size / size)
    rays, geometry = _join_detectors(rays, geometry)
    weighted = rays * ray_weights(geometry, np.ones(len(rays), bool))
    return np.maximum(_back_project(weighted, geometry), 0)


def _join_detectors(rays: Values, geometry: Geometry) -> tuple[Values, Geometry]:
    """The mean of as many neighbours as a pixel is wide."""
    width = geometry.pixel_size_mm * geometry.magnification / geometry.detector_spacing_mm
    joined = max(1, min(round(width), geometry.detectors // 16))
    detectors = geometry.detectors // joined
    return rays[:, : joined * detectors].reshape(len(rays), detectors, joined).mean(axis=2), geometry._replace(
        detectors=detectors,
        detector_spacing_mm=joined * geometry.detector_spacing_mm,
        rotation_center=(geometry.axis - (joined - 1) / 2) / joined,
    )


def _back_project(rays: Values, geometry: Geometry) -> Values:
    """Filtered back-projection (y, x) of weighted rays (views, detectors)."""
    fan, curved = geometry.beam != "parallel", geometry.beam == "fan_curved"
    # Rays that end where the detector does would be a bright ring after the filter, and what the filter makes of rays
    # lies beyond the shorter side of a detector off the middle, too.
    margin, beyond = max(4, geometry.detectors // 4), math.ceil(geometry.detectors - 1 - 2 * geometry.axis)
    before, after = margin + max(0, beyond), margin + max(0, -beyond)
    rays = np.pad(rays, ((0, 0), (before, after)), mode="linear_ramp")
    axis, detectors = geometry.axis + before, geometry.detectors + before + after
    geometry = geometry._replace(detectors=detectors, rotation_center=axis)
    rays = rays * np.cos(geometry.fan_angles(np.arange(detectors, dtype=np.float64)))
    distance = geometry.source_origin_mm if fan else 1.0
    unit = geometry.detector_spacing_mm / (geometry.source_detector_mm if fan else 1.0)
    rows = np.pad(_filter(rays, unit if curved else unit * distance, curved=curved), ((0, 0), (1, 1)))
    x = (np.arange(geometry.image_size) - (geometry.image_size - 1) / 2) * geometry.pixel_size_mm
    y = -x[:, None]
    image = np.zeros((geometry.image_size, geometry.image_size))
    for row, theta in zip(rows, geometry.angles, strict=True):
        place, density = x * math.cos(theta) + y * math.sin(theta), np.ones(())
        if fan:
            along = distance + y * math.cos(theta) - x * math.sin(theta)
            density = distance / (place**2 + along**2) if curved else (distance / along) ** 2
            place = np.arctan2(place, along) if curved else place / along
        place = np.clip(place / unit + (axis + 1), 0, detectors + 1 - 1e-6)
        start = place.astype(np.intp)
        share = place - start
        image += (row[start] * (1 - share) + row[start + 1] * share) * density
    return image


def _filter(rays: Values, spacing: float, *, curved: bool) -> Values:
    """Rays (views, detectors) convolved with the band-limited ramp; `curved` takes `spacing` for an angle."""
    detectors = rays.shape[1]
    length = 2 ** math.ceil(math.log2(2 * detectors))
    n = np.fft.fftfreq(length, 1 / length)
    kernel = np.zeros(length)
    odd = n % 2 == 1
    kernel[odd] = -1 / (np.pi * n[odd] * spacing) ** 2
    kernel[0] = 1 / (2 * spacing) ** 2
    if curved:
        away = np.where(np.abs(n) < detectors, n * spacing, 0)
        kernel /= np.sinc(away / np.pi) ** 2
    response = np.fft.rfft(kernel).real * spacing
    filtered: Values = np.fft.irfft(np.fft.rfft(rays, length) * response, length)[:, :detectors]
    return filtered


def _inverse_transform(kspace: NDArray[Any]) -> NDArray[np.complex64]:
    """Image of k-space (ky, kx), the zero frequency and the origin in the middle of both."""
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace), norm="ortho"))
    return image.astype(np.complex64)


def _neighbours(points: Values, grid: tuple[int, ...]) -> tuple[NDArray[np.intp], Values]:
    """Flat indices (4, points) of the points of the grid around each, and the share (4, points) that each gets."""
    place = np.mod(OVERSAMPLING * points + np.array(grid) // 2, grid)
    low = np.floor(place).astype(np.intp)
    share = place - low
    indices, shares = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            indices.append((low[:, 0] + dy) % grid[0] * grid[1] + (low[:, 1] + dx) % grid[1])
            shares.append(np.abs(1 - dy - share[:, 0]) * np.abs(1 - dx - share[:, 1]))
    return np.stack(indices), np.stack(shares)


def _spread(values: NDArray[Any], places: NDArray[np.intp], shares: Values, grid: tuple[int, ...]) -> NDArray[Any]:
    """Values (points,) added up on the grid."""
    size = grid[0] * grid[1]
    flat = places.reshape(-1)
    spread: NDArray[Any] = np.bincount(flat, (values.real * shares).reshape(-1), size).astype(values.dtype)
    if np.iscomplexobj(values):
        spread = spread + 1j * np.bincount(flat, (values.imag * shares).reshape(-1), size)
    return spread.reshape(grid)


def _crop(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The middle of an image (y, x), as results are cropped."""
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


PREVIEWS: Mapping[str, Callable[[Any], Image]] = {
    MRIAcquisition.__name__: zero_filled,
    NonCartesianAcquisition.__name__: gridded,
    CTAcquisition.__name__: back_projected,
}
"""Previews by the name of the type of acquisition."""
