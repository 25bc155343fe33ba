"""Axis of rotation found in a sinogram: by the centre of mass of its views, or by opposite rays. Torch-free."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.sinogram_statistics import end_margin, end_means, fill_view, ray_noise

Values = NDArray[np.float64]

CUT = 0.05
"""A view counts as cut off where its edge reads more than this share of the peak, beyond noise."""
CONSTANT = 0.02
"""Standard deviation of the views' sums, as a share of their mean, up to which they see the whole object."""
WHOLE = 0.9
"""Share of the views that must not be cut off for the centre of mass to tell the axis."""
SURE = 0.25
"""Detectors: an axis of a larger standard deviation is not found, and a smaller difference is not told."""
DEVIATIONS = 4.0
"""Standard deviations by which an axis must differ from where it was taken to be."""
_MOST_COARSE_DETECTORS = 160
_MOST_VIEWS = 120
_LEAST_VIEWS = 8
_WIDEST_STEP = np.deg2rad(8.0)  # between views, to interpolate from one to the next
_BLURRED_ENDS = 5  # detectors
_SMOOTHING = 1.5  # detectors: what is interpolated between them is then as good as what was measured
_LEAST_OPPOSITE = 0.05  # share of the rays that must have an opposite one
_DISTINCT = 0.5  # of the usual misfit of opposite rays: the least one must be lower


class FoundAxis(NamedTuple):
    """Detector index that the axis of rotation falls on; None where it cannot be found."""

    center: float | None
    deviation: float  # standard deviation in detectors
    how: str  # how it was found, or why not


def find_axis(
    sinogram: NDArray[np.float32], angles: Values, measured: NDArray[np.bool_] | None, geometry: Geometry
) -> FoundAxis:
    """Axis of rotation of line integrals (views, detectors) at `angles` (radians).

    For parallel beams that see the whole object, by the centre of mass of each view, which is x cos(theta) + y
    sin(theta) about the axis (Helgason 1965, Ludwig 1966). Else, as for fans, by rays in opposite directions along the
    same lines, which full turns have: ray (beta, gamma) of a fan lies on that of (beta + pi - 2 gamma, -gamma).
    `measured` (views, detectors) is False where a ray is missing.
    """
    p = np.asarray(sinogram, np.float64)
    if measured is not None:
        known = measured.mean(axis=1) > 0.5
        p = np.stack([fill_view(row, there) for row, there in zip(p[known], measured[known], strict=True)] or [p[0]])
        angles = angles[known] if known.any() else angles[:1]
    peak = float(np.percentile(np.abs(p), 99.5))
    if len(p) < _LEAST_VIEWS or p.shape[1] < _LEAST_VIEWS or peak <= 0:
        return FoundAxis(None, np.inf, "there is too little signal")
    if geometry.beam == "parallel":
        found = _by_centre_of_mass(p, angles, peak)
        if found.center is not None:
            return found
    opposite = _by_opposite_rays(p, angles, geometry)
    if opposite.center is not None or geometry.beam != "parallel":
        return opposite
    return FoundAxis(None, np.inf, f"{found.how}, and {opposite.how}")


def _by_centre_of_mass(p: Values, angles: Values, peak: float) -> FoundAxis:
    ends = end_means(p)
    p = p - np.median(ends)
    cut = np.abs(ends - np.median(ends)).max(axis=0) > CUT * peak + 4 * ray_noise(p) / np.sqrt(end_margin(p))
    if np.count_nonzero(~cut) < WHOLE * len(p):
        return FoundAxis(None, np.inf, f"the object reaches beyond the detector in {np.count_nonzero(cut)} views")
    p, angles = p[~cut], angles[~cut]
    sums = p.sum(axis=1)
    usual = float(np.median(sums))
    if usual <= 0 or float(sums.std()) > CONSTANT * usual + 3 * ray_noise(p) * np.sqrt(p.shape[1]):
        return FoundAxis(None, np.inf, "the sums of the views differ, so that they do not see the same object")
    places = p @ np.arange(p.shape[1]) / sums
    waves = np.stack((np.ones(len(places)), np.cos(angles), np.sin(angles)), axis=1)
    covariance = np.linalg.pinv(waves.T @ waves)
    fitted = covariance @ waves.T @ places
    left = places - waves @ fitted
    freedom = max(1, len(places) - 3)
    # Of few views the scatter is not known well, either: as wide tails of Student's t.
    deviation = float(np.sqrt(np.sum(left**2) / freedom * (1 + 20 / freedom) * covariance[0, 0]))
    center = float(fitted[0])
    if not (deviation <= SURE and 0 <= center <= p.shape[1] - 1):
        return FoundAxis(None, deviation, "the centres of mass of the views do not tell it")
    return FoundAxis(center, deviation, "the centres of mass of the views")


