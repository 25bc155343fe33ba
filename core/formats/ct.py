"""Sinogram files: geometry with its defaults, checks, and line integrals from counts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.acquisition import CTAcquisition, Modality, ScanHeader
from core.errors import UnsupportedScan
from core.formats.arrays import EITHER, Array, ArraySource, Contents, Expanded, Region, Squeezed
from core.formats.consistency import named, oddities
from core.formats.lengths import length, slice_spacing
from core.formats.limits import LEAST_SIDE, PEAKS, Limits, quoted, unreadable
from core.formats.survey import check_values, surveyed

USED = frozenset(
    ("sinogram", "angles", "mask", "reference", "guide", "geometry", "quantity", *EITHER, "image_size", "pixel_size_mm")
) | {"detector_spacing_mm", "rotation_center", "slice_spacing_mm", "slice_thickness_mm"}
"""Names of arrays and attributes that have a meaning beside a sinogram."""

_GEOMETRIES = ("fan", "cone", "helical", "spiral", "laminography")  # that are not read, but named
_QUANTITIES = {
    "line_integrals": "line_integrals",
    "line_integral": "line_integrals",
    "counts": "counts",
    "count": "counts",
    "photons": "counts",
    "transmission": "transmission",
    "transmissions": "transmission",
    "transmittance": "transmission",
}
_MOST_UNLIKE = 100  # pixels and detectors: what one crosses of the other is gone through one by one
_STEEP = 50.0  # line integrals of patients stay below about 15
_PHOTONS = 100  # i0 of less is a unit, not a number of photons
_MOST_TURN = 2.1 * math.pi  # a turn and a bit: nobody needs more of a parallel beam, and degrees soon exceed it
_LEFT_OUT = "rays that are missing may be left out: an array mask (views, detectors), 0 where nothing was measured"
_AXES = "(slices, views, detectors)"


@dataclass(frozen=True)
class _Beam:
    """What a ray reads without an object and without a beam, (detectors,) or one number for all."""

    flat: NDArray[np.float64]
    dark: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))


@dataclass(frozen=True)
class _Layout:
    """The arrays and geometry of a scan, fitted to each other, the sinogram's values not looked at."""

    sinogram: ArraySource  # (slices, views, detectors), zeros where a ray is not measured
    angles: NDArray[np.float64]  # (views,), radians
    measured: NDArray[np.bool_] | None  # (views, detectors); None: all rays
    reference: ArraySource | None  # (slices, image_size, image_size)
    guide: ArraySource | None  # (slices, image_size, image_size)
    beam: _Beam | None  # None: the sinogram holds line integrals
    image_size: int
    pixel_size_mm: float
    detector_spacing_mm: float
    rotation_center: float | None  # detector index
    slice_spacing_mm: float | None
    warnings: tuple[str, ...]


class _Measured(ArraySource):
    """A sinogram with zeros in place of what was not measured, whatever stands there."""

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
        slice_spacing_mm=layout.slice_spacing_mm,
        has_reference=layout.reference is not None,
        has_guide=layout.guide is not None,
        warnings=(*layout.warnings, *warnings),
    )


def read(contents: Contents, slices: Sequence[int]) -> CTAcquisition:
    """The wanted slices as line integrals, zeros where a ray is not measured."""
    layout = _layout(contents)
    reference, guide = layout.reference, layout.guide
    return CTAcquisition(
        sinogram=_integrals(layout, layout.sinogram.read(slices)),
        angles=layout.angles,
        measured=layout.measured,
        image_size=layout.image_size,
        pixel_size_mm=layout.pixel_size_mm,
        detector_spacing_mm=layout.detector_spacing_mm,
        rotation_center=layout.rotation_center,
        reference=None if reference is None else reference.read(slices).astype(np.float32, copy=False),
        guide=None if guide is None else guide.read(slices).astype(np.float32, copy=False),
    )


def _integrals(layout: _Layout, values: Array) -> NDArray[np.float32]:
    if layout.beam is None:
        return values.astype(np.float32, copy=False)
    integrals = line_integrals(values, layout.beam.flat, layout.beam.dark)
    if layout.measured is not None:
        integrals[:, ~layout.measured] = 0
    return integrals


