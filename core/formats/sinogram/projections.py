"""Projections as detectors with rows take them, their angles and pixels in the units of their files."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import AddedAxis, ArraySource, InMemory
from udig_recon.core.formats.containers.views import SlicesOfProjections
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.lengths import RANGE_MM
from udig_recon.core.formats.sinogram.geometry import look_like_degrees
from udig_recon.core.formats.with_warnings import WithWarnings

MOST_FRAMES = 1 << 16
"""Projections, flat and dark fields together."""
_DEGREES = ("deg", "degree", "degrees", "degs")
_RADIANS = ("rad", "radian", "radians", "rads")
_MILLIMETRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometre", "micrometers", "mu"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), 1e-6),
}


def read_rotation(source: ArraySource, units: str | None) -> WithWarnings[NDArray[np.float64]]:
    """Angles (views,) in radians of a dataset in degrees or radians. Raises UnreadableScan for what are no angles."""
    views = math.prod(source.shape)
    if source.dtype.kind not in "iuf" or views > MOST_FRAMES or max(source.shape, default=1) != views:
        expected = f"one angle for each of at most {MOST_FRAMES} projections"
        raise UnreadableScan.at(source.name, f"shape {source.shape} of {source.dtype}", expected)
    angles = source.whole().reshape(-1).astype(np.float64)
    if not np.isfinite(angles).all():
        raise UnreadableScan.at(source.name, "NaN or infinity", "finite angles")
    spelt = "" if units is None else units.lower().strip(" .")
    if spelt in _RADIANS:
        return WithWarnings(angles)
    if spelt in _DEGREES:
        return WithWarnings(np.deg2rad(angles))
    assumed = "degrees" if look_like_degrees(angles) else "radians"
    said = "gives no unit" if units is None else "gives another unit"
    warning = f"{source.name} {said}: {assumed} are assumed, as it spans {np.ptp(angles):.4g}"
    return WithWarnings(np.deg2rad(angles) if assumed == "degrees" else angles, (warning,))


def millimetres(value: float, units: str | None) -> float | None:
    """A length with its unit in mm; None where there is no unit, or no such length."""
    factor = _MILLIMETRES.get((units or "").lower().strip(" ."))
    if factor is None or not RANGE_MM[0] <= value * factor <= RANGE_MM[1]:
        return None
    return value * factor


def sinogram_contents(
    name: str,
    projections: ArraySource,
    angles: NDArray[np.float64],
    pixel_mm: float | None,
    beam: dict[str, ArraySource],
    warnings: Sequence[str],
) -> Contents:
    """A scan of projections (views, slices, detectors), or (views, detectors), or slices of them by the angles' number.

    `beam` holds flat and dark, (frames, slices, detectors), of counts; without them values are taken for line
    integrals.
    """
    noted = list(warnings)
    shape = projections.shape
    if len(shape) not in (2, 3):
        raise UnreadableScan.at(projections.name, f"{len(shape)} axes {shape}", "(views, rows, columns)")
    if len(shape) == 2:
        projections = AddedAxis(projections, axis=1)
    views = len(angles)
    if projections.shape[0] == views:
        sinogram: ArraySource = SlicesOfProjections(projections)
    elif projections.shape[1] == views:
        sinogram = projections
        noted.append(f"{projections.name} of shape {shape} is read as (slices, views, detectors), as its angles say")
    else:
        raise UnreadableScan.at(
            projections.name,
            f"shape {shape} with {views} angles",
            "(views, rows, columns), with as many views as angles",
        )
    attributes: dict[str, float | str] = {"geometry": "parallel", "quantity": "counts" if beam else "line_integrals"}
    if pixel_mm is not None:
        attributes |= dict.fromkeys(("detector_spacing_mm", "pixel_size_mm", "slice_spacing_mm"), pixel_mm)
    arrays = {"sinogram": sinogram, "angles": InMemory("angles", angles), **beam}
    return Contents(name, arrays, attributes, warnings=tuple(noted))
