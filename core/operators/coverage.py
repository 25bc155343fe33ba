"""Coverage of a scan, from its geometry and data: angular gaps, truncation, a misplaced axis, unmeasured k-space.

Held-out measurements cannot test an image there, because nothing was measured.
"""

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.angles import folded_gaps
from udig_recon.core.scan_geometry import Geometry

WIDEST_STEP = 15.0
"""Degrees: a wider step between views is a gap, whatever is usual in the scan."""
EDGE = 3
"""Detectors on either side by which a projection is found to end within the detector."""
ENDED = 0.02
"""Share of the largest value that a detector beside the object may read."""
CUT = 0.1
"""A projection that ends at more than this share of the largest value is cut off."""
SURE = 4.0
"""Standard deviations that a departure must have to count."""
LEAST_END = 0.125
"""Share of the way from the centre of k-space to its end that may be padding: images are made finer for display."""
SPARSE = 0.5
"""Share that must be measured at the opposite end to stand in for one that is not."""


def ray_gap(angles: NDArray[np.float64], geometry: Geometry) -> float:
    """`angular_gap` of the rays through the point that they leave out most, of some within the image's inner half.

    The ray of a fan through a point at the angle gamma from the middle has the direction of the view less gamma.
    """
    if geometry.beam == "parallel":
        return angular_gap(angles)
    around = np.arange(8) * np.pi / 4
    radius = geometry.image_size * geometry.pixel_size_mm / 4
    found = angular_gap(angles)
    for x, y in radius * np.stack((np.cos(around), np.sin(around)), axis=1):
        across = x * np.cos(angles) + y * np.sin(angles)
        along = geometry.source_origin_mm + y * np.cos(angles) - x * np.sin(angles)
        found = max(found, angular_gap(angles - np.arctan2(across, along)))
    return found


def angular_gap(angles: NDArray[np.float64]) -> float:
    """Widest angle without views (radians) in degrees, less the usual step where that is at most 15 degrees."""
    gaps = np.rad2deg(folded_gaps(angles).ways)
    steps = gaps[gaps > 1e-4]
    return max(0.0, float(steps.max()) - min(float(np.median(steps)), WIDEST_STEP))


def longer_sides(angles: NDArray[np.float64], geometry: Geometry) -> tuple[bool, bool]:
    """Which edges of the detector, the first and the last one, see the object's edge.

    Both, but of a whole turn with the axis off the middle the one that is further from it: it sees what the other one
    leaves out.
    """
    off = 2 * geometry.axis - (geometry.detectors - 1)
    whole_turn = bool(folded_gaps(angles, 2 * np.pi).ways.max() < np.pi / 4)
    return (True, True) if abs(off) <= EDGE or not whole_turn else (off > 0, off < 0)


def truncation(sinogram: NDArray[np.float64], noise: float, sides: tuple[bool, bool] = (True, True)) -> float:
    """Largest mean of neighbouring views at an edge of the detector, beyond its noise, as a share of the largest value.

    Sinogram (views, detectors) of line integrals; 0 where all projections end within the detector, at the `sides` that
    count.
    """
    views, detectors = sinogram.shape
    together = max(1, views // 12)
    peak = float(np.quantile(sinogram, 0.99))
    if detectors < 4 * EDGE or peak <= 0:
        return 0.0
    outermost = np.stack((sinogram[:, :EDGE], sinogram[:, -EDGE:]))[np.array(sides)]
    edges = np.array_split(outermost, views // together, axis=1)
    found = 0.0
    for values in (part.mean(1) for part in edges):
        sure = SURE * noise / np.sqrt(edges[0].shape[1])
        # Where one of the edge's detectors reads nothing the object ends within the detector, if barely.
        cut = values.min(1) - sure > ENDED * peak
        found = max(found, float(np.max((values.mean(1) - sure / np.sqrt(EDGE)) * cut)) / peak)
    return found


def axis_offset(sinogram: NDArray[np.float64], angles: NDArray[np.float64], axis: float | None = None) -> float:
    """Offset of the rotation axis from detector `axis` (None: the middle), in detectors; 0 where it is not significant.

    Sinogram (views, detectors). The mean position of each projection is x cos(theta) + y sin(theta) + offset of the
    object's centre of mass (x, y) (Helgason 1965, Ludwig 1966), fitted by least squares.
    """
    detectors = sinogram.shape[1]
    mass = sinogram.sum(1)
    # The mean position of a projection that is cut off says nothing.
    ends = np.abs(np.stack((sinogram[:, :EDGE].mean(1), sinogram[:, -EDGE:].mean(1)))).max(0)
    whole = (mass > 0.2 * np.median(mass)) & (ends < CUT * float(np.quantile(sinogram, 0.99)))
    if np.median(mass) <= 0 or np.count_nonzero(whole) < 6:
        return 0.0
    middle = (detectors - 1) / 2 if axis is None else axis
    places = sinogram[whole] @ (np.arange(detectors) - middle) / mass[whole]
    waves = np.stack((np.ones(len(places)), np.cos(angles[whole]), np.sin(angles[whole])), axis=1)
    covariance = np.linalg.pinv(waves.T @ waves)
    fitted = covariance @ waves.T @ places
    variance = float(((places - waves @ fitted) ** 2).sum()) / (len(places) - 3) * float(covariance[0, 0])
    offset = float(fitted[0])
    return offset if abs(offset) > SURE * np.sqrt(variance) else 0.0


def unmeasured_share(measured: NDArray[np.bool_]) -> float:
    """How much of k-space (ky, kx) is not measured at one end of an axis, as a share of the way there from the centre.

    The larger of both axes, less the gap that the spacing of the lines leads to expect. An end whose opposite is mostly
    measured does not count: so much partial Fourier knows.
    """
    return max(_unmeasured_end(np.any(measured, axis=axis)) for axis in (0, 1))


def _unmeasured_end(lines: NDArray[np.bool_]) -> float:
    """Of lines (n,) along one axis."""
    middle = len(lines) // 2
    sides = (lines[middle::-1], lines[middle:])  # from the centre outwards
    reaches = [int(np.append(0, np.flatnonzero(side)).max()) for side in sides]
    centres = [int(np.append(~side, True).argmax()) for side in sides]
    outer = sum(np.count_nonzero(side[first:]) for side, first in zip(sides, centres, strict=True))
    way = sum(max(0, reach + 1 - first) for reach, first in zip(reaches, centres, strict=True))
    spacing = way / max(1, outer)
    found = 0.0
    for side, opposite, reach in zip(sides, reversed(sides), reaches, strict=True):
        end = len(side) - 1
        stands_in = np.count_nonzero(opposite[reach + 1 :]) >= SPARSE * (end - reach)
        if reach < end and not stands_in:
            found = max(found, (end - reach) / end - max(LEAST_END, 2 * spacing / end))
    return found
