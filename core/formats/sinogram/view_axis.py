"""Finds the axis of views of a sinogram, by its length, or detects that it is another by the centres of mass."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.containers.views import SlicesOfProjections, SwappedAxes
from udig_recon.core.formats.input_format import Contents

Values = NDArray[np.float64]

LEAST_VIEWS = 8
SWAPPED = 4
"""A warning calls axes swapped where the centres follow the angles better by this factor along the other."""


def arrange_views(contents: Contents) -> Contents:
    """The scan with its sinogram as (slices, views, detectors), where another axis alone is as long as the angles."""
    source, angles = contents.arrays["sinogram"], contents.arrays.get("angles")
    views = 0 if angles is None else math.prod(angles.shape)
    shape = source.shape
    if views < 2 or len(shape) not in (2, 3) or 1 in shape or shape.count(views) != 1 or shape[-2] == views:
        return contents
    swapped = SwappedAxes(source) if shape[-1] == views else SlicesOfProjections(source)
    ours = "(views, detectors)" if len(shape) == 2 else "(slices, views, detectors)"
    warning = f"the sinogram of shape {shape} is read as {swapped.shape}, {ours}, as its angles are {views}"
    return replace(contents, arrays={**contents.arrays, "sinogram": swapped}, warnings=(*contents.warnings, warning))


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
