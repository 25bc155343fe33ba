"""Reader of scans that are readouts: it sorts them, checks all their values, and reads frame after frame.

Which reader a measurement needs depends on its encoding: `reader_of` chooses.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader, slice_names
from udig_recon.core.coils.calibration import SMALLEST_CALIBRATION, calibration_size, full_centre
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region
from udig_recon.core.formats.input_format import ArrayReader, Contents
from udig_recon.core.formats.kspace.many_coils import (
    COMPRESS,
    MOST_COILS,
    check_compressible,
    compression_corrections,
    with_few_coils,
)
from udig_recon.core.formats.kspace.statistics import collect_statistics
from udig_recon.core.formats.limits import LEAST_SIDE, Limits
from udig_recon.core.formats.readouts.geometry import ImageGrid, image_grid, slice_geometry
from udig_recon.core.formats.readouts.noncartesian import NonCartesianReader
from udig_recon.core.formats.readouts.readouts import Readouts
from udig_recon.core.formats.readouts.report import check_content, content_warnings, corrections_of, refuse_bomb
from udig_recon.core.formats.readouts.selection import Selection, select
from udig_recon.core.formats.readouts.sorting import CartesianSorter, SortedFrame
from udig_recon.core.formats.readouts.volume import VolumeReader

_MUCH = 0.1  # share of the signal


def reader_of(readouts: Readouts) -> ArrayReader:
    """The reader of a measurement. Raises UnreadableScan and UnsupportedScan where there is none for it."""
    selection = select(readouts)
    if selection.encoding.trajectory != "cartesian":
        return NonCartesianReader(readouts, selection)
    if has_partitions(readouts, selection):
        return VolumeReader(readouts, selection)
    return CartesianReader(readouts, selection)


def has_partitions(readouts: Readouts, selection: Selection) -> bool:
    """Whether the image's readouts are phase encoded along a second axis."""
    steps = readouts.lines["kspace_encode_step_2"][selection.image]
    return bool((steps != steps[0]).any())


class CartesianReader:
    """Reads a 2-D Cartesian measurement: a slice of the scan is a frame."""

    USED: frozenset[str] = frozenset()

    def __init__(self, readouts: Readouts, selection: Selection) -> None:
        self.readouts, self._selection = readouts, selection

    @cached_property
    def _sorter(self) -> CartesianSorter:
        return CartesianSorter(self.readouts, self._selection)

    @cached_property
    def _image(self) -> ImageGrid:
        return image_grid(self._selection.encoding, self._sorter.grid)

    def slice_count(self, contents: Contents) -> int:  # noqa: ARG002
        """Number of frames."""
        return len(self._selection.frames)

    def check_limits(self, contents: Contents, limits: Limits) -> None:
        """Refuse a measurement of too many frames, coils or samples."""
        limits.check("data", "slices", self.slice_count(contents), limits.max_slices)
        lines = self.readouts.lines[self._selection.image]
        limits.check("data", "coils", self._sorter.coils, limits.max_coils, remedy=COMPRESS)
        limits.check("data", "samples of a readout", int(lines["samples"].max()), 4 * limits.max_matrix, LEAST_SIDE)
        x, y, _ = self._selection.encoding.encoded.matrix
        limits.check("xml", "samples along x", x, 4 * limits.max_matrix, LEAST_SIDE)
        limits.check("xml", "samples along y", y, limits.max_matrix, LEAST_SIDE)
        grid = self._sorter.grid
        limits.check("xml", "samples along x without oversampling", grid.kept, limits.max_matrix, LEAST_SIDE)
        for side in self._image.size:
            limits.check("xml", "pixels a side", side, limits.max_matrix, LEAST_SIDE)
        samples = self._sorter.coils * grid.rows * grid.kept
        check_compressible("data", self._sorter.coils, samples)
        refuse_bomb(8 * samples * len(self._selection.frames), lines)

    def probe(self, contents: Contents) -> ScanHeader:
        """Header of the measurement, after a check of all its values."""
        sorter, selection, image = self._sorter, self._selection, self._image
        frames = _SortedFrames(sorter)
        statistics = collect_statistics(frames, None)
        check_content(statistics, frames.union)
        geometry = slice_geometry(self.readouts.lines[selection.image], selection, image)
        warnings = [
            *selection.warnings,
            *sorter.placement.warnings,
            *sorter.whitening.warnings,
            *image.warnings,
            *geometry.warnings,
            *frames.warnings(),
            *self._removed(),
            *content_warnings(statistics, frames.union),
        ]
        corrections = [
            *selection.corrections,
            *sorter.whitening.corrections,
            *corrections_of(self.readouts.lines[selection.image], sorter.grid, frames.averages),
        ]
        if sorter.coils > 1:
            corrections += self._check_calibration(frames)
        corrections += compression_corrections(sorter.coils)
        rows, columns = frames.shape[2:]
        is_one_volume = len(selection.frames) == len(selection.slice_numbers)
        return ScanHeader(
            format=contents.format,
            modality=Modality.MRI,
            slices=len(selection.frames),
            coils=min(sorter.coils, MOST_COILS),
            matrix=image.size,
            kspace_matrix=(rows, columns),
            pixel_spacing_mm=image.spacing_mm or (1.0, 1.0),
            slice_spacing_mm=geometry.slice_spacing_mm,
            affine=geometry.affine,
            frames=() if is_one_volume else selection.frames,
            trajectory="cartesian",
            averages=frames.averages,
            prewhitened=sorter.whitening.matrix is not None,
            corrections=tuple(corrections),
            acceleration=round(len(selection.frames) * rows * columns / frames.measured, 4),
            warnings=tuple(warnings),
        )

    def read(self, contents: Contents, slices: Sequence[int]) -> MRIAcquisition:  # noqa: ARG002
        """Read the wanted frames."""
        sorter = self._sorter
        found = [sorter.frame(index) for index in slices]
        masks = np.stack([frame.mask for frame in found])
        mask: NDArray[np.bool_] = np.any(masks, axis=0)
        calibration = None
        if sorter.coils > 1:
            each = [sorter.calibration(index, frame.mask) for index, frame in zip(slices, found, strict=True)]
            calibration = _stack(each)
        scan = MRIAcquisition(
            kspace=np.stack([frame.kspace for frame in found]),
            mask=mask,
            masks=masks if (masks != masks[0]).any() else None,
            calibration=calibration,
            noise_covariance=None if sorter.whitening.matrix is None else np.eye(sorter.coils, dtype=np.complex64),
            recon_size=self._image.size,
            pixel_spacing_mm=self._image.spacing_mm or (1.0, 1.0),
        )
        return with_few_coils(scan)

    def _check_calibration(self, frames: "_SortedFrames") -> list[str]:
        """What coil maps are of, in words. Raises UnsupportedScan where a frame has nothing to make them of."""
        corrections = []
        for index, mask in frames.short_of_calibration:
            if self._sorter.calibration(index, mask) is None:
                calibration_size(mask)
            corrections.append("coil maps of frames without a calibration region are of all frames of their slice")
        return corrections[:1] if not len(self._selection.calibration) else []

    def _removed(self) -> list[str]:
        share = self._sorter.removed_share()
        if share < _MUCH:
            return []
        return [
            f"{share:.0%} of the signal lies in the columns that the header has removed as oversampling: an object "
            "larger than the field of view, or a header of another measurement"
        ]