def line_integrals(
    counts: Array, flat: float | NDArray[np.float64], dark: float | NDArray[np.float64] = 0.0
) -> NDArray[np.float32]:
    """Beer and Lambert: -log((counts - dark) / (flat - dark)), where a ray without photons counts as half a photon.

    `counts` (slices, views, detectors) photons, `flat` and `dark` (detectors,) or one number what is read without an
    object and without a beam; with a flat below 100 they are taken for transmissions, not photons.
    """
    beam = np.asarray(flat - np.asarray(dark), np.float64)
    least = np.where(beam >= _PHOTONS, 0.5, 5e-6 * beam)
    # counts of unsigned types must not wrap below dark
    found = counts if np.ndim(dark) == 0 and not np.any(dark) else np.asarray(counts, np.float64) - dark
    return np.asarray(-np.log(np.maximum(found, least) / beam), np.float32)


def check_limits(contents: Contents, limits: Limits) -> None:
    """Refuse a scan that is too large, by the sizes that its arrays and attributes declare."""
    slices, views, detectors = _stack(contents).shape
    limits.check("sinogram", "slices", slices, limits.max_slices)
    limits.check("sinogram", "views", views, limits.max_views)
    bin_them = "sum or average neighbouring detectors, and give detector_spacing_mm of the sums"
    limits.check("sinogram", "detectors", detectors, limits.max_detectors, LEAST_SIDE, cure=bin_them)
    size = _layout(contents).image_size
    cure = "" if "image_size" in contents.attributes else _smaller_image(contents, size, limits.max_matrix)
    limits.check("image_size", "pixels a side", size, limits.max_matrix, LEAST_SIDE, cure=cure)


def _smaller_image(contents: Contents, size: int, most: int) -> str:
    """What to give where the image follows from the detectors and is too large."""
    pixel = length(contents.attributes, "pixel_size_mm") or length(contents.attributes, "detector_spacing_mm") or 1.0
    return f"give image_size={most} and pixel_size_mm={pixel * size / most:.4g} to have all of the detector's width"


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return _stack(contents).shape[0]


def _stack(contents: Contents) -> ArraySource:
    """The sinogram with all three axes."""
    source = contents.arrays["sinogram"]
    if source.dtype.kind not in "iuf" or source.native in (np.float16, np.longdouble):
        raise unreadable("sinogram", f"{source.dtype} values", "float32 or float64, or whole numbers for counts")
    angles = contents.arrays.get("angles")
    views = None if angles is None else math.prod(angles.shape)
    if len(source.shape) > 2 and (len(source.shape) > 3 or source.shape[1] != views):
        squeezed = Squeezed(source)
        if len(squeezed.shape) == 2 and views in (None, squeezed.shape[0]):
            return Expanded(squeezed, axis=0)
        if len(source.shape) > 3 and len(squeezed.shape) == 3:
            source = squeezed
    if len(source.shape) == 2:
        return Expanded(source, axis=0)
    if len(source.shape) != 3:
        raise unreadable("sinogram", f"{len(source.shape)} axes {source.shape}", f"3 axes {_AXES}")
    return source


def _layout(contents: Contents) -> _Layout:
    warnings: list[str] = []
    sinogram = _stack(contents)
    attributes = contents.attributes
    declared = contents.arrays["sinogram"].shape
    if len(declared) > 2 and declared != sinogram.shape:
        warnings.append(f"the sinogram of shape {declared} is read as {sinogram.shape}, {_AXES}")
    _check_geometry(attributes, warnings)
    slices, views, detectors = sinogram.shape
    angles = _angles(contents.arrays.get("angles"), sinogram.shape, contents.others)
    reference = contents.arrays.get("reference")
    size, pixel, spacing = _grid(attributes, detectors, reference, warnings)
    measured = _mask(contents.arrays.get("mask"), views, detectors)
    fitted, guide = (
        None if source is None else _fitting(source, (slices, size, size))
        for source in (reference, contents.arrays.get("guide"))
    )
    return _Layout(
        sinogram=sinogram if measured is None else _Measured(sinogram, measured),
        angles=angles,
        measured=measured,
        reference=fitted,
        guide=guide,
        beam=_beam(contents, detectors, measured, warnings),
        image_size=size,
        pixel_size_mm=pixel,
        detector_spacing_mm=spacing,
        rotation_center=_rotation_center(attributes, detectors),
        slice_spacing_mm=slice_spacing(attributes, warnings),
        warnings=tuple(warnings),
    )


