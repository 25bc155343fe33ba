"""Where readouts of a Cartesian measurement lie in k-space: row, partition, first column, and which samples count."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.kspace.ismrmrd_header import Space
from udig_recon.core.formats.readouts.readouts import Flag, ReadoutEncoding, Readouts

Integers = NDArray[np.int64]
Complex = NDArray[np.complex64]

MOST_COLUMNS = 1024
"""Columns up to which oversampling stays in where readouts are not whole (asymmetric echoes)."""

_OVERSAMPLED = 1.5  # how many times longer than the header's matrix lines are whose oversampling it does not tell


@dataclass(frozen=True)
class Grid:
    """The k-space that readouts are sorted to, zero frequency at n // 2 of each axis."""

    columns: int  # along the readout as it was sampled
    kept: int  # columns of k-space: fewer where readout oversampling is removed, to the middle of their image
    rows: int  # kspace_encode_step_1
    partitions: int  # kspace_encode_step_2
    readout_fov_mm: float | None  # of the columns as they were sampled


@dataclass(frozen=True)
class Placement:
    """Where each readout lies, for readouts of these numbers."""

    grid: Grid
    row: Integers  # (readouts,)
    partition: Integers  # (readouts,)
    start: Integers  # (readouts,), column of the first sample that counts
    skipped: Integers  # (readouts,), samples in front of it that do not, in the order of k-space
    count: Integers  # (readouts,), samples that count; 0 where the readout lies outside of the grid
    reverse: NDArray[np.bool_]  # (readouts,)
    warnings: tuple[str, ...]

    def window(self, index: int) -> slice:
        """Columns that a readout measures once oversampling is removed, rounded inward."""
        columns, kept = self.grid.columns, self.grid.kept
        start, count = int(self.start[index]), int(self.count[index])
        if columns == kept or (start == 0 and count == columns):
            return slice(start, start + count) if columns == kept else slice(0, kept)
        middle = columns // 2
        first = -((middle - start) * kept // columns) + kept // 2
        last = ((start + count - 1 - middle) * kept) // columns + kept // 2
        return slice(max(first, 0), max(min(last + 1, kept), max(first, 0)))


def place(
    readouts: Readouts, encoding: ReadoutEncoding, indices: NDArray[np.intp], grid: Grid | None = None
) -> Placement:
    """Where the readouts of these numbers lie, on a grid that is given or follows from them.

    Raises UnreadableScan where none lies in the header's k-space.
    """
    lines, warnings, given = readouts.lines[indices], list[str](), grid is not None
    if grid is None:
        grid = sampled_grid(encoding, lines, warnings)
    start, skipped, count = _columns(lines, grid.columns, warnings)
    if not given and (count[count > 0] < grid.columns).any() and grid.columns <= MOST_COLUMNS:
        # To crop the image of a part of a readout smears it over the ends of that part.
        grid = replace(grid, kept=grid.columns)
    row, row_outside = _steps(lines["kspace_encode_step_1"], grid.rows, encoding, "kspace_encoding_step_1", warnings)
    partition, partition_outside = _steps(
        lines["kspace_encode_step_2"], grid.partitions, encoding, "kspace_encoding_step_2", warnings
    )
    outside = row_outside | partition_outside | (count <= 0)
    if outside.all():
        raise UnreadableScan.at("data", "no readout inside of the header's k-space", f"{grid.rows} rows of it")
    if outside.any():
        warnings.append(f"{outside.sum()} readouts lie outside of the header's k-space: they are not used")
    return Placement(
        grid=grid,
        row=np.where(outside, 0, row),
        partition=np.where(outside, 0, partition),
        start=start,
        skipped=skipped,
        count=np.where(outside, 0, count),
        reverse=(lines["flags"] & np.uint64(Flag.REVERSE)) != 0,
        warnings=tuple(warnings),
    )


def sampled_grid(encoding: ReadoutEncoding, lines: NDArray[Any], warnings: list[str]) -> Grid:
    """The k-space of readouts, without their oversampling; adds to the warnings."""
    encoded, recon = encoding.encoded, encoding.recon
    columns, rows, partitions = encoded.matrix
    fov = encoded.field_of_view_mm[0]
    counted = _counted(lines)
    longest = int(counted.max())
    if longest >= _OVERSAMPLED * columns and (counted == longest).all():
        warnings.append(
            f"readouts have {longest} samples, the header's encoded matrix {columns}: they are taken for oversampled"
        )
        fov = None if fov is None else fov * longest / columns
        columns = longest
    kept = kept_samples(columns, fov, recon, 0)
    if recon is not None and fov is not None and recon.matrix[0] <= columns:
        # Scanners interpolate both axes of an image, or none.
        finer = recon.matrix[0] / kept, recon.matrix[1] / kept_samples(rows, encoded.field_of_view_mm[1], recon, 1)
        if finer[0] >= _OVERSAMPLED * max(finer[1], 1):
            warnings.append(
                f"the header's field of view of the readout, {fov:g} mm, is that of {kept} columns of its reconSpace's "
                f"{recon.matrix[0]}: it is taken for too large, and {recon.matrix[0]} columns are kept"
            )
            wanted = recon.field_of_view_mm[0]
            kept = recon.matrix[0]
            fov = None if wanted is None else wanted * columns / kept
    return Grid(columns, kept, rows, partitions, fov)


def _counted(lines: NDArray[Any]) -> Integers:
    """Samples of each readout without those to discard."""
    samples, pre, post = (lines[name].astype(np.int64) for name in ("samples", "discard_pre", "discard_post"))
    counted: Integers = samples - pre - post
    if (counted <= 0).any():
        at = int(np.argmax(counted <= 0))
        found = f"{lines['discard_pre'][at]} and {lines['discard_post'][at]} of {lines['samples'][at]} to discard"
        raise UnreadableScan.at("data", found, "some samples that are kept")
    return counted


def kept_samples(samples: int, fov: float | None, recon: Space | None, axis: int) -> int:
    """Samples along an axis of the header (0: x) that the middle of the image needs, which the header wants kept."""
    if recon is None:
        return samples
    wanted = recon.field_of_view_mm[axis]
    kept = recon.matrix[axis] if fov is None or wanted is None else round(samples * wanted / fov)
    return min(max(kept, 1), samples)


def _columns(lines: NDArray[Any], columns: int, warnings: list[str]) -> tuple[Integers, Integers, Integers]:
    """First column, samples skipped and samples that count, of each readout in the order of k-space."""
    samples, count = lines["samples"].astype(np.int64), _counted(lines)
    reverse = (lines["flags"] & np.uint64(Flag.REVERSE)) != 0
    skipped = np.where(reverse, lines["discard_post"], lines["discard_pre"]).astype(np.int64)
    center = np.where(reverse, samples - 1 - lines["center_sample"], lines["center_sample"]).astype(np.int64)
    start = columns // 2 - (center - skipped)
    outside = (start < 0) | (start + count > columns)
    if outside.any():
        # Some writers count the centre from the first sample that is kept, others leave it at 0.
        from_kept = columns // 2 - np.where(reverse, count - 1 - lines["center_sample"], lines["center_sample"])
        fits = (from_kept >= 0) & (from_kept + count <= columns)
        middle = columns // 2 - count // 2
        if (fits | ~outside).all():
            start = np.where(outside, from_kept, start)
        elif (middle[outside] >= 0).all():
            warnings.append(
                f"center_sample of {outside.sum()} readouts puts samples outside of the {columns} columns: their "
                "middle is taken for the zero frequency"
            )
            start = np.where(outside, middle, start)
    low, high = np.maximum(start, 0), np.minimum(start + count, columns)
    cut = high - low < count
    if cut.any():
        warnings.append(f"{cut.sum()} readouts reach beyond the header's {columns} columns: what does is not used")
    return low, skipped + (low - start), high - low


def _steps(
    steps: NDArray[np.uint16], size: int, encoding: ReadoutEncoding, name: str, warnings: list[str]
) -> tuple[Integers, NDArray[np.bool_]]:
    """Index in k-space of each encoding step, and which lie outside of it."""
    limit = encoding.limits.get(name)
    counted = steps.astype(np.int64)
    index = counted - (size // 2 if limit is None else limit.center) + size // 2
    outside = (index < 0) | (index >= size)
    if limit is not None and limit.center != size // 2 and outside.any() and int(counted.max()) < size:
        warnings.append(
            f"the header's centre {limit.center} of {name} puts {outside.sum()} readouts outside of its matrix of "
            f"{size}: {size // 2} is taken"
        )
        return counted, np.zeros(len(counted), bool)
    return index, outside


def without_oversampling(samples: Complex, kept: int) -> Complex:
    """Samples (..., columns) of the middle `kept` pixels of the image that they make, (..., kept)."""
    columns = samples.shape[-1]
    if columns == kept:
        return samples
    image = np.fft.ifft(np.fft.ifftshift(samples, axes=-1), axis=-1, norm="ortho")
    first = columns // 2 - kept // 2
    middle = np.fft.fftshift(image, axes=-1)[..., first : first + kept]
    result: Complex = np.fft.fftshift(
        np.fft.fft(np.fft.ifftshift(middle, axes=-1), axis=-1, norm="ortho"), axes=-1
    ).astype(np.complex64, copy=False)
    return result
