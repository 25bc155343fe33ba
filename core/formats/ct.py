"""Sinogram files: geometry with its defaults, checks, and line integrals from counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.acquisition import CTAcquisition, Modality, ScanHeader
from core.errors import UnsupportedScan
from core.formats.arrays import Array, ArraySource, Contents, Expanded
from core.formats.limits import LEAST_SIDE, PEAKS, Limits, quoted, unreadable
from core.formats.survey import check_values, surveyed

_GEOMETRIES = ("fan", "cone", "helical")  # that are not read, but named
_MOST_UNLIKE = 100  # pixels and detectors: what one crosses of the other is gone through one by one
_STEEP = 50.0  # line integrals of patients stay below about 15


@dataclass(frozen=True)
class _Layout:
    """The arrays and geometry of a scan, fitted to each other, the sinogram's values not looked at."""

    sinogram: ArraySource  # (slices, views, detectors)
    angles: NDArray[np.float64]  # (views,), radians
    reference: ArraySource | None  # (slices, image_size, image_size)
    guide: ArraySource | None  # (slices, image_size, image_size)
    i0: float | None  # photons per ray without an object; None: the sinogram holds line integrals
    image_size: int
    pixel_size_mm: float
    detector_spacing_mm: float
    warnings: tuple[str, ...]


def probe(contents: Contents) -> ScanHeader:
    """Header of a sinogram whose every value has been looked at."""
    layout = _layout(contents)
    slices, views, detectors = layout.sinogram.shape
    warnings = _survey(layout)
    for source in (layout.reference, layout.guide):
        if source is not None:
            check_values(source)
    return ScanHeader(
        format="sinogram_hdf5" if contents.format == "hdf5" else contents.format,
        modality=Modality.CT,
        slices=slices,
        views=views,
        detectors=detectors,
        matrix=(layout.image_size, layout.image_size),
        pixel_spacing_mm=(layout.pixel_size_mm, layout.pixel_size_mm),
        has_reference=layout.reference is not None,
        has_guide=layout.guide is not None,
        warnings=(*layout.warnings, *warnings),
    )


def read(contents: Contents, slices: Sequence[int]) -> CTAcquisition:
    """The wanted slices as line integrals."""
    layout = _layout(contents)
    values = layout.sinogram.read(slices)
    reference, guide = layout.reference, layout.guide
    return CTAcquisition(
        sinogram=values.astype(np.float32, copy=False) if layout.i0 is None else line_integrals(values, layout.i0),
        angles=layout.angles,
        image_size=layout.image_size,
        pixel_size_mm=layout.pixel_size_mm,
        detector_spacing_mm=layout.detector_spacing_mm,
        reference=None if reference is None else reference.read(slices).astype(np.float32, copy=False),
        guide=None if guide is None else guide.read(slices).astype(np.float32, copy=False),
    )


def line_integrals(counts: Array, i0: float) -> NDArray[np.float32]:
    """Beer and Lambert: -log(counts / i0), where a ray without photons counts as half a photon.

    `counts` (slices, views, detectors) photons; with i0 below 100 they are taken for transmissions, not photons.
    """
    least = 0.5 if i0 >= 100 else 5e-6 * i0
    return np.asarray(-np.log(np.maximum(counts, least) / i0), np.float32)


def check_limits(contents: Contents, limits: Limits) -> None:
    """Refuse a scan that is too large, by the sizes that its arrays and attributes declare."""
    slices, views, detectors = _stack(contents).shape
    limits.check("sinogram", "slices", slices, limits.max_slices)
    limits.check("sinogram", "views", views, limits.max_views)
    limits.check("sinogram", "detectors", detectors, limits.max_matrix, LEAST_SIDE)
    limits.check("image_size", "pixels a side", _layout(contents).image_size, limits.max_matrix, LEAST_SIDE)


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return _stack(contents).shape[0]


def _stack(contents: Contents) -> ArraySource:
    """The sinogram with all three axes."""
    source = contents.arrays["sinogram"]
    if source.dtype.kind not in "iuf" or source.native in (np.float16, np.longdouble):
        raise unreadable("sinogram", f"{source.dtype} values", "float32, or whole numbers for counts")
    if len(source.shape) == 2:
        return Expanded(source, axis=0)
    if len(source.shape) != 3:
        raise unreadable("sinogram", f"{len(source.shape)} axes {source.shape}", "3 axes (slices, views, detectors)")
    return source


def _layout(contents: Contents) -> _Layout:
    sinogram = _stack(contents)
    attributes = contents.attributes
    geometry = attributes.get("geometry", "parallel")
    if geometry != "parallel":
        found = quoted(geometry, *_GEOMETRIES)
        raise UnsupportedScan(
            f"geometry: found {found}, expected parallel",
            field="geometry",
            found=found,
            expected="parallel",
        )
    warnings: list[str] = []
    reference = contents.arrays.get("reference")
    size, pixel, spacing = _grid(attributes, sinogram.shape[-1], reference, warnings)
    angles = _angles(contents.arrays.get("angles"), sinogram.shape[-2])
    fitted, guide = (
        None if source is None else _fitting(source, (sinogram.shape[0], size, size))
        for source in (reference, contents.arrays.get("guide"))
    )
    return _Layout(sinogram, angles, fitted, guide, _i0(attributes), size, pixel, spacing, tuple(warnings))


