"""Reader of k-space along a trajectory: `kspace` beside `trajectory`, under the names that scans use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Modality, NonCartesianAcquisition, ScanHeader
from udig_recon.core.coils.calibration import calibration_of
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import AddedAxis, ArraySource
from udig_recon.core.formats.containers.views import CentreCrop, DroppedAxis, SwappedAxes
from udig_recon.core.formats.input_format import MRI_ARRAYS, Contents
from udig_recon.core.formats.kspace.fitting import complex_kspace, find_reference, fit_shape, pixel_spacing
from udig_recon.core.formats.kspace.ismrmrd_header import Space, header_texts, read_space
from udig_recon.core.formats.kspace.many_coils import (
    COMPRESS,
    MOST_COILS,
    check_compressible,
    compression_corrections,
    with_few_coils,
)
from udig_recon.core.formats.kspace.masks import noise_covariance
from udig_recon.core.formats.kspace.trajectory import (
    Shape,
    component_axis,
    in_cycles_per_field,
    in_plane,
    matrix_of,
    runs_along_last,
    shape_of,
    without_complex,
)
from udig_recon.core.formats.lengths import slice_spacing
from udig_recon.core.formats.limits import LEAST_SIDE, Limits, quote_safely
from udig_recon.core.formats.value_checks import check_values, checked_blocks
from udig_recon.core.formats.with_warnings import WithWarnings

USED = frozenset((*MRI_ARRAYS, "image_size", "pixel_spacing_mm", "slice_spacing_mm", "slice_thickness_mm")) - {"mask"}
"""Names of arrays and attributes that a scan along a trajectory uses."""

MOST_POINTS = 1 << 20
"""Samples of a slice, as many as the largest Cartesian k-space has."""
MOST_TRAJECTORY_BYTES = 128 << 20

_ORDER = "(slices, coils, readouts, samples)"


@dataclass(frozen=True)
class FittedScan:
    """The arrays of a scan along a trajectory, fitted to each other."""

    kspace: ArraySource  # (slices, coils, readouts, samples)
    points: NDArray[np.float32]  # (1 or slices, readouts, samples, 2): (ky, kx) in cycles per field of view
    shape: Shape
    matrix: tuple[int, int]
    recon_size: tuple[int, int]
    sensitivity_maps: ArraySource | None  # (slices, coils, y, x)
    reference: ArraySource | None  # (slices, *recon_size)
    guide: ArraySource | None  # (slices, *recon_size)
    noise_covariance: NDArray[np.complex64] | None
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None
    warnings: tuple[str, ...]
    corrections: tuple[str, ...]

    def points_of(self, index: int) -> NDArray[np.float32]:
        """The trajectory (readouts, samples, 2) of a slice."""
        points: NDArray[np.float32] = self.points[index if len(self.points) > 1 else 0]
        return points


def fit_scan(contents: Contents) -> FittedScan:
    """Fit the arrays of a scan along a trajectory to each other. Raises UnreadableScan where that is impossible."""
    points, kspace, noted = _aligned(contents)
    warnings = [*noted]
    slices, coils = kspace.shape[:2]
    plane = in_plane(points)
    shape = shape_of(plane[0])
    maps = contents.arrays.get("sensitivity_maps")
    given = find_reference(contents, coils)
    (matrix, spacing), noted = _matrix(contents, plane[0], shape, maps, given)
    warnings += noted
    cycles, notes = in_cycles_per_field(plane, matrix)
    warnings += notes[1:]
    size = matrix
    if (
        given is not None
        and len(given.shape) >= 2
        and all(0 < a <= b for a, b in zip(given.shape[-2:], matrix, strict=True))
    ):
        size = (given.shape[-2], given.shape[-1])
    guide = contents.arrays.get("guide")
    if maps is not None:
        maps = fit_shape(maps, (slices, coils, *matrix), "c")
    if "density" in contents.arrays:
        warnings.append("density is not used: weights of samples are computed from the trajectory")
    if spacing is None:
        spacing, noted = pixel_spacing(contents)
        warnings += noted
    across, noted = slice_spacing(contents.attributes)
    warnings += noted
    return FittedScan(
        kspace=kspace,
        points=cycles,
        shape=shape,
        matrix=matrix,
        recon_size=size,
        sensitivity_maps=maps,
        reference=None if given is None else fit_shape(_cropped(given, size), (slices, *size), "iufc"),
        guide=None if guide is None else fit_shape(guide, (slices, *size), "iuf"),
        noise_covariance=noise_covariance(contents.arrays.get("noise"), coils),
        pixel_spacing_mm=spacing,
        slice_spacing_mm=across,
        warnings=tuple(warnings),
        corrections=notes[:1],
    )


def probe(contents: Contents) -> ScanHeader:
    """Header of a scan along a trajectory, after a check of all its values."""
    scan = fit_scan(contents)
    slices, coils, readouts, samples = scan.kspace.shape
    axes = ("slice", "coil", "readout", "sample")
    missing = np.ones((slices, readouts, samples), bool)
    for region, block in checked_blocks(scan.kspace, axes, "a sample that is missing is 0 in all coils"):
        missing[region[0], region[2], region[3]] &= (block == 0).all(axis=1)
    empty = np.flatnonzero(missing.all(axis=(1, 2)))
    warnings = [*scan.warnings]
    if empty.size:
        warnings.append(f"slices without any signal: {', '.join(map(str, empty[:20]))}")
    lost = int(np.delete(missing, empty, axis=0).sum())
    if lost:
        warnings.append(f"{lost} samples are 0 in all coils: they are taken for missing")
    for source in (scan.sensitivity_maps, scan.reference, scan.guide):
        if source is not None:
            check_values(source)
    if coils > 1 and scan.sensitivity_maps is None:
        for points in scan.points:
            calibration_of(points.reshape(-1, 2), scan.matrix)
    return ScanHeader(
        format=contents.format,
        modality=Modality.MRI,
        slices=slices,
        coils=min(coils, MOST_COILS),
        matrix=scan.recon_size,
        kspace_matrix=scan.matrix,
        pixel_spacing_mm=scan.pixel_spacing_mm,
        slice_spacing_mm=scan.slice_spacing_mm,
        trajectory=scan.shape,
        acceleration=acceleration(scan.points[0], scan.matrix),
        has_maps=scan.sensitivity_maps is not None,
        has_reference=scan.reference is not None,
        has_guide=scan.guide is not None,
        corrections=(*scan.corrections, *compression_corrections(coils)),
        warnings=tuple(warnings),
    )


def read(contents: Contents, slices: Sequence[int]) -> NonCartesianAcquisition:
    """Read the wanted slices."""
    scan = fit_scan(contents)
    kspace = scan.kspace.read(slices).astype(np.complex64, copy=False)
    measured = (kspace != 0).any(axis=1)
    maps, reference, guide = scan.sensitivity_maps, scan.reference, scan.guide
    found = NonCartesianAcquisition(
        kspace=kspace,
        trajectory=np.stack([scan.points_of(index) for index in slices]),
        measured=None if measured.all() or not measured.any() else measured,
        matrix=scan.matrix,
        sensitivity_maps=None if maps is None else maps.read(slices).astype(np.complex64, copy=False),
        reference=None if reference is None else np.abs(reference.read(slices)).astype(np.float32, copy=False),
        guide=None if guide is None else np.abs(guide.read(slices)).astype(np.float32, copy=False),
        noise_covariance=scan.noise_covariance,
        recon_size=scan.recon_size,
        pixel_spacing_mm=scan.pixel_spacing_mm,
    )
    return with_few_coils(found)


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return _aligned(contents)[1].shape[0]


def check_limits(contents: Contents, limits: Limits) -> None:
    """Refuse a scan that is too large, by the sizes that its arrays declare."""
    points, kspace, _ = _aligned(contents)
    slices, coils, readouts, samples = kspace.shape
    limits.check("kspace", "slices", slices, limits.max_slices)
    limits.check("kspace", "coils", coils, limits.max_coils, remedy=COMPRESS)
    limits.check("kspace", "samples of a slice", readouts * samples, MOST_POINTS, LEAST_SIDE)
    check_compressible("kspace", coils, coils * readouts * samples)
    plane = in_plane(points)
    given = find_reference(contents, coils)
    (matrix, _), _ = _matrix(contents, plane[0], shape_of(plane[0]), contents.arrays.get("sensitivity_maps"), given)
    for side in matrix:
        limits.check("image_size", "pixels a side", side, limits.max_matrix, LEAST_SIDE)


def acceleration(points: NDArray[np.floating[Any]], matrix: tuple[int, int]) -> float:
    """Cells of the Cartesian grid over those that hold a sample of points (readouts, samples, 2)."""
    cells = np.unique(np.rint(points.reshape(-1, 2)).astype(np.int64), axis=0)
    return round(matrix[0] * matrix[1] / len(cells), 4)


def _aligned(contents: Contents) -> tuple[NDArray[Any], ArraySource, tuple[str, ...]]:
    """Points (1 or slices, readouts, samples, 2 or 3), k-space with all four axes, and warnings."""
    source = contents.arrays["trajectory"]
    if source.dtype.kind not in "fiuc" or source.native in (np.longdouble, np.clongdouble):
        raise UnreadableScan.at("trajectory", f"{source.dtype} values", "numbers such as float32")
    if source.nbytes > MOST_TRAJECTORY_BYTES:
        raise UnreadableScan.at("trajectory", f"{source.nbytes} bytes", f"at most {MOST_TRAJECTORY_BYTES}")
    kspace, warnings = complex_kspace(contents, (3, 4, 5))
    points = without_complex(source.whole())
    points = np.moveaxis(points, component_axis(points.shape), -1)
    while points.ndim > 3 and points.shape[0] == 1:
        points = points[0]
    if points.ndim == 2:
        points = points[None]
    several = points.ndim == 4
    if points.ndim not in (3, 4):
        raise UnreadableScan.at("trajectory", f"shape {source.shape}", "(readouts, samples, 2) of (kx, ky)")
    plane = points.shape[-3:-1]
    kspace, swapped, noted = _with_four_axes(kspace, plane, contents)
    if several and len(points) != kspace.shape[0]:
        found = f"{len(points)} trajectories beside {kspace.shape[0]} slices"
        raise UnreadableScan.at("trajectory", found, "one for all slices, or one for each")
    points = points if several else points[None]
    if swapped:
        points = points.swapaxes(1, 2)
    if not runs_along_last(points[0, ..., :2].astype(np.float64)):
        points, kspace = points.swapaxes(1, 2), SwappedAxes(kspace)
    return points, kspace, (*warnings, *noted)


def _with_four_axes(
    kspace: ArraySource, plane: tuple[int, int], contents: Contents
) -> tuple[ArraySource, bool, tuple[str, ...]]:
    """k-space with slices and coils in front of a trajectory's two axes, and whether these are swapped."""
    shape = kspace.shape
    warnings: tuple[str, ...] = ()
    if plane[0] == 1 and shape[-1:] == (plane[1],) and shape[-2:] != plane:
        kspace = AddedAxis(kspace, len(shape) - 1)
        shape = kspace.shape
    swapped = shape[-2:] == plane[::-1] != plane
    if shape[-2:] != plane and not swapped:
        raise UnreadableScan.at(
            "kspace",
            f"shape {contents.arrays['kspace'].shape} beside a trajectory of {plane[0]} x {plane[1]} samples",
            f"axes {_ORDER}, the last two as those of the trajectory",
        )
    while len(kspace.shape) > 4 and kspace.shape[0] == 1:
        kspace = DroppedAxis(kspace, 0)
    if len(kspace.shape) == 2:
        kspace = AddedAxis(AddedAxis(kspace, 0), 0)
    elif len(kspace.shape) == 3:
        kspace = AddedAxis(kspace, 0)
        warnings = ("kspace has 3 axes beside its trajectory: read as (coils, readouts, samples) of one slice",)
    if len(kspace.shape) != 4:
        raise UnreadableScan.at("kspace", f"{len(shape)} axes {shape}", f"axes {_ORDER}")
    return kspace, swapped, warnings