def _fitting(source: ArraySource, shape: tuple[int, int, int]) -> ArraySource:
    if source.native not in (np.float32, np.float64):
        raise unreadable(source.name, f"{source.dtype} values", "float32, attenuation in 1/mm")
    fitted = Expanded(source, axis=0) if len(source.shape) == 2 else source
    if fitted.shape != shape:
        raise unreadable(source.name, f"shape {source.shape}", f"shape {shape}")
    return fitted


def _check_geometry(attributes: Mapping[str, float | str], warnings: list[str]) -> None:
    """Parallel beams alone, however that is spelt; what is assumed is told."""
    geometry = attributes.get("geometry")
    if geometry is None:
        warnings.append("the file gives no geometry: parallel beams are assumed")
        return
    plain = str(geometry).lower().strip().replace("_", "").replace("-", "").replace(" ", "")
    if plain.removesuffix("2d").removesuffix("3d").removesuffix("beam") == "parallel":
        return
    known = next((name for name in _GEOMETRIES if plain.startswith(name)), None)
    found = quoted(geometry) if known is None else f"{known} beam" if known in ("fan", "cone") else known
    expected = "parallel"
    if known is not None:
        expected += " (rebin the measurements to parallel rays first: a sinogram of one view for each direction)"
    raise UnsupportedScan(
        f"geometry: found {found}, expected {expected}", field="geometry", found=found, expected=expected
    )


def _grid(
    attributes: Mapping[str, float | str], detectors: int, reference: ArraySource | None, warnings: list[str]
) -> tuple[int, float, float]:
    """Image size, pixel size and detector spacing (mm); what is missing follows from what is there."""
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


def _rotation_center(attributes: Mapping[str, float | str], detectors: int) -> float | None:
    """Detector index, counted from 0, that the axis of rotation falls on; None: the middle."""
    centre = attributes.get("rotation_center")
    if centre is None:
        return None
    if isinstance(centre, str) or not 0 <= centre <= detectors - 1:
        expected = f"a detector's index, counted from 0, of 0 to {detectors - 1}; the middle is {(detectors - 1) / 2:g}"
        raise unreadable("rotation_center", quoted(centre), expected)
    return centre


def _angles(source: ArraySource | None, shape: tuple[int, ...], others: Sequence[str]) -> NDArray[np.float64]:
    views = shape[1]
    wanted = f"{views} angles in radians, one per view, under the name angles"
    if source is None:
        alike = [name for name in others if name.lower() in ("theta", "angle", "thetas", "projection_angles", "phi")]
        raise unreadable("angles", f"none, but {alike[0]}" if alike else "none", wanted)
    count = math.prod(source.shape)
    if count != views or max(source.shape, default=1) != count:
        _refuse_swapped(shape, count)
        raise unreadable("angles", f"shape {source.shape}", f"shape {(views,)}, one per view of sinogram {shape}")
    if source.dtype.kind not in "iuf":
        raise unreadable("angles", f"{source.dtype} values", "radians as numbers")
    angles = source.whole().reshape(-1).astype(np.float64)
    if not np.isfinite(angles).all():
        raise unreadable("angles", "NaN or infinity", "finite radians")
    low, high = float(angles.min()), float(angles.max())
    if _look_like_degrees(angles):
        radians = f"radians, {math.radians(low):.4g} to {math.radians(high):.4g} (numpy.deg2rad)"
        raise unreadable("angles", f"values from {low:g} to {high:g}, which look like degrees", radians)
    if views > 1 and high == low:
        raise unreadable("angles", f"{views} views at the same angle {low:g}", "different angles in radians")
    return angles


def _refuse_swapped(shape: tuple[int, ...], angles: int) -> None:
    """Say which order of axes it is where another axis than that of views is as long as angles."""
    slices, views, detectors = shape
    expected = f"{_AXES}, with as many views as angles"
    if angles == detectors != views:
        found = f"shape {shape}, whose last axis is as long as angles: (slices, detectors, views)"
        raise unreadable("sinogram", found, f"{expected}: numpy.swapaxes(sinogram, -2, -1)")
    if angles == slices != views:
        found = f"shape {shape}, whose first axis is as long as angles: (views, slices, detectors)"
        raise unreadable("sinogram", found, f"{expected}: numpy.swapaxes(sinogram, 0, 1)")