def _by_opposite_rays(p: Values, angles: Values, geometry: Geometry) -> FoundAxis:
    detectors = p.shape[1]
    times = max(1, detectors // _MOST_COARSE_DETECTORS)
    width = detectors // times
    coarse = p[:, : width * times].reshape(len(p), width, times).mean(axis=2)
    scaled = geometry._replace(detectors=width, detector_spacing_mm=geometry.detector_spacing_mm * times)
    trials = np.arange(0.25 * width, 0.75 * width)
    misfits = np.array([_OppositeRays(coarse, angles, scaled).misfit(trial) for trial in trials])
    if not np.isfinite(misfits).any():
        return FoundAxis(None, np.inf, "no rays in opposite directions were measured")
    best = int(np.nanargmin(misfits))
    if not misfits[best] < _DISTINCT * np.nanmedian(misfits):
        return FoundAxis(None, np.inf, "opposite rays fit each other about no axis")
    start = (trials[best] + 0.5) * times - 0.5
    # Views taken in turn give two axes, whose difference tells how sure they are.
    halves = [_refine(_OppositeRays(p, angles, geometry, first), start, 1.5 * times) for first in (0, 1)]
    deviation = abs(halves[0] - halves[1]) / 2
    center = float(np.mean(halves))
    if deviation > SURE or abs(center - start) > 2 * times:
        return FoundAxis(None, deviation, "opposite rays fit each other about no axis")
    return FoundAxis(center, deviation, "opposite rays")


class _OppositeRays:
    """Misfit of rays with those along the same lines in the opposite direction."""

    def __init__(self, p: Values, angles: Values, geometry: Geometry, first: int = 0) -> None:
        p = ndimage.gaussian_filter1d(p, _SMOOTHING, axis=1, mode="nearest")
        folded = np.mod(angles, 2 * np.pi)
        order = np.argsort(folded)
        folded, rows = folded[order], p[order]
        self._turn = np.concatenate((folded[-1:] - 2 * np.pi, folded, folded[:1] + 2 * np.pi))
        self._rows = np.concatenate((rows[-1:], rows, rows[:1]))
        steps = np.diff(self._turn)
        usual = float(np.median(steps[steps > 1e-9])) if (steps > 1e-9).any() else np.inf
        self._wide = steps > min(max(1.6 * usual, 1e-6), _WIDEST_STEP)
        every = max(2, 2 * len(p) // (2 * _MOST_VIEWS))
        self._views = np.arange(first * every // 2, len(rows), every)
        self._angles, self._p, self._geometry = folded, rows, geometry

    def misfit(self, center: float) -> float:
        """Mean square difference about an axis, over the rays that have an opposite one; NaN where there are few."""
        places = np.arange(self._p.shape[1], dtype=np.float64)
        gamma = self._geometry._replace(rotation_center=float(center)).fan_angles(places)
        beta = np.mod(self._angles[self._views][:, None] + np.pi - 2 * gamma, 2 * np.pi)
        row = np.interp(beta, self._turn, np.arange(len(self._turn)))
        mirrored = np.broadcast_to(2 * center - places, row.shape)
        # At the ends smoothing is one-sided.
        end = min(_BLURRED_ENDS, len(places) // 8)
        there = (np.minimum(mirrored, places) >= end) & (np.maximum(mirrored, places) <= len(places) - 1 - end)
        there &= ~self._wide[np.clip(np.floor(row).astype(np.intp), 0, len(self._wide) - 1)]
        if np.count_nonzero(there) < max(_LEAST_OPPOSITE * there.size, 4 * np.sqrt(there.size)):
            return float("nan")
        opposite = ndimage.map_coordinates(self._rows, (row[there], mirrored[there]), order=1, mode="nearest")
        return float(np.mean((self._p[self._views][there] - opposite) ** 2))


def _refine(rays: _OppositeRays, start: float, reach: float) -> float:
    """The axis of least misfit near `start`: narrower and narrower parabolas through five trials."""
    center = start
    while reach > 0.05:
        trials = center + reach * np.linspace(-1, 1, 5)
        misfits = np.array([rays.misfit(float(trial)) for trial in trials])
        if not np.isfinite(misfits).all():
            return float("inf")
        curve = np.polyfit(trials - center, misfits, 2)
        step = -curve[1] / (2 * curve[0]) if curve[0] > 0 else trials[int(np.argmin(misfits))] - center
        center += float(np.clip(step, -reach, reach))
        reach /= 2
    return center
