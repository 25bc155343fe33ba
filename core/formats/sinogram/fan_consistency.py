"""Consistency of fans: line integrals of one object, rebinned to parallel rays, keep the laws of parallel beams.

All of a fan's detectors in reverse are the same scan seen from the other side of the plane: views of fans are right in
one of both orders only, and a whole turn tells which.
"""

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.sinogram.consistency import cut_off_warnings, format_numbers
from udig_recon.core.rebinning import UNEVEN, ParallelRays, parallel_rays
from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.sinogram_statistics import fill_missing_rays

Values = NDArray[np.float64]

BROKEN = 0.12
"""Share of the line integrals by which views must disagree for a warning."""
BETTER = 3.0
"""A warning calls detectors reversed where views agree better by this factor in the other order."""
LEAST_DETECTORS = 8
REVERSED = "numpy.flip(sinogram, -1), and rotation_center counted from the other end"


def fan_warnings(
    sinogram: NDArray[np.float32], geometry: Geometry, measured: NDArray[np.bool_] | None = None
) -> list[str]:
    """Warnings about one slice's sinogram (views, detectors) of fans; `measured` is False where a ray is missing."""
    p, angles = np.asarray(sinogram, np.float64), np.asarray(geometry.angles)
    numbers = np.arange(len(p))
    if measured is not None:
        p, views = fill_missing_rays(p, measured)
        numbers = np.flatnonzero(views)
    if p.shape[1] < LEAST_DETECTORS or not len(p) or not p.any():
        return []
    dead = p.max(axis=1) == p.min(axis=1)
    if dead.any():
        return [
            f"{format_numbers('view', numbers[dead])}: every detector reads the same; an array mask (views, detectors) "
            "with 0 there leaves them out"
        ]
    own = geometry._replace(angles=tuple(angles[numbers].tolist()))
    if abs(2 * geometry.axis - (geometry.detectors - 1)) <= UNEVEN:  # a half fan's shorter side is cut off by design
        cut = cut_off_warnings(p, float(np.percentile(np.abs(p), 99.5)))
        if cut:
            return cut
    found = _disagreement(parallel_rays(p, own))
    if found is None or found <= BROKEN:
        return []
    mirrored = own._replace(rotation_center=geometry.detectors - 1 - geometry.axis)
    other = _disagreement(parallel_rays(p[:, ::-1], mirrored))
    told = f"opposite views of the fans disagree by {100 * found:.2g} percent"
    if other is not None and other < found / BETTER:
        return [f"{told}, and in the other order of the detectors by {100 * other:.2g}: if so, {REVERSED}"]
    return [f"{told}: check the source's distances, the shape of the detector, the angles and rotation_center"]


def _disagreement(rays: ParallelRays | None) -> float | None:
    """Share by which parallel views half a turn apart are no mirror images; None where that cannot be told."""
    if rays is None or np.ptp(rays.angles) < 1.5 * np.pi:
        return None
    width = max(3, rays.sinogram.shape[1] // 30)
    smooth = np.stack([np.convolve(row, np.ones(width) / width, "same") for row in rays.sinogram])
    half = len(smooth) // 2
    difference = smooth[:half] - smooth[half : 2 * half, ::-1]
    return float(np.linalg.norm(difference) / max(float(np.linalg.norm(smooth)), np.finfo(np.float64).tiny) * 2**0.5)
