"""How an image lies in the patient: pixel spacing and affine, from field of view, positions and directions of readouts.

Readouts carry DICOM's patient coordinates (L, P, S; mm). Their position is the centre of slice or slab, and there lies
the zero frequency's pixel n // 2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Affine
from udig_recon.core.formats.kspace.ismrmrd_header import Space
from udig_recon.core.formats.readouts.placement import Grid, kept_samples
from udig_recon.core.formats.readouts.readouts import ReadoutEncoding
from udig_recon.core.formats.readouts.selection import Selection

_UNIT = 0.02  # how far from 1 the length of a direction may be, and from 0 the cosine between two
_EVEN = 0.05  # share by which steps between slices may differ
_LONGEST_MM = 1e4

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Where a stack of slices lies."""

    affine: Affine | None  # None where the readouts do not tell
    slice_spacing_mm: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageGrid:
    """The image of a k-space (rows, columns) that is kept: its middle, where more was encoded than is wanted."""

    size: tuple[int, int]  # (y, x)
    spacing_mm: tuple[float, float] | None  # (y, x); None: the header tells of no field of view
    centre: tuple[int, int]  # pixel (y, x) of the readouts' position
    thickness_mm: float | None  # field of view across a slice
    warnings: tuple[str, ...]


def image_grid(encoding: ReadoutEncoding, grid: Grid) -> ImageGrid:
    """The image of a 2-D encoding, whose k-space has `grid.rows` rows and `grid.kept` columns.

    Its pixels are those of k-space, whatever matrix the header would have it interpolated to.
    """
    encoded, recon = encoding.encoded, encoding.recon
    warnings = []
    sides = []
    for samples, axis, length in ((grid.rows, 1, encoded.field_of_view_mm[1]), (grid.columns, 0, grid.readout_fov_mm)):
        kept = kept_samples(samples, length, recon, axis)
        if recon is not None and recon.matrix[axis] != kept:
            warnings.append(
                f"the header's reconSpace has {recon.matrix[axis]} pixels along {'xy'[axis]}, what was measured of its "
                f"field of view {kept}: the image has {kept}"
            )
        sides.append((kept, _pixel(samples, length, kept, recon, axis)))
    size = sides[0][0], sides[1][0]
    spacing = None
    if sides[0][1] is None or sides[1][1] is None:
        warnings.append("the header gives no field of view: 1 mm is assumed for a pixel")
    else:
        spacing = sides[0][1], sides[1][1]
    across = [space.field_of_view_mm[2] for space in (recon, encoded) if space is not None]
    held = grid.rows, grid.kept
    return ImageGrid(
        size=size,
        spacing_mm=spacing,
        centre=tuple(have // 2 - (have - want) // 2 for have, want in zip(held, size, strict=True)),  # type: ignore[arg-type]
        thickness_mm=next((length for length in across if length is not None), None),
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class VolumeGrid:
    """The image of a slice across the readout of a 3-D measurement, (y, z), and the slices along x."""

    size: tuple[int, int]  # (y, z)
    spacing_mm: tuple[float, float] | None  # (y, z); None: the header tells of no field of view
    slice_spacing_mm: float | None
    centre: tuple[int, int, int]  # (z, y, x) of the readouts' position
    warnings: tuple[str, ...]


def volume_grid(encoding: ReadoutEncoding, grid: Grid) -> VolumeGrid:
    """The images (y, z) of a 3-D encoding, the middle of its k-space's field of view where less is wanted."""
    across = image_grid(encoding, grid)
    length = encoding.encoded.field_of_view_mm[2]
    kept = kept_samples(grid.partitions, length, encoding.recon, 2)
    pixel = _pixel(grid.partitions, length, kept, encoding.recon, 2)
    warnings = [*across.warnings]
    if encoding.recon is not None and encoding.recon.matrix[2] != kept:
        warnings.append(
            f"the header's reconSpace has {encoding.recon.matrix[2]} pixels along z, what was measured of its field of "
            f"view {kept}: the image has {kept}"
        )
    if kept != grid.partitions:
        warnings.append(f"slice oversampling: the middle {kept} of {grid.partitions} pixels along z are kept")
    spacing, along = None, None
    if across.spacing_mm is not None and pixel is not None:
        spacing, along = (across.spacing_mm[0], pixel), across.spacing_mm[1]
    elif across.spacing_mm is not None:
        warnings.append("the header gives no field of view along z: 1 mm is assumed for a pixel")
    height, columns = across.size
    centre = (
        grid.partitions // 2 - (grid.partitions - kept) // 2,
        grid.rows // 2 - (grid.rows - height) // 2,
        columns // 2,
    )
    return VolumeGrid((height, kept), spacing, along, centre, tuple(warnings))


def volume_geometry(lines: NDArray[Any], selection: Selection, grid: VolumeGrid) -> Geometry:
    """Geometry of slices across the readout: columns along the slice direction, rows along that of phase encoding."""
    if len(selection.slice_numbers) > 1:
        warning = f"{len(selection.slice_numbers)} slabs: no affine holds for all of them"
        return Geometry(None, grid.slice_spacing_mm, (warning,))
    axes, position = directions(lines[0]), lines[0]["position"].astype(np.float64)
    if axes is None or grid.spacing_mm is None or grid.slice_spacing_mm is None:
        return Geometry(None, grid.slice_spacing_mm)
    if not np.isfinite(position).all() or np.abs(position).max() > _LONGEST_MM:
        warning = "the positions of readouts are absurd: where the patient lay is unknown"
        return Geometry(None, grid.slice_spacing_mm, (warning,))
    height, depth = grid.spacing_mm
    steps = axes[2] * depth, axes[1] * height, axes[0] * grid.slice_spacing_mm
    return Geometry(affine(*steps, position, grid.centre), grid.slice_spacing_mm)


def _pixel(samples: int, fov: float | None, kept: int, recon: Space | None, axis: int) -> float | None:
    if fov is not None:
        return fov / samples
    wanted = None if recon is None else recon.field_of_view_mm[axis]
    return None if wanted is None else wanted / kept


def slice_geometry(lines: NDArray[Any], selection: Selection, grid: ImageGrid) -> Geometry:
    """Geometry of 2-D slices, ordered as in the selection, by the image's readouts."""
    thickness_mm = grid.thickness_mm
    first = [lines[np.argmax(lines["slice"] == number)] for number in selection.slice_numbers]
    positions = np.array([line["position"] for line in first], np.float64)
    axes = directions(first[0])
    if axes is None:
        return Geometry(None, thickness_mm, ("readouts do not tell how the patient lay: no affine",))
    if not np.isfinite(positions).all() or np.abs(positions).max() > _LONGEST_MM:
        return Geometry(None, thickness_mm, ("the positions of readouts are absurd: where the patient lay is unknown",))
    others = [directions(line) for line in first[1:]]
    if any(each is None or not np.allclose(each, axes, atol=_UNIT) for each in others):
        warning = "slices lie in different directions: no affine holds for all of them"
        return Geometry(None, thickness_mm, (warning,))
    step, spacing, warnings = _step(positions, axes[2], thickness_mm)
    if step is None:
        return Geometry(None, spacing, warnings)
    if grid.spacing_mm is None:
        return Geometry(None, spacing, warnings)
    columns, rows = axes[0] * grid.spacing_mm[1], axes[1] * grid.spacing_mm[0]
    return Geometry(affine(columns, rows, step, positions[0], (*grid.centre[::-1], 0)), spacing, warnings)


def directions(line: Any) -> Vector | None:
    """Directions (readout, phase, slice) of a readout as rows; None unless orthogonal unit vectors."""
    axes = np.array([line["read_dir"], line["phase_dir"], line["slice_dir"]], np.float64)
    if not np.isfinite(axes).all() or not np.allclose(axes @ axes.T, np.eye(3), atol=_UNIT):
        return None
    # Nearest orthonormal triple: float32 rounds.
    left, _, right = np.linalg.svd(axes)
    unit: Vector = left @ right
    return unit


def affine(column: Vector, row: Vector, slice_: Vector, position: Vector, centre: tuple[float, float, float]) -> Affine:
    """The affine of steps (mm) along columns, rows and slices, with the pixel (column, row, slice) at the position."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([column, row, slice_], axis=1)
    matrix[:3, 3] = position - matrix[:3, :3] @ np.asarray(centre)
    # Rounded: the last digits depend on the library of linear algebra.
    return tuple(tuple(round(float(value), 9) for value in line) for line in matrix)


def _step(
    positions: Vector, normal: Vector, thickness_mm: float | None
) -> tuple[Vector | None, float | None, tuple[str, ...]]:
    """Step from slice to slice, its length, and warnings."""
    if len(positions) == 1:
        return normal * (thickness_mm or 1.0), thickness_mm, ()
    steps = np.diff(positions, axis=0)
    mean = steps.mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-3:
        return None, thickness_mm, ("all slices have one position: where they lie is unknown",)
    if np.abs(steps - mean).max() > _EVEN * length:
        warning = "slices lie at uneven distances: no affine holds for all of them"
        return None, round(length, 4), (warning,)
    return mean, round(length, 4), ()