class _SortedFrames(ArraySource):
    """k-space of all frames (frames, coils, ky, kx), sorted as it is read; it remembers where it was measured."""

    def __init__(self, sorter: CartesianSorter) -> None:
        self._sorter = sorter
        grid = sorter.grid
        shape = (len(sorter.selection.frames), sorter.coils, grid.rows, grid.kept)
        super().__init__("kspace", shape, np.dtype(np.complex64), 0)
        self.union = np.zeros(shape[2:], bool)
        self.measured = 0
        self.averages = 0
        self.short_of_calibration: list[tuple[int, NDArray[np.bool_]]] = []
        self._uneven = 0
        self._different = False
        self._empty: list[int] = []

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """Frame after frame."""
        for index in range(self.shape[0]):
            frame = self._sorter.frame(index)
            self._note(index, frame)
            whole = tuple(slice(0, side) for side in self.shape[1:])
            yield (slice(index, index + 1), *whole), frame.kspace[None]

    def read(self, indices: Sequence[int]) -> Array:
        """Frames, stacked (len(indices), coils, ky, kx)."""
        return np.stack([self._sorter.frame(index).kspace for index in indices])

    def warnings(self) -> list[str]:
        """Warnings about where k-space was measured, once all blocks were read."""
        warnings = []
        if self._empty:
            named = slice_names(self._empty[:20], self._sorter.selection.frames)
            warnings.append(f"without any signal: {', '.join(named)}")
        if self._uneven:
            warnings.append(
                f"in {self._uneven} frames some places were measured more often than others: their noise is lower there"
            )
        if self._different:
            warnings.append("frames are sampled at different places: each is reconstructed by its own")
        return warnings

    def _note(self, index: int, frame: SortedFrame) -> None:
        mask = frame.mask
        if not mask.any():
            self._empty.append(index)
            return
        self._different |= bool(self.union.any() and (self.union != mask).any())
        self.union |= mask
        self.measured += int(mask.sum())
        counts = frame.counts[mask]
        self.averages = max(self.averages, int(counts.max()))
        self._uneven += bool((counts != counts[0]).any())
        if min(full_centre(mask)) < SMALLEST_CALIBRATION:
            self.short_of_calibration.append((index, mask))


def _stack(calibrations: Sequence[NDArray[np.complex64] | None]) -> NDArray[np.complex64] | None:
    """The calibration samples of several frames, of the extent that all have; None where not all have any."""
    held = [each for each in calibrations if each is not None]
    if len(held) < len(calibrations):
        return None
    height, width = (min(each.shape[axis] for each in held) for axis in (1, 2))
    return np.stack([_middle(each, height, width) for each in held])


def _middle(samples: NDArray[np.complex64], height: int, width: int) -> NDArray[np.complex64]:
    rows, columns = (
        slice(have // 2 - want // 2, have // 2 - want // 2 + want)
        for have, want in zip(samples.shape[1:], (height, width), strict=True)
    )
    return samples[:, rows, columns]
