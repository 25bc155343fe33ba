"""The calibration region of a Cartesian scan: where it lies, and whether coil maps can be estimated from it."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from udig_recon.core.errors import UnsupportedScan

SMALLEST_CALIBRATION = 8
LARGEST_CALIBRATION = 32

_NEAR = 0.75  # cells: a point of the grid with a sample so near is measured
_SMOOTHED = 2  # samples to either side over which the echo is looked for


def centre(size: int, width: int) -> slice:
    """The `width` samples about the origin n // 2 of an axis of `size` samples; all of them where it is shorter."""
    first = max(size // 2 - width // 2, 0)
    return slice(first, min(first + width, size))


def full_centre(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Height and width of the fully measured rectangle about the centre of a mask (ky, kx), at most 32 each."""
    best = (0, 0)
    for height in range(1, min(LARGEST_CALIBRATION, mask.shape[0]) + 1):
        full: NDArray[np.bool_] = np.all(mask[centre(mask.shape[0], height)], axis=0)
        widths = range(1, min(LARGEST_CALIBRATION, full.size) + 1)
        width = max((w for w in widths if full[centre(full.size, w)].all()), default=0)
        best = max(best, (height, width), key=lambda size: (min(size), max(size)))
    return best


def calibration_size(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The `full_centre` of a mask (ky, kx). Raises UnsupportedScan when it is smaller than 8 x 8."""
    best = full_centre(mask)
    if min(best) < SMALLEST_CALIBRATION:
        raise UnsupportedScan(
            f"the centre of k-space is fully measured over {best[0]} x {best[1]} samples; estimating coil maps needs "
            f"{SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION}: send sensitivity_maps with the scan",
            field="mask",
            found=f"{best[0]} x {best[1]} calibration samples",
            expected=f"{SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} or more, or sensitivity_maps",
        )
    return best


def calibration_of(points: NDArray[np.floating], shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the region about the centre where every point of the grid has a sample near it.

    Points (samples, 2) in cycles per field of view. Raises UnsupportedScan when it is smaller than 8 x 8.
    """
    sides = [min(side, LARGEST_CALIBRATION) for side in shape]
    rows, columns = (np.arange(side) - side // 2 for side in sides)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    distance = np.asarray(KDTree(points).query(grid.reshape(-1, 2))[0])
    best = full_centre(distance.reshape(grid.shape[:2]) <= _NEAR)
    if min(best) < SMALLEST_CALIBRATION:
        raise UnsupportedScan(
            f"the centre of k-space is sampled densely over {best[0]} x {best[1]} cells; estimating coil maps needs "
            f"{SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION}: send sensitivity_maps with the scan",
            field="trajectory",
            found=f"{best[0]} x {best[1]} densely sampled cells",
            expected=f"{SMALLEST_CALIBRATION} x {SMALLEST_CALIBRATION} or more, or sensitivity_maps",
        )
    return best


def echo(energy: NDArray[np.floating]) -> tuple[int, int]:
    """Where the signal is strongest, (row, column) of an energy map (ky, kx)."""
    smooth = energy
    for axis in (0, 1):
        smooth = np.sum([np.roll(smooth, step, axis) for step in range(-_SMOOTHED, _SMOOTHED + 1)], axis=0)
    row, column = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return int(row), int(column)


def echo_shift(energy: NDArray[np.floating], mask: NDArray[np.bool_]) -> tuple[int, int]:
    """How far to roll k-space (ky, kx) so that its calibration region comes to lie about the centre; (0, 0): it does.

    Only where nothing can be calibrated about the centre, and enough about the echo. To roll k-space is to multiply the
    image by a phase ramp, so magnitudes stay.
    """
    if min(full_centre(mask)) >= SMALLEST_CALIBRATION:
        return 0, 0
    at = echo(energy * mask)
    # Along an axis that all its lines are measured of, nothing is gained.
    lines = bool((mask == mask[:1]).all()), bool((mask == mask[:, :1]).all())
    shift = tuple(
        0 if lines[axis] else size // 2 - place for axis, (size, place) in enumerate(zip(mask.shape, at, strict=True))
    )
    rolled = np.roll(mask, shift, (0, 1))
    return (shift[0], shift[1]) if min(full_centre(rolled)) >= SMALLEST_CALIBRATION else (0, 0)
