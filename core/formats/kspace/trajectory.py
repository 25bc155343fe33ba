"""Trajectories of k-space in one unit, cycles per field of view, whatever unit and axes a file has them in."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.with_warnings import WithWarnings

Reals = NDArray[np.floating[Any]]
Shape = Literal["radial", "spiral", "other"]

LARGEST_SHARE = 0.75
"""Cycles per pixel that a trajectory may reach: the corner of a square of k-space is at 0.71."""

_RADIANS = 0.06  # share by which the largest frequency may differ from pi, where it is in radians per pixel
_LEAST_SHARE = 0.1  # cycles per pixel that a trajectory should reach at least
_FLAT = 1e-3  # share of the largest frequency that a third component may reach in a slice
_ROUNDED = 0.02  # share of a step by which the end of k-space may miss half of a whole matrix
_REMEDY = (
    "cycles per pixel (at most 0.5 along an axis), cycles per field of view (at most half of the matrix) or radians "
    "per pixel (at most pi): of 1/m, multiply by the pixel's size in metres"
)


def without_complex(values: NDArray[Any]) -> Reals:
    """A trajectory of complex numbers kx + i ky with its components as a last axis; real ones as they are."""
    if values.dtype.kind == "c":
        return np.stack((values.real, values.imag), axis=-1)
    return values


def component_axis(shape: tuple[int, ...]) -> int:
    """The axis of 2 or 3 components: the last one, or else the first. Raises UnreadableScan where neither is."""
    for axis in (len(shape) - 1, 0):
        if len(shape) >= 2 and shape[axis] in (2, 3):
            return axis
    raise UnreadableScan.at(
        "trajectory", f"shape {shape}", "(readouts, samples, 2) of (kx, ky), or its axes the other way round"
    )


def runs_along_last(points: Reals) -> bool:
    """Whether samples of points (a, b, 2) follow one another along the second axis, as neighbours are nearer there."""
    along, across = (
        float(np.median(np.hypot(*np.moveaxis(np.diff(points, axis=axis), -1, 0)))) if points.shape[axis] > 1 else 0.0
        for axis in (1, 0)
    )
    return points.shape[1] > 1 and (points.shape[0] == 1 or along <= across)


def in_plane(points: Reals) -> NDArray[np.float64]:
    """Frequencies (..., 2) as (ky, kx) of points (..., 2 or 3) of (kx, ky[, kz]).

    Raises UnreadableScan for values that are not finite, UnsupportedScan for a trajectory in three dimensions.
    """
    found: NDArray[np.float64] = np.asarray(points, np.float64)
    if not np.isfinite(found).all():
        raise UnreadableScan.at("trajectory", "NaN or infinity", "finite frequencies")
    largest = float(np.abs(found[..., :2]).max())
    if largest == 0:
        raise UnreadableScan.at("trajectory", "nothing but zeros", "frequencies (kx, ky)")
    if found.shape[-1] == 3 and float(np.abs(found[..., 2]).max()) > _FLAT * largest:
        raise UnsupportedScan.at(
            "trajectory",
            "three dimensions",
            "two: transform a stack of stars or spirals along kz first, to slices; others are not read",
        )
    plane: NDArray[np.float64] = found[..., 1::-1]
    return plane


def matrix_of(points: Reals, kind: Shape) -> WithWarnings[tuple[int, int]]:
    """The matrix (y, x) that a trajectory (readouts, samples, 2) was measured for, where nothing else tells it.

    In cycles per field of view it reaches half of the matrix. In cycles or radians per pixel, spokes are taken for
    oversampled twice. Raises UnreadableScan where neither tells.
    """
    reach = float(np.abs(points).max())
    if reach > 4 and not _is_radians(reach):
        side = 2 * math.ceil(reach - _ROUNDED)
        return WithWarnings((side, side), (f"the matrix is not told: {side} x {side}, as the trajectory ends there",))
    if kind != "radial":
        raise UnreadableScan.at("image_size", "nothing", "pixels a side: the trajectory does not tell of them")
    side = points.shape[1] // 2
    told = f"the matrix is not told: {side} x {side}, as spokes of {points.shape[1]} samples oversampled twice have it"
    return WithWarnings((side, side), (told,))


def in_cycles_per_field(points: Reals, matrix: tuple[int, int]) -> WithWarnings[NDArray[np.float32]]:
    """A trajectory (..., 2) of (ky, kx) in cycles per field of view of a matrix (y, x), by its largest frequency.

    Raises UnreadableScan where that is of no known unit.
    """
    reach = float(np.abs(points).max())
    sides = np.array(matrix, np.float64)
    share = float((np.abs(points) / sides).reshape(-1, 2).max())
    warnings: list[str] = []
    if reach <= LARGEST_SHARE:
        points, share, unit = points * sides, reach, "cycles per pixel"
    elif _is_radians(reach) and share < LARGEST_SHARE / math.pi:
        points, share, unit = points * sides / (2 * math.pi), reach / (2 * math.pi), "radians per pixel"
    elif share <= LARGEST_SHARE:
        unit = "cycles per field of view"
    else:
        raise UnreadableScan.at(
            "trajectory", f"frequencies of up to {reach:.4g} for a matrix of {matrix[0]} x {matrix[1]}", _REMEDY
        )
    warnings.append(f"the trajectory is taken for {unit}, as it reaches {reach:.4g}")
    if share < _LEAST_SHARE:
        warnings.append(
            f"the trajectory reaches only {2 * share:.0%} of the way to the end of k-space of {matrix[0]} x "
            f"{matrix[1]} pixels: is it in another unit, or image_size wrong?"
        )
    return WithWarnings(points.astype(np.float32), tuple(warnings))


def _is_radians(reach: float) -> bool:
    return abs(reach - math.pi) <= _RADIANS * math.pi


def shape_of(points: Reals) -> Shape:
    """Whether readouts of a trajectory (readouts, samples, 2) are lines through the centre, turn about it, or neither.

    A line from the centre outwards is radial too.
    """
    radius = np.hypot(points[..., 0], points[..., 1])
    largest = float(radius.max())
    if points.shape[1] < 3 or float(np.median(radius.min(axis=1))) > 0.1 * largest:
        return "other"
    starts, ends = points[:, 0], points[:, -1]
    length = np.hypot(*np.moveaxis(ends - starts, -1, 0))
    path = np.hypot(*np.moveaxis(np.diff(points, axis=1), -1, 0)).sum(axis=1)
    if float(np.median(path / np.maximum(length, 1e-9))) < 1.05:
        return "radial"
    angles = np.unwrap(np.arctan2(points[..., 0], points[..., 1]), axis=1)
    turned = np.abs(np.median(angles[:, -1] - angles[:, points.shape[1] // 8]))
    return "spiral" if turned > math.pi / 4 else "other"
