"""Geometry of a sinogram: angles, grids and missing rays, from the file or assumed with a warning."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import BeamGeometry
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.arrays import ArraySource, SqueezedAxes
from udig_recon.core.formats.lengths import length
from udig_recon.core.formats.limits import DEFAULT_LIMITS, quote_safely
from udig_recon.core.formats.with_warnings import WithWarnings
from udig_recon.core.scan_geometry import NEAREST_SOURCE, Geometry

AXES = "(slices, views, detectors)"

_REFUSED = {
    "cone": "fan_flat or fan_curved (take the detector row in the plane of the source's circle, whose rays are a fan)",
    "helical": "fan_flat or fan_curved (rebin to a fan for each slice, by single-slice rebinning)",
    "spiral": "fan_flat or fan_curved (rebin to a fan for each slice, by single-slice rebinning)",
    "laminography": "parallel, fan_flat or fan_curved (rays must lie in the planes of the slices)",
    "tomosynthesis": "parallel, fan_flat or fan_curved (rays must lie in the planes of the slices)",
}
"""Known geometries that are not read, and what to do about them."""
_GEOMETRIES = "parallel, fan_flat (a fan to a flat detector) or fan_curved (to a detector on an arc about the source)"
_CURVED = ("curved", "arc", "equiangular", "cylindrical")
_FLAT = ("flat", "line", "linear", "equidistant", "equispaced", "equilinear", "planar")
_DISTANCES = ("source_origin_mm", "source_detector_mm", "origin_detector_mm")
_FARTHEST_MM = 1e5  # that a source may be from anything
WATER_PER_MM = (0.01, 0.1)
"""Attenuation of water for X-rays of 500 to 20 keV, 1/mm."""
_ALIKE = 0.01  # share by which a distance may differ from the sum of its parts
_MOST_UNLIKE = 100  # pixels and detectors: what one crosses of the other is gone through one by one
_MOST_TURN = 2.1 * math.pi  # a turn and a bit: nobody needs more of a parallel beam, and degrees soon exceed it


class Beams(NamedTuple):
    """Beams of a scan; distances are None of parallel ones."""

    geometry: BeamGeometry = "parallel"
    source_origin_mm: float | None = None
    source_detector_mm: float | None = None

    @property
    def magnification(self) -> float:
        """Lengths at the detector over lengths at the axis."""
        return (
            1.0
            if not self.source_origin_mm or not self.source_detector_mm
            else (self.source_detector_mm / self.source_origin_mm)
        )


def read_beam_geometry(attributes: Mapping[str, float | str]) -> WithWarnings[Beams]:
    """Parallel or fan beams, with the source's distances of fans. Raises UnsupportedScan for other geometries."""
    geometry, warnings = _geometry(attributes)
    distances = [
        name for name in ("source_origin_mm", "source_detector_mm", "origin_detector_mm") if name in attributes
    ]
    if geometry == "parallel":
        unused = f"{', '.join(distances)}: not used, as the geometry is parallel"
        return WithWarnings(Beams(), (*warnings, unused) if distances else warnings)
    origin = length(attributes, "source_origin_mm", _FARTHEST_MM)
    detector = length(attributes, "source_detector_mm", _FARTHEST_MM)
    behind = length(attributes, "origin_detector_mm", _FARTHEST_MM)
    if origin is None and detector is not None and behind is not None:
        origin = detector - behind
    if origin is None or origin <= 0:
        found = "none" if origin is None else f"{origin:g} (source_detector_mm less origin_detector_mm)"
        raise UnreadableScan.at("source_origin_mm", found, "the distance from the source to the axis of rotation")
    if detector is None and behind is not None:
        detector = origin + behind
    if detector is None:
        raise UnreadableScan.at("source_detector_mm", "none", "the distance from the source to the detector")
    if behind is not None and abs(origin + behind - detector) > _ALIKE * detector:
        found = f"{detector:g} beside {origin:g} to the axis and {behind:g} from there to the detector"
        raise UnreadableScan.at("source_detector_mm", found, f"their sum, {origin + behind:g}")
    if detector < origin:
        raise UnreadableScan.at(
            "source_detector_mm",
            f"{detector:g}, less than source_origin_mm {origin:g}",
            "the distance from the source to the detector, beyond the axis (origin_detector_mm is from the axis on)",
        )
    return WithWarnings(Beams(geometry, origin, detector), warnings)


