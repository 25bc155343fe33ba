"""Rebinning of fans to parallel rays, for laws and checks that hold of parallel beams; images are made of the fans."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.scan_geometry import Geometry

MOST_STEP = math.radians(3.5)
"""Between views further apart rays are not interpolated."""
UNEVEN = 3.0
"""A detector whose sides differ by more has rays on one side that it lacks on the other."""


class ParallelRays(NamedTuple):
    """Parallel views of an object that was seen by fans."""

    sinogram: NDArray[np.float64]  # (views, detectors)
    angles: NDArray[np.float64]  # radians
    axis: float  # detector index that the axis of rotation falls on
    magnification: float  # detectors of the fan for one detector here


def parallel_rays(sinogram: NDArray[np.float64], geometry: Geometry) -> ParallelRays | None:
    """Parallel rays of a sinogram (views, detectors), linear between the nearest fans' rays.

    Parallel beams are given back. None for fans whose views are too far apart, for less than a short scan, and where
    the axis is off the detector's middle.
    """
    angles = np.asarray(geometry.angles)
    if geometry.beam == "parallel":
        return ParallelRays(sinogram, angles, geometry.axis, 1.0)
    if abs(2 * geometry.axis - (geometry.detectors - 1)) > UNEVEN or len(angles) < 8:
        return None
    turn = 2 * math.pi
    order = np.argsort(np.mod(angles, turn), kind="stable")
    beta = np.mod(angles, turn)[order]
    ways = np.diff(beta, append=beta[0] + turn)
    widest = int(np.argmax(ways))
    step = float(np.median(ways))
    closed = ways[widest] <= max(MOST_STEP, 1.5 * step)
    if step > MOST_STEP or np.sort(ways)[-2] > 2 * MOST_STEP:
        return None
    # Views from the one behind the widest gap on, and those of a closed turn once more on either side.
    order, beta = np.roll(order, -widest - 1), np.roll(beta, -widest - 1)
    beta = np.where(beta < beta[0], beta + turn, beta)
    if closed:
        order = np.tile(order, 3)
        beta = np.concatenate((beta - turn, beta, beta + turn))
    edges = geometry.fan_angles(np.array([0.0, geometry.detectors - 1.0]))
    reach = float(np.abs(edges).min())
    start, end = (beta[0] + turn, beta[0] + 2 * turn) if closed else (beta[0] + reach, beta[-1] - reach)
    if end - start < (math.pi if closed else math.pi - step):
        return None
    theta = np.arange(start, end - step / 4, step)
    count = geometry.detectors
    s = geometry.source_origin_mm * math.sin(reach) * np.linspace(-1, 1, count)
    gamma = np.arcsin(s / geometry.source_origin_mm)
    slopes = np.tan(gamma) if geometry.beam == "fan_flat" else gamma
    unit = geometry.detector_spacing_mm / geometry.source_detector_mm
    places = np.clip(slopes / unit + geometry.axis, 0, count - 1)
    left = np.minimum(places.astype(np.intp), count - 2)
    across = sinogram[order][:, left] * (1 - places + left) + sinogram[order][:, left + 1] * (places - left)
    wanted = theta[:, None] + gamma
    views = np.clip(np.interp(wanted, beta, np.arange(len(beta))), 0, len(beta) - 1)
    before = np.minimum(views.astype(np.intp), len(beta) - 2)
    columns = np.arange(count)
    rays = across[before, columns] * (1 - views + before) + across[before + 1, columns] * (views - before)
    spacing = (s[1] - s[0]) * geometry.magnification
    return ParallelRays(rays, theta, (count - 1) / 2, spacing / geometry.detector_spacing_mm)