def _matrix(
    contents: Contents,
    points: NDArray[np.float64],
    shape: Shape,
    maps: ArraySource | None,
    reference: ArraySource | None,
) -> WithWarnings[tuple[tuple[int, int], tuple[float, float] | None]]:
    """The matrix (y, x), and the pixel spacing where the header tells it."""
    size = contents.attributes.get("image_size")
    if size is not None:
        if isinstance(size, str) or not (1 <= size < 1 << 20 and size == int(size)):
            raise UnreadableScan.at("image_size", quote_safely(size), "a whole number of pixels a side")
        return WithWarnings(((int(size), int(size)), None))
    if contents.header_xml is not None:
        texts = header_texts(contents.header_xml)
        space = read_space(texts, "reconSpace") or read_space(texts, "encodedSpace")
        if space is not None:
            return WithWarnings(((space.matrix[1], space.matrix[0]), _pixel(space)))
    for source in (maps, reference):
        if source is not None and len(source.shape) >= 2:
            return WithWarnings(((source.shape[-2], source.shape[-1]), None))
    matrix, warnings = matrix_of(points, shape)
    return WithWarnings((matrix, None), warnings)


def _pixel(space: Space) -> tuple[float, float] | None:
    x, y = space.field_of_view_mm[:2]
    return None if x is None or y is None else (y / space.matrix[1], x / space.matrix[0])


def _cropped(reference: ArraySource, size: tuple[int, int]) -> ArraySource:
    return CentreCrop(reference, size) if reference.shape[-2:] != size and len(reference.shape) >= 2 else reference