def _look_like_degrees(angles: NDArray[np.float64]) -> bool:
    """Whether angles cannot be radians; those may begin at any number of turns, and go on by a golden angle."""
    span = float(np.ptp(angles))
    if span > _MOST_TURN:
        return not _golden(angles)
    if np.abs(angles).max() <= 4 * math.pi or len(angles) < 2:
        return bool(np.abs(angles).max() > 4 * math.pi)
    step = span / (len(angles) - 1)
    turns = (span / math.pi, (span + step) / math.pi)
    if any(abs(turn - whole) < 0.01 * whole for turn in turns for whole in (1, 2)):
        return False
    # So far from 0 and of no half turn: degrees are round numbers, radians hardly ever.
    return bool(np.allclose(angles, np.round(angles, 3), rtol=0, atol=1e-9 * np.abs(angles).max()))


def _golden(angles: NDArray[np.float64]) -> bool:
    """Whether views go on by a golden or tiny golden angle (Wundrak et al. 2015) of radians, not folded into a turn."""
    steps = np.diff(angles)
    ratio = (1 + math.sqrt(5)) / 2
    known = [math.pi / (ratio + n) for n in range(10)] + [2 * math.pi / (ratio + n) for n in range(10)]
    return bool(np.ptp(steps) < 1e-3 and min(abs(abs(steps.mean()) - step) for step in known) < 1e-3)


def _mask(source: ArraySource | None, views: int, detectors: int) -> NDArray[np.bool_] | None:
    """Which rays (views, detectors) were measured; None where all were. A row (detectors,) holds for all views."""
    if source is None:
        return None
    fitted = source if source.shape in ((detectors,), (views, detectors)) else Squeezed(source)
    if fitted.shape not in ((detectors,), (views, detectors)):
        expected = f"shape {(detectors,)} or {(views, detectors)}, the same for all slices"
        raise unreadable("mask", f"shape {source.shape}", expected)
    if source.dtype.kind not in "biuf":
        raise unreadable("mask", f"{source.dtype} values", "bool, or numbers 0 and 1")
    values = fitted.whole()
    if not np.isin(values, (0, 1)).all():
        raise unreadable("mask", "values beside 0 and 1", "0 where a ray was not measured, 1 where it was")
    measured = np.broadcast_to(values.astype(bool), (views, detectors))
    if not measured.any():
        raise unreadable("mask", "nothing but zeros", "some measured rays")
    return None if measured.all() else measured.copy()


def _beam(contents: Contents, detectors: int, measured: NDArray[np.bool_] | None, warnings: list[str]) -> _Beam | None:
    """The beam without an object; None for line integrals."""
    attributes, arrays = contents.attributes, contents.arrays
    given = attributes.get("quantity", "line_integrals")
    quantity = _QUANTITIES.get(str(given).lower().strip().replace(" ", "_").replace("-", "_"))
    if quantity is None:
        raise unreadable("quantity", quoted(given), "'line_integrals', 'counts' or 'transmission'")
    there = [name for name in ("i0", "flat", "dark") if name in attributes or name in arrays]
    if quantity == "line_integrals":
        if "flat" in there or "dark" in there:
            name = "flat" if "flat" in there else "dark"
            raise unreadable(name, f"{name} beside line integrals", f"quantity='counts' beside it, or no {name}")
        if there:
            warnings.append("i0 is not used: the sinogram is taken for line integrals, as quantity is not 'counts'")
        return None
    if "i0" in there and "flat" in there:
        raise unreadable("flat", "both i0 and flat", "one of them: what a detector reads without an object")
    name = "flat" if "flat" in there else "i0"
    if name not in there:
        if quantity == "counts":
            expected = f"photons per ray without an object, {PEAKS[0]:g} to {PEAKS[1]:g}, for quantity 'counts'"
            raise unreadable("i0", "None", f"{expected}; or flat and dark (detectors,)")
        flat = np.ones(())
    else:
        flat = _per_detector(contents, name, detectors)
    dark = _per_detector(contents, "dark", detectors) if "dark" in there else np.zeros(())
    used = np.ones(detectors, bool) if measured is None else np.asarray(measured.any(axis=0))
    _check_beam(name, flat, dark, used)
    return _Beam(np.where(flat - dark > 0, flat, dark + 1), dark)


