"""Geometry of a sinogram: angles, grids and missing rays, from the file or assumed with a warning."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.arrays import ArraySource, SqueezedAxes
from udig_recon.core.formats.lengths import length
from udig_recon.core.formats.limits import quote_safely
from udig_recon.core.formats.with_warnings import WithWarnings

AXES = "(slices, views, detectors)"

_GEOMETRIES = ("fan", "cone", "helical", "spiral", "laminography")  # that are not read, but named
_MOST_UNLIKE = 100  # pixels and detectors: what one crosses of the other is gone through one by one
_MOST_TURN = 2.1 * math.pi  # a turn and a bit: nobody needs more of a parallel beam, and degrees soon exceed it


def check_geometry(attributes: Mapping[str, float | str]) -> tuple[str, ...]:
    """Refuse beams that are not parallel; returns the warning of a file that does not say so."""
    geometry = attributes.get("geometry")
    if geometry is None:
        return ("the file gives no geometry: parallel beams are assumed",)
    plain = str(geometry).lower().strip().replace("_", "").replace("-", "").replace(" ", "")
    if plain.removesuffix("2d").removesuffix("3d").removesuffix("beam") == "parallel":
        return ()
    known = next((name for name in _GEOMETRIES if plain.startswith(name)), None)
    found = quote_safely(geometry) if known is None else f"{known} beam" if known in ("fan", "cone") else known
    expected = "parallel"
    if known is not None:
        expected += " (rebin the measurements to parallel rays first: a sinogram of one view for each direction)"
    raise UnsupportedScan.at("geometry", found, expected)


class Grid(NamedTuple):
    """The image's grid and the detector's."""

    image_size: int  # pixels a side
    pixel_size_mm: float
    detector_spacing_mm: float


def image_grid(
    attributes: Mapping[str, float | str], detectors: int, reference: ArraySource | None
) -> WithWarnings[Grid]:
    """The grid as the file gives it; what is missing follows from the rest, with a warning."""
    warnings = []
    pixel = length(attributes, "pixel_size_mm")
    spacing = length(attributes, "detector_spacing_mm")
    if pixel is None:
        pixel = 1.0 if spacing is None else spacing
        warnings.append(f"the file gives no pixel_size_mm: {pixel:g} mm is assumed")
    if spacing is None:
        spacing = pixel
        warnings.append(f"the file gives no detector_spacing_mm: {spacing:g} mm is assumed")
    if not 1 / _MOST_UNLIKE <= pixel / spacing <= _MOST_UNLIKE:
        found = f"pixels of {pixel:g} mm and detectors of {spacing:g} mm"
        raise UnreadableScan.at("pixel_size_mm", found, f"sizes that differ by a factor of {_MOST_UNLIKE} at most")
    given = attributes.get("image_size")
    if given is not None:
        if isinstance(given, str) or not 1 <= given < 1e9 or given != int(given):
            raise UnreadableScan.at("image_size", quote_safely(given), "a whole number of pixels")
        return WithWarnings(Grid(int(given), pixel, spacing), tuple(warnings))
    if reference is not None and len(reference.shape) >= 2:
        size = reference.shape[-1]
    else:
        size = min(max(round(detectors * spacing / pixel), 1), 1_000_000_000)
    warnings.append(f"the file gives no image_size: {size} pixels are assumed")
    return WithWarnings(Grid(size, pixel, spacing), tuple(warnings))


def rotation_center(attributes: Mapping[str, float | str], detectors: int) -> float | None:
    """Detector index, counted from 0, that the axis of rotation falls on; None: the middle."""
    centre = attributes.get("rotation_center")
    if centre is None:
        return None
    if isinstance(centre, str) or not 0 <= centre <= detectors - 1:
        expected = f"a detector's index, counted from 0, of 0 to {detectors - 1}; the middle is {(detectors - 1) / 2:g}"
        raise UnreadableScan.at("rotation_center", quote_safely(centre), expected)
    return centre


def read_angles(source: ArraySource | None, shape: tuple[int, ...], others: Sequence[str]) -> NDArray[np.float64]:
    """Angles (views,) in radians of a sinogram of this shape; `others` are names of what else the file holds."""
    views = shape[1]
    wanted = f"{views} angles in radians, one per view, under the name angles"
    if source is None:
        alike = [name for name in others if name.lower() in ("theta", "angle", "thetas", "projection_angles", "phi")]
        raise UnreadableScan.at("angles", f"none, but {alike[0]}" if alike else "none", wanted)
    count = math.prod(source.shape)
    if count != views or max(source.shape, default=1) != count:
        _refuse_swapped(shape, count)
        raise UnreadableScan.at(
            "angles", f"shape {source.shape}", f"shape {(views,)}, one per view of sinogram {shape}"
        )
    if source.dtype.kind not in "iuf":
        raise UnreadableScan.at("angles", f"{source.dtype} values", "radians as numbers")
    angles = source.whole().reshape(-1).astype(np.float64)
    if not np.isfinite(angles).all():
        raise UnreadableScan.at("angles", "NaN or infinity", "finite radians")
    low, high = float(angles.min()), float(angles.max())
    if _look_like_degrees(angles):
        radians = f"radians, {math.radians(low):.4g} to {math.radians(high):.4g} (numpy.deg2rad)"
        raise UnreadableScan.at("angles", f"values from {low:g} to {high:g}, which look like degrees", radians)
    if views > 1 and high == low:
        raise UnreadableScan.at("angles", f"{views} views at the same angle {low:g}", "different angles in radians")
    return angles


def _refuse_swapped(shape: tuple[int, ...], angles: int) -> None:
    """Raise UnreadableScan with the right order of axes where another axis is as long as the angles."""
    slices, views, detectors = shape
    expected = f"{AXES}, with as many views as angles"
    if angles == detectors != views:
        found = f"shape {shape}, whose last axis is as long as angles: (slices, detectors, views)"
        raise UnreadableScan.at("sinogram", found, f"{expected}: numpy.swapaxes(sinogram, -2, -1)")
    if angles == slices != views:
        found = f"shape {shape}, whose first axis is as long as angles: (views, slices, detectors)"
        raise UnreadableScan.at("sinogram", found, f"{expected}: numpy.swapaxes(sinogram, 0, 1)")


def _look_like_degrees(angles: NDArray[np.float64]) -> bool:
    """Whether angles cannot be radians. Radians may start at any number of turns, and proceed by a golden angle."""
    span = float(np.ptp(angles))
    if span > _MOST_TURN:
        return not _has_golden_angle(angles)
    if np.abs(angles).max() <= 4 * math.pi or len(angles) < 2:
        return bool(np.abs(angles).max() > 4 * math.pi)
    step = span / (len(angles) - 1)
    turns = (span / math.pi, (span + step) / math.pi)
    if any(abs(turn - whole) < 0.01 * whole for turn in turns for whole in (1, 2)):
        return False
    # So far from 0 and of no half turn: degrees are round numbers, radians hardly ever.
    return bool(np.allclose(angles, np.round(angles, 3), rtol=0, atol=1e-9 * np.abs(angles).max()))


def _has_golden_angle(angles: NDArray[np.float64]) -> bool:
    """Whether views go on by a golden or tiny golden angle (Wundrak et al. 2015) of radians, not folded into a turn."""
    steps = np.diff(angles)
    ratio = (1 + math.sqrt(5)) / 2
    known = [math.pi / (ratio + n) for n in range(10)] + [2 * math.pi / (ratio + n) for n in range(10)]
    return bool(np.ptp(steps) < 1e-3 and min(abs(abs(steps.mean()) - step) for step in known) < 1e-3)


def measured_rays(source: ArraySource | None, views: int, detectors: int) -> NDArray[np.bool_] | None:
    """Which rays (views, detectors) were measured; None where all were. A row (detectors,) holds for all views."""
    if source is None:
        return None
    fitted = source if source.shape in ((detectors,), (views, detectors)) else SqueezedAxes(source)
    if fitted.shape not in ((detectors,), (views, detectors)):
        expected = f"shape {(detectors,)} or {(views, detectors)}, the same for all slices"
        raise UnreadableScan.at("mask", f"shape {source.shape}", expected)
    if source.dtype.kind not in "biuf":
        raise UnreadableScan.at("mask", f"{source.dtype} values", "bool, or numbers 0 and 1")
    values = fitted.whole()
    if not np.isin(values, (0, 1)).all():
        raise UnreadableScan.at("mask", "values beside 0 and 1", "0 where a ray was not measured, 1 where it was")
    measured = np.broadcast_to(values.astype(bool), (views, detectors))
    if not measured.any():
        raise UnreadableScan.at("mask", "nothing but zeros", "some measured rays")
    return None if measured.all() else measured.copy()