def _geometry(attributes: Mapping[str, float | str]) -> WithWarnings[BeamGeometry]:
    given = attributes.get("geometry")
    if given is None:
        if "source_origin_mm" not in attributes and "source_detector_mm" not in attributes:
            return WithWarnings("parallel", ("the file gives no geometry: parallel beams are assumed",))
        told = _detector_shape(str(attributes.get("detector_shape", "")))
        what = "a fan to a flat detector (fan_flat)" if told is None else told
        warning = f"the file gives no geometry, but distances of a source: {what} is assumed"
        return WithWarnings(told or "fan_flat", (warning,))
    plain = "".join(filter(str.isalpha, str(given).lower()))
    if plain.removesuffix("d").removesuffix("beam") == "parallel":
        return WithWarnings("parallel")
    refused = next((name for name in _REFUSED if name in plain), None)
    if refused is not None:
        raise UnsupportedScan.at("geometry", f"{refused}{' beam' if refused == 'cone' else ''}", _REFUSED[refused])
    shape = _detector_shape(plain)
    left = plain
    for word in sorted((*_CURVED, *_FLAT, "fan", "beam", "detector", "geometry"), key=len, reverse=True):
        left = left.replace(word, "")
    if left not in ("", "d") or ("fan" not in plain and shape is None):
        raise UnsupportedScan.at("geometry", quote_safely(given), _GEOMETRIES)
    shape = shape or _detector_shape(str(attributes.get("detector_shape", "")))
    if shape is not None:
        return WithWarnings(shape)
    warning = "the file does not say how the fan's detector is shaped: flat (fan_flat) is assumed, not curved"
    return WithWarnings("fan_flat", (warning,))


def _detector_shape(text: str) -> BeamGeometry | None:
    """What a text says of a fan's detector; None: nothing, or both."""
    plain = text.lower().replace("-", "")
    curved = any(word in plain for word in _CURVED)
    flat = any(word in plain for word in _FLAT)
    return None if curved == flat else "fan_curved" if curved else "fan_flat"


class Grid(NamedTuple):
    """The image's grid and the detector's."""

    image_size: int  # pixels a side
    pixel_size_mm: float
    detector_spacing_mm: float


def image_grid(
    attributes: Mapping[str, float | str], detectors: int, reference: ArraySource | None, beam: Beams
) -> WithWarnings[Grid]:
    """The grid as the file gives it; what is missing follows from the rest, with a warning.

    Detectors and pixels are as wide as each other at the axis, and the image has all that the detector sees.
    """
    warnings = []
    pixel = length(attributes, "pixel_size_mm")
    spacing = length(attributes, "detector_spacing_mm")
    if pixel is None:
        pixel = 1.0 if spacing is None else spacing / beam.magnification
        warnings.append(f"the file gives no pixel_size_mm: {pixel:.6g} mm is assumed")
    if spacing is None:
        spacing = pixel * beam.magnification
        warnings.append(f"the file gives no detector_spacing_mm: {spacing:.6g} mm is assumed")
    if not 1 / _MOST_UNLIKE <= pixel * beam.magnification / spacing <= _MOST_UNLIKE:
        found = f"pixels of {pixel:g} mm and detectors of {spacing:g} mm"
        if beam.magnification != 1:
            found += f", {spacing / beam.magnification:g} mm at the axis"
        raise UnreadableScan.at("pixel_size_mm", found, f"sizes that differ by a factor of {_MOST_UNLIKE} at most")
    given = attributes.get("image_size")
    if given is not None:
        if isinstance(given, str) or not 1 <= given < 1e9 or given != int(given):
            raise UnreadableScan.at("image_size", quote_safely(given), "a whole number of pixels")
        size = int(given)
    elif reference is not None and len(reference.shape) >= 2:
        size = reference.shape[-1]
    else:
        center = rotation_center(attributes, detectors)
        field = _field_of_view(beam, detectors, spacing, center)
        size, most = max(round(field / pixel), 1), DEFAULT_LIMITS.max_matrix
        if size > most:
            warnings.append(
                f"all that the detector sees takes {size} pixels of {pixel:.6g} mm a side: {most} of "
                f"{field / most:.6g} mm are taken; image_size and pixel_size_mm in the file choose others"
            )
            size, pixel = most, field / most
    if given is None:
        warnings.append(f"the file gives no image_size: {size} pixels are assumed")
    return WithWarnings(Grid(size, pixel, spacing), tuple(warnings))