def _fitting(source: ArraySource, shape: tuple[int, int, int]) -> ArraySource:
    if source.native not in (np.float32, np.float64):
        raise unreadable(source.name, f"{source.dtype} values", "float32, attenuation in 1/mm")
    fitted = Expanded(source, axis=0) if len(source.shape) == 2 else source
    if fitted.shape != shape:
        raise unreadable(source.name, f"shape {source.shape}", f"shape {shape}")
    return fitted


def _grid(
    attributes: Mapping[str, float | str], detectors: int, reference: ArraySource | None, warnings: list[str]
) -> tuple[int, float, float]:
    """Image size, pixel size and detector spacing (mm); what is missing follows from what is there."""
    pixel = _length(attributes, "pixel_size_mm")
    spacing = _length(attributes, "detector_spacing_mm")
    if pixel is None:
        pixel = 1.0 if spacing is None else spacing
        warnings.append(f"the file gives no pixel_size_mm: {pixel:g} mm is assumed")
    if spacing is None:
        spacing = pixel
        warnings.append(f"the file gives no detector_spacing_mm: {spacing:g} mm is assumed")
    if not 1 / _MOST_UNLIKE <= pixel / spacing <= _MOST_UNLIKE:
        found = f"pixels of {pixel:g} mm and detectors of {spacing:g} mm"
        raise unreadable("pixel_size_mm", found, f"sizes that differ by a factor of {_MOST_UNLIKE} at most")
    given = attributes.get("image_size")
    if given is not None:
        if isinstance(given, str) or not 1 <= given < 1e9 or given != int(given):
            raise unreadable("image_size", quoted(given), "a whole number of pixels")
        return int(given), pixel, spacing
    if reference is not None and len(reference.shape) >= 2:
        size = reference.shape[-1]
    else:
        size = min(max(round(detectors * spacing / pixel), 1), 1_000_000_000)
    warnings.append(f"the file gives no image_size: {size} pixels are assumed")
    return size, pixel, spacing


def _length(attributes: Mapping[str, float | str], name: str) -> float | None:
    value = attributes.get(name)
    if value is None:
        return None
    if isinstance(value, str) or not 1e-4 <= value <= 1e3:
        raise unreadable(name, quoted(value), "a length in millimetres between 0.0001 and 1000")
    return value


def _angles(source: ArraySource | None, views: int) -> NDArray[np.float64]:
    if source is None:
        raise unreadable("angles", "none", f"{views} angles in radians, one per view")
    if source.shape != (views,):
        raise unreadable("angles", f"shape {source.shape}", f"shape {(views,)}, one per view")
    if source.dtype.kind not in "iuf":
        raise unreadable("angles", f"{source.dtype} values", "radians as numbers")
    angles = source.whole().astype(np.float64)
    if not np.isfinite(angles).all():
        raise unreadable("angles", "NaN or infinity", "finite radians")
    low, high = float(angles.min()), float(angles.max())
    # A turn and a bit: nobody needs more of a parallel beam, and degrees soon exceed it.
    if high - low > 2.1 * math.pi or max(abs(low), abs(high)) > 4 * math.pi:
        raise unreadable("angles", f"values from {low:g} to {high:g}, which look like degrees", "radians")
    if views > 1 and high == low:
        raise unreadable("angles", f"{views} views at the same angle {low:g}", "different angles in radians")
    return angles


def _i0(attributes: Mapping[str, float | str]) -> float | None:
    quantity = attributes.get("quantity", "line_integrals")
    if quantity == "line_integrals":
        return None
    if quantity != "counts":
        raise unreadable("quantity", quoted(quantity), "'line_integrals' or 'counts'")
    i0 = attributes.get("i0")
    if i0 is None or isinstance(i0, str) or not PEAKS[0] <= i0 <= PEAKS[1]:
        expected = f"photons per ray without an object, {PEAKS[0]:g} to {PEAKS[1]:g}, for quantity 'counts'"
        raise unreadable("i0", quoted(i0), expected)
    return i0


def _survey(layout: _Layout) -> list[str]:
    """Look at all of the sinogram; gives what is odd about it."""
    starved, highest = 0, -math.inf
    for _, block in surveyed(layout.sinogram):
        starved += int((block <= 0).sum())
        highest = max(highest, float(block.max()))
    if layout.i0 is None:
        if highest > _STEEP:
            return [f"line integrals reach {highest:.3g}: if these are counts, set quantity='counts' and i0"]
        return []
    if highest <= 0:
        raise unreadable("sinogram", "no count above 0", "photon counts")
    return [f"{starved} rays without photons are read as half a photon"] if starved else []
