"""Detects swapped axes of slices and views where shapes do not show them: centres of mass follow the angles."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_VIEWS = 8
SWAPPED = 4
"""A warning calls axes swapped where the centres follow the angles better by this factor along the other."""


class CentresOfMass:
    """CentresOfMass of mass (slices, views) of a stack with as many slices as views, whose order no shape can tell."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._sums, self._moments = np.zeros(shape[:2]), np.zeros(shape[:2])
        self._middle = (shape[2] - 1) / 2

    def add(self, region: tuple[slice, ...], block: NDArray[np.generic]) -> None:
        """Add a block (slices, views, detectors) of line integrals."""
        values = np.asarray(block, np.float64)
        places = np.arange(region[2].start, region[2].stop) - self._middle
        self._sums[region[:2]] += values.sum(axis=2)
        self._moments[region[:2]] += values @ places

    def swapped_axes_warnings(self, angles: Values) -> list[str]:
        """A warning where the centres follow the angles along the first axis rather than along the second."""
        if min(self._sums.shape) < LEAST_VIEWS or self._sums.min() <= 0.2 * np.median(self._sums):
            return []
        centres = self._moments / self._sums
        along_views, along_slices = _misfit_of_sines(centres, angles), _misfit_of_sines(centres.T, angles)
        if along_views < 1e-6 or along_views < SWAPPED * along_slices:
            return []
        return [
            "the centres of mass follow the angles from slice to slice, not from view to view: the axes look like "
            "(views, slices, detectors) rather than (slices, views, detectors); if so, swap the first two"
        ]


def _misfit_of_sines(centres: Values, angles: Values) -> float:
    """Mean square residual of centres (rows, angles) after a fit of one constant, and of a sine for each row."""
    basis = np.linalg.qr(np.stack((np.cos(angles), np.sin(angles)), axis=1))[0]
    left = centres - (centres @ basis) @ basis.T
    one = 1 - basis @ basis.sum(axis=0)
    return float(np.mean((left - (left.mean(axis=0) @ one) / (one @ one) * one) ** 2))