def fit_geometry(
    beam: Beams, grid: Grid, detectors: int, center: float | None, angles: NDArray[np.float64]
) -> Geometry:
    """The geometry of a scan.

    Raises UnsupportedScan where the source of a fan lies within the image, or its fan is wider than half a turn.
    """
    geometry = Geometry(
        tuple(angles.tolist()),
        grid.image_size,
        detectors,
        grid.pixel_size_mm,
        grid.detector_spacing_mm,
        center,
        beam.geometry,
        math.inf if beam.source_origin_mm is None else beam.source_origin_mm,
        math.inf if beam.source_detector_mm is None else beam.source_detector_mm,
    )
    geometry.check()
    return geometry


def _field_of_view(beam: Beams, detectors: int, spacing: float, center: float | None) -> float:
    """Width (mm) of what the detector sees of the object: of fans the circle that its longer side sees."""
    if beam.source_origin_mm is None or beam.source_detector_mm is None:
        return detectors * spacing
    middle = (detectors - 1) / 2 if center is None else center
    slope = (max(middle, detectors - 1 - middle) + 0.5) * spacing / beam.source_detector_mm
    angle = min(math.atan(slope) if beam.geometry == "fan_flat" else slope, math.pi / 2)
    # The corners of the image must leave the source out, though the width is rounded to pixels.
    return min(2 * math.sin(angle), 0.99 * math.sqrt(2) / NEAREST_SOURCE) * beam.source_origin_mm


def is_auto(centre: float | str | None) -> bool:
    """Whether a file asks for the axis of rotation to be found."""
    return isinstance(centre, str) and centre.strip().lower() == "auto"


def rotation_center(attributes: Mapping[str, float | str], detectors: int) -> float | None:
    """Detector index, counted from 0, that the axis of rotation falls on; None: the middle, or `auto`."""
    centre = attributes.get("rotation_center")
    if centre is None or is_auto(centre):
        return None
    if isinstance(centre, str) or not 0 <= centre <= detectors - 1:
        middle = f"the middle is {(detectors - 1) / 2:g}"
        expected = f"a detector's index, counted from 0, of 0 to {detectors - 1}, or 'auto'; {middle}"
        raise UnreadableScan.at("rotation_center", quote_safely(centre), expected)
    return centre


def water_attenuation(attributes: Mapping[str, float | str]) -> float | None:
    """Attenuation of water (1/mm) at the scan's beam, by which images become Hounsfield units; None: not given."""
    water = attributes.get("water_attenuation_per_mm")
    if water is None:
        return None
    low, high = WATER_PER_MM
    if isinstance(water, str) or not low <= water <= high:
        expected = f"a number in 1/mm, {low:g} to {high:g}; about 0.0193 at 70 keV (values in 1/cm are divided by 10)"
        raise UnreadableScan.at("water_attenuation_per_mm", quote_safely(water), expected)
    return water


def read_angles(source: ArraySource | None, shape: tuple[int, ...], others: Sequence[str]) -> NDArray[np.float64]:
    """Angles (views,) in radians of a sinogram of this shape; `others` are names of what else the file holds."""
    views = shape[1]
    wanted = f"{views} angles in radians, one per view, under the name angles"
    if source is None:
        alike = [name for name in others if name.lower() in ("theta", "angle", "thetas", "projection_angles", "phi")]
        raise UnreadableScan.at("angles", f"none, but {alike[0]}" if alike else "none", wanted)
    count = math.prod(source.shape)
    if count != views or max(source.shape, default=1) != count:
        raise UnreadableScan.at(
            "angles", f"shape {source.shape}", f"shape {(views,)}, one per view of sinogram {shape}"
        )
    if source.dtype.kind not in "iuf":
        raise UnreadableScan.at("angles", f"{source.dtype} values", "radians as numbers")
    angles = source.whole().reshape(-1).astype(np.float64)
    if not np.isfinite(angles).all():
        raise UnreadableScan.at("angles", "NaN or infinity", "finite radians")
    low, high = float(angles.min()), float(angles.max())
    if look_like_degrees(angles):
        radians = f"radians, {math.radians(low):.4g} to {math.radians(high):.4g} (numpy.deg2rad)"
        raise UnreadableScan.at("angles", f"values from {low:g} to {high:g}, which look like degrees", radians)
    if views > 1 and high == low:
        raise UnreadableScan.at("angles", f"{views} views at the same angle {low:g}", "different angles in radians")
    return angles


def look_like_degrees(angles: NDArray[np.float64]) -> bool:
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