def _per_detector(contents: Contents, name: str, detectors: int) -> NDArray[np.float64]:
    """One number, or one for each detector."""
    source = contents.arrays.get(name)
    if source is None:
        value = contents.attributes[name]
        if isinstance(value, str):
            raise unreadable(name, quoted(value), "one number, or one for each detector")
        return np.asarray(value, np.float64)
    fitted = Squeezed(source)
    if fitted.shape != (detectors,):
        expected = f"one number or shape {(detectors,)}, one for each detector (the mean over frames)"
        raise unreadable(name, f"shape {source.shape}", expected)
    if source.dtype.kind not in "iuf":
        raise unreadable(name, f"{source.dtype} values", "numbers")
    return fitted.whole().astype(np.float64)


def _check_beam(name: str, flat: NDArray[np.float64], dark: NDArray[np.float64], used: NDArray[np.bool_]) -> None:
    """Refuse a beam that no ray can be divided by, with the detectors where that is so."""
    for which, values, least in ((name, flat, PEAKS[0]), ("dark", dark, 0.0)):
        with np.errstate(invalid="ignore"):
            wrong = used & ~((values >= least) & (values <= PEAKS[1]))
        if wrong.any():
            first = quoted(float(values if values.ndim == 0 else values[wrong][0]))
            where = "" if values.ndim == 0 else f" at {named('detector', np.flatnonzero(wrong))}"
            expected = f"photons per ray, {least:g} to {PEAKS[1]:g}; or an array mask with 0 at such detectors"
            raise unreadable(which, first + where, expected)
    beaten = used & (flat - dark <= PEAKS[0])
    if beaten.any():
        where = "everywhere" if flat.ndim == dark.ndim == 0 else f"at {named('detector', np.flatnonzero(beaten))}"
        raise unreadable(name, f"no more than dark {where}", f"{name} above dark, or an array mask with 0 there")


def _survey(layout: _Layout) -> list[str]:
    """Look at all of the sinogram; gives what is odd about it."""
    starved, highest = 0, -math.inf
    signal = np.zeros(layout.sinogram.shape[0])
    beam = layout.beam
    for region, block in surveyed(layout.sinogram, ("slice", "view", "detector"), _LEFT_OUT):
        dark = 0.0 if beam is None else beam.dark if beam.dark.ndim == 0 else beam.dark[region[2]]
        none = block <= dark
        if layout.measured is not None:
            none &= layout.measured[region[1:]]
        starved += int(none.sum())
        highest = max(highest, float(block.max()))
        signal[region[0]] += np.abs(block).sum(axis=(1, 2), dtype=np.float64)
    told: list[str] = []
    if beam is not None:
        if highest <= 0:
            raise unreadable("sinogram", "no count above 0", "photon counts")
        if starved:
            told.append(f"{starved} rays without photons are read as half a photon")
        told += _beam_oddities(beam, highest)
    elif highest > _STEEP:
        return [f"line integrals reach {highest:.3g}: if these are counts, set quantity='counts' and i0"]
    elif layout.sinogram.dtype.kind in "iu":
        return ["line integrals are whole numbers: if these are counts, set quantity='counts' and i0"]
    # The laws of line integrals are tried on the slice that attenuates most.
    chosen = int(np.argmax(signal) if beam is None else np.argmin(np.where(signal > 0, signal, np.inf)))
    integrals = _integrals(layout, layout.sinogram.read([chosen]))[0]
    return told + oddities(integrals, layout.angles, layout.measured)


def _beam_oddities(beam: _Beam, highest: float) -> list[str]:
    """Counts and i0 that cannot belong together."""
    flat, dark = float(beam.flat.max()), float(beam.dark.min())
    share = (highest - dark) / (flat - dark)
    if share > 2:
        return [f"rays read up to {share:.3g} times what i0 or flat says of the beam: is it right?"]
    if share < 3e-4:
        return [f"no ray reads more than {share:.2g} of i0 or flat: is it right, and are these counts?"]
    return []
