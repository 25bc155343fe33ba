"""Ellipses whose line integrals are known: sinograms of parallel beams and fans, and the image, to be compared with."""

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.scan_geometry import Geometry

# (x, y, half axes a and b, angle, attenuation 1/mm), lengths as shares of half the image's width; nothing symmetric
ELLIPSES = (
    (0.0, 0.05, 0.7, 0.85, 0.1, 0.02),
    (-0.25, 0.3, 0.17, 0.28, 0.4, 0.01),
    (0.32, -0.2, 0.18, 0.15, 0.0, -0.012),
    (-0.32, -0.42, 0.1, 0.1, 0.0, 0.03),
)


def ellipse_rays(geometry: Geometry, samples: int = 8) -> NDArray[np.float32]:
    """Line integrals (views, detectors), the mean of some rays over each detector's width."""
    places = (np.arange(geometry.detectors)[:, None] + (np.arange(samples) + 0.5) / samples - 0.5).ravel()
    gamma = geometry.fan_angles(places)
    theta = np.asarray(geometry.angles)[:, None] - gamma
    s = (places - geometry.axis) * geometry.detector_spacing_mm
    if geometry.beam != "parallel":
        s = geometry.source_origin_mm * np.sin(gamma)
    unit = geometry.image_size * geometry.pixel_size_mm / 2
    rays = np.zeros(theta.shape)
    for x, y, a, b, turn, value in ELLIPSES:
        width = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
        along = s / unit - x * np.cos(theta) - y * np.sin(theta)
        rays += value * unit * 2 * a * b * np.sqrt(np.clip(width - along**2, 0, None)) / width
    return rays.reshape(len(geometry.angles), geometry.detectors, samples).mean(-1).astype(np.float32)


def ellipse_image(size: int, samples: int = 8) -> NDArray[np.float32]:
    """The image (size, size) in 1/mm, the mean of some points in each pixel."""
    fine = (np.arange(samples * size) + 0.5) / (samples * size) * 2 - 1
    x, y = fine[None, :], -fine[:, None]
    image = np.zeros((samples * size, samples * size))
    for cx, cy, a, b, turn, value in ELLIPSES:
        along, across = x - cx, y - cy
        u, v = along * np.cos(turn) + across * np.sin(turn), across * np.cos(turn) - along * np.sin(turn)
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    return image.reshape(size, samples, size, samples).mean((1, 3)).astype(np.float32)
