"""Reader of sinograms: fits arrays and geometry to each other, checks values, and reads line integrals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import CTAcquisition, Modality, ScanHeader
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import AddedAxis, Array, ArraySource, Region, SqueezedAxes, View
from udig_recon.core.formats.input_format import ARRAYS_OR_ATTRIBUTES, Contents
from udig_recon.core.formats.lengths import slice_spacing
from udig_recon.core.formats.limits import LEAST_SIDE, Limits
from udig_recon.core.formats.sinogram.consistency import consistency_warnings, is_cut_off
from udig_recon.core.formats.sinogram.counts import Beam, CountStatistics, Rays, read_beam, read_rays
from udig_recon.core.formats.sinogram.fan_consistency import fan_warnings
from udig_recon.core.formats.sinogram.geometry import (
    AXES,
    Beams,
    fit_geometry,
    image_grid,
    is_auto,
    measured_rays,
    read_angles,
    read_beam_geometry,
    rotation_center,
    water_attenuation,
)
from udig_recon.core.formats.sinogram.view_axis import CentresOfMass
from udig_recon.core.formats.value_checks import check_values, checked_blocks
from udig_recon.core.preprocessing.rings import ring_warning
from udig_recon.core.preprocessing.rotation import DEVIATIONS, SURE, FoundAxis, find_axis
from udig_recon.core.scan_geometry import CONTINUED, Geometry
from udig_recon.core.sinogram_statistics import STEEPEST

USED = frozenset(
    (
        *("sinogram", "angles", "mask", "reference", "guide"),
        *("geometry", "quantity", *ARRAYS_OR_ATTRIBUTES, "image_size", "pixel_size_mm", "detector_spacing_mm"),
        *("source_origin_mm", "source_detector_mm", "origin_detector_mm", "detector_shape"),
        *("rotation_center", "slice_spacing_mm", "slice_thickness_mm", "water_attenuation_per_mm"),
    )
)
"""Names of arrays and attributes that a sinogram scan uses."""

_AXIS_SLICES = 3  # by which the axis of rotation is found
_SAME_ANGLE = 1e-4  # radians
_LIMITED = math.radians(20)  # without views, from which a scan is told to be of a limited angle
_LEFT_OUT = "rays that are missing may be left out: an array mask (views, detectors), 0 where nothing was measured"


@dataclass(frozen=True)
class _FittedArrays:
    """The arrays and geometry of a scan, fitted to each other; the sinogram's values are not looked at."""

    sinogram: ArraySource  # (slices, views, detectors), zeros where a ray is not measured
    angles: NDArray[np.float64]  # (views,), radians
    measured: NDArray[np.bool_] | None  # (views, detectors); None: all rays
    reference: ArraySource | None  # (slices, image_size, image_size)
    guide: ArraySource | None  # (slices, image_size, image_size)
    beam: Beam | None  # None: the sinogram holds line integrals
    image_size: int
    pixel_size_mm: float
    detector_spacing_mm: float
    beams: Beams
    geometry: Geometry
    rotation_center: float | None  # detector index
    is_auto: bool  # whether the axis of rotation is to be found
    slice_spacing_mm: float | None
    warnings: tuple[str, ...]


class _Measured(View):
    """A sinogram with zeros where no ray was measured."""

    def __init__(self, source: ArraySource, measured: NDArray[np.bool_]) -> None:
        super().__init__(source.name, source.shape, source.dtype, source.stored_bytes)
        self._source, self._measured = source, measured

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks, zeros where nothing was measured."""
        for region, block in self._source.blocks():
            yield region, np.where(self._measured[region[1:]], block, np.zeros((), block.dtype))

    def read(self, indices: Sequence[int]) -> Array:
        """Slices, zeros where nothing was measured."""
        values = self._source.read(indices)
        values[:, ~self._measured] = 0
        return values


def probe(contents: Contents) -> ScanHeader:
    """Header of a sinogram, after a check of all its values."""
    arrays = _fit_arrays(contents)
    slices, views, detectors = arrays.sinogram.shape
    checked = _check_values(arrays)
    axis = _find_axis(contents, arrays)
    for source in (arrays.reference, arrays.guide):
        if source is not None:
            check_values(source)
    return ScanHeader(
        format=contents.format,
        modality=Modality.CT,
        slices=slices,
        views=views,
        detectors=detectors,
        matrix=(arrays.image_size, arrays.image_size),
        pixel_spacing_mm=(arrays.pixel_size_mm, arrays.pixel_size_mm),
        slice_spacing_mm=arrays.slice_spacing_mm,
        geometry=arrays.beams.geometry,
        source_origin_mm=arrays.beams.source_origin_mm,
        source_detector_mm=arrays.beams.source_detector_mm,
        rotation_center=axis.center if arrays.is_auto and axis.center is not None else arrays.rotation_center,
        water_attenuation_per_mm=water_attenuation(contents.attributes),
        has_reference=arrays.reference is not None,
        has_guide=arrays.guide is not None,
        corrections=(*checked.corrections, *_axis_corrections(arrays, axis)),
        warnings=(*arrays.warnings, *checked.warnings, *_axis_warnings(arrays, axis, checked)),
    )


def read(contents: Contents, slices: Sequence[int]) -> CTAcquisition:
    """Read the wanted slices as line integrals, with zeros where no ray was measured."""
    arrays = _fit_arrays(contents)
    reference, guide = arrays.reference, arrays.guide
    rays = _read_rays(arrays, slices)
    axis = _find_axis(contents, arrays).center
    return CTAcquisition(
        sinogram=rays.integrals,
        angles=arrays.angles,
        measured=arrays.measured,
        weights=rays.weights,
        image_size=arrays.image_size,
        pixel_size_mm=arrays.pixel_size_mm,
        detector_spacing_mm=arrays.detector_spacing_mm,
        rotation_center=axis if arrays.is_auto and axis is not None else arrays.rotation_center,
        found_rotation_center=axis,
        geometry=arrays.beams.geometry,
        source_origin_mm=arrays.beams.source_origin_mm,
        source_detector_mm=arrays.beams.source_detector_mm,
        reference=None if reference is None else reference.read(slices).astype(np.float32, copy=False),
        guide=None if guide is None else guide.read(slices).astype(np.float32, copy=False),
    )


_AXES: "WeakKeyDictionary[ArraySource, FoundAxis]" = WeakKeyDictionary()


def _find_axis(contents: Contents, arrays: _FittedArrays) -> FoundAxis:
    """The axis of rotation of an open file: the median of its slices in the middle, found once."""
    source = contents.arrays["sinogram"]
    if source not in _AXES:
        slices = arrays.sinogram.shape[0]
        first = max(0, slices // 2 - _AXIS_SLICES // 2)
        geometry = arrays.geometry._replace(rotation_center=None)
        found = []
        for index in range(first, min(first + _AXIS_SLICES, slices)):
            rays = _read_rays(arrays, [index])
            measured = arrays.measured if rays.weights is None else rays.weights[0] > 0
            found.append(find_axis(rays.integrals[0], arrays.angles, measured, geometry))
        sure = sorted(axis for axis in found if axis.center is not None)
        axis = sure[len(sure) // 2] if sure else found[0]
        # Sums differ in their last bits from process to process.
        _AXES[source] = axis if axis.center is None else axis._replace(center=round(axis.center, 4))
    return _AXES[source]


def _axis_warnings(arrays: _FittedArrays, axis: FoundAxis, checked: "_Checked") -> list[str]:
    """A warning where the axis of rotation is not where the file says, or cannot be found though it should be."""
    if arrays.is_auto and axis.center is None:
        return [f"rotation_center: auto finds no axis, as {axis.how}; the middle of the detector is taken"]
    if axis.center is None or arrays.is_auto or not checked.are_integrals:
        return []
    detectors = arrays.sinogram.shape[2]
    taken = (detectors - 1) / 2 if arrays.rotation_center is None else arrays.rotation_center
    if abs(axis.center - taken) <= max(SURE, DEVIATIONS * axis.deviation):
        return []
    said = "as is assumed" if arrays.rotation_center is None else "as the file says"
    return [
        f"the axis of rotation falls on detector {axis.center:.2f} by {axis.how}, not on {taken:.6g} {said}: "
        "rotation_center = auto, in the job or the file, takes what is found"
    ]


def _axis_corrections(arrays: _FittedArrays, axis: FoundAxis) -> list[str]:
    if not arrays.is_auto or axis.center is None:
        return []
    return [f"rotation_center {axis.center:.2f} was found by {axis.how}"]


def _read_rays(arrays: _FittedArrays, slices: Sequence[int]) -> Rays:
    values = arrays.sinogram.read(slices)
    if arrays.beam is None:
        return Rays(values.astype(np.float32, copy=False), None)
    beam = arrays.beam.of(list(slices))
    return read_rays(values, beam, arrays.measured)


def check_limits(contents: Contents, limits: Limits) -> None:
    """Raise UnsupportedScan for a scan that is too large by the sizes that it declares."""
    slices, views, detectors = _stack(contents).shape
    limits.check("sinogram", "slices", slices, limits.max_slices)
    limits.check("sinogram", "views", views, limits.max_views)
    bin_them = "sum or average neighbouring detectors, and give detector_spacing_mm of the sums"
    limits.check("sinogram", "detectors", detectors, limits.max_detectors, LEAST_SIDE, remedy=bin_them)
    image = _fit_arrays(contents)
    size, most = image.image_size, limits.max_matrix
    field = image.pixel_size_mm * size
    whole = f"give image_size={most} and pixel_size_mm={field / most:.4g} to have all of the detector's width"
    remedy = "" if "image_size" in contents.attributes else whole
    limits.check("image_size", "pixels a side", size, most, LEAST_SIDE, remedy=remedy)


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return _stack(contents).shape[0]


def _stack(contents: Contents) -> ArraySource:
    """The sinogram with all three axes."""
    source = contents.arrays["sinogram"]
    if source.dtype.kind not in "iuf" or source.native in (np.float16, np.longdouble):
        raise UnreadableScan.at("sinogram", f"{source.dtype} values", "float32 or float64, or whole numbers for counts")
    angles = contents.arrays.get("angles")
    views = None if angles is None else math.prod(angles.shape)
    if len(source.shape) > 2 and (len(source.shape) > 3 or source.shape[1] != views):
        squeezed = SqueezedAxes(source)
        if len(squeezed.shape) == 2 and views in (None, squeezed.shape[0]):
            return AddedAxis(squeezed, axis=0)
        if len(source.shape) > 3 and len(squeezed.shape) == 3:
            source = squeezed
    if len(source.shape) == 2:
        return AddedAxis(source, axis=0)
    if len(source.shape) != 3:
        raise UnreadableScan.at("sinogram", f"{len(source.shape)} axes {source.shape}", f"3 axes {AXES}")
    return source


def _fit_arrays(contents: Contents) -> _FittedArrays:
    warnings: list[str] = []
    sinogram = _stack(contents)
    attributes = contents.attributes
    declared = contents.arrays["sinogram"].shape
    if len(declared) > 2 and declared != sinogram.shape:
        warnings.append(f"the sinogram of shape {declared} is read as {sinogram.shape}, {AXES}")
    beams, noted = read_beam_geometry(attributes)
    warnings += noted
    slices, views, detectors = sinogram.shape
    angles = read_angles(contents.arrays.get("angles"), sinogram.shape, contents.unused)
    reference, guide = contents.arrays.get("reference"), contents.arrays.get("guide")
    image, noted = image_grid(attributes, detectors, reference, beams)
    warnings += noted
    shape = (slices, image.image_size, image.image_size)
    measured = measured_rays(contents.arrays.get("mask"), views, detectors)
    fitted_reference = None if reference is None else _fit(reference, shape)
    fitted_guide = None if guide is None else _fit(guide, shape)
    beam, noted = read_beam(contents, (slices, views, detectors), measured)
    warnings += noted
    centre = rotation_center(attributes, detectors)
    geometry = fit_geometry(beams, image, detectors, centre, angles)
    across, noted = slice_spacing(attributes)
    warnings += noted
    return _FittedArrays(
        sinogram=sinogram if measured is None else _Measured(sinogram, measured),
        angles=angles,
        measured=measured,
        reference=fitted_reference,
        guide=fitted_guide,
        beam=beam,
        image_size=image.image_size,
        pixel_size_mm=image.pixel_size_mm,
        detector_spacing_mm=image.detector_spacing_mm,
        beams=beams,
        geometry=geometry,
        rotation_center=centre,
        is_auto=is_auto(attributes.get("rotation_center")),
        slice_spacing_mm=across,
        warnings=tuple(warnings),
    )


def _fit(source: ArraySource, shape: tuple[int, int, int]) -> ArraySource:
    if source.native not in (np.float32, np.float64):
        raise UnreadableScan.at(source.name, f"{source.dtype} values", "float32, attenuation in 1/mm")
    fitted = AddedAxis(source, axis=0) if len(source.shape) == 2 else source
    if fitted.shape != shape:
        raise UnreadableScan.at(source.name, f"shape {source.shape}", f"shape {shape}")
    return fitted


class _Checked(NamedTuple):
    """What a pass over all values of a sinogram tells."""

    warnings: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    are_integrals: bool = False  # whether the values may be line integrals


def _check_values(arrays: _FittedArrays) -> _Checked:
    """Check all values of the sinogram."""
    shape = arrays.sinogram.shape
    highest, signal, beam = -math.inf, np.zeros(shape[0]), arrays.beam
    counts = None if beam is None else CountStatistics(beam, arrays.measured, arrays.sinogram.dtype)
    centres = CentresOfMass((shape[0], shape[1], shape[2])) if shape[0] == shape[1] and beam is None else None
    for region, block in checked_blocks(arrays.sinogram, ("slice", "view", "detector"), _LEFT_OUT):
        highest = max(highest, float(block.max()))
        if counts is not None:
            counts.add(region, block)
        if centres is not None:
            centres.add(region, block)
        signal[region[0]] += np.abs(block).sum(axis=(1, 2), dtype=np.float64)
    corrections = () if counts is None else tuple(counts.corrections(shape[1]))
    warnings = [] if counts is None else counts.warnings()
    if counts is None and highest > STEEPEST:
        scaled = "if they were multiplied, as by 1000 for whole numbers, divide by that"
        told = f"line integrals reach {highest:.3g}: if these are counts, set quantity='counts' and i0; {scaled}"
        return _Checked((told,))
    if counts is None and arrays.sinogram.dtype.kind in "iu":
        return _Checked(("line integrals are whole numbers: if these are counts, set quantity='counts' and i0",))
    # The laws of line integrals are tried on the slice that attenuates most.
    chosen = int(np.argmax(signal) if beam is None else np.argmin(np.where(signal > 0, signal, np.inf)))
    rays = _read_rays(arrays, [chosen])
    measured = arrays.measured
    if rays.weights is not None:
        known = rays.weights[0] > 0
        measured = None if known.all() else known
    if arrays.geometry.beam != "parallel":
        found = fan_warnings(rays.integrals[0], arrays.geometry, measured)
        return _Checked((*warnings, *found), (*corrections, *_continued(found)))
    found = consistency_warnings(rays.integrals[0], arrays.angles, measured)
    # Where axes of views and detectors are swapped, or values are no line integrals, that of slices is not looked at.
    if centres is not None and arrays.measured is None and not found:
        found = centres.swapped_axes_warnings(arrays.angles)
    centre = (shape[2] - 1) / 2 if arrays.rotation_center is None else arrays.rotation_center
    missing = _widest_gap(arrays)
    if missing > _LIMITED:
        found.append(
            f"no view lies within {math.degrees(missing):.3g} degrees of directions (a limited angle): edges along "
            "them are lost"
        )
    elif not any("rings" in each for each in found):
        rings = ring_warning(rays.integrals[0], measured, centre)
        found += [rings] if rings else []
    # Dead detectors and angles in another unit move centres of mass.
    trusted = not any("(rings)" in each or "may be degrees" in each for each in found)
    return _Checked((*warnings, *found), (*corrections, *_continued(found)), are_integrals=trusted)


def _continued(warnings: Sequence[str]) -> tuple[str, ...]:
    """The correction of truncated projections, which reconstruction makes."""
    return (CONTINUED,) if is_cut_off(warnings) else ()


def _widest_gap(arrays: _FittedArrays) -> float:
    """Widest gap (radians) between directions of rays, less a usual one; of fans, between views over half a turn."""
    folded = np.sort(np.mod(arrays.angles, np.pi))
    gaps = np.diff(folded, append=folded[:1] + np.pi)
    return float(gaps.max() - np.median(gaps[gaps > _SAME_ANGLE])) if gaps.max() > _SAME_ANGLE else math.pi
