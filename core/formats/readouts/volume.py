"""Reader of 3-D Cartesian measurements with two axes of phase encoding: a stack of 2-D problems along the readout.

The inverse Fourier transform along the readout, which is always measured whole, leaves a 2-D k-space (ky, kz) for each
of its pixels; all have the same mask. Every slice needs every readout: they are sorted in pieces to the room that a
prepared scan reserves, or without such room in as many passes as memory asks for.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from udig_recon.core.acquisition import Frame, Modality, MRIAcquisition, ScanHeader, volume_labels
from udig_recon.core.coils.calibration import (
    LARGEST_CALIBRATION,
    SMALLEST_CALIBRATION,
    calibration_size,
    centre,
    full_centre,
)
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.many_coils import COMPRESS, MOST_COILS
from udig_recon.core.formats.kspace.statistics import collect_statistics
from udig_recon.core.formats.limits import LEAST_SIDE, Limits
from udig_recon.core.formats.prepared import ReservedArrays
from udig_recon.core.formats.readouts.geometry import VolumeGrid, volume_geometry, volume_grid
from udig_recon.core.formats.readouts.noise import Prewhitening, prewhitening
from udig_recon.core.formats.readouts.placement import Grid, Placement, place, sampled_grid
from udig_recon.core.formats.readouts.readouts import Readouts
from udig_recon.core.formats.readouts.report import check_content, content_warnings, corrections_of, refuse_bomb
from udig_recon.core.formats.readouts.selection import Selection
from udig_recon.core.formats.readouts.sorting import calibration_orders, placed_blocks

Complex = NDArray[np.complex64]
Indices = NDArray[np.intp]

_PIECE_BYTES = 512 << 20
"""Memory for what is sorted at a time, of the 3 GiB that the reader has."""


class VolumeSorter:
    """Sorts the readouts of a 3-D measurement to hybrid space: pixels along the readout, k-space along the others."""

    def __init__(self, readouts: Readouts, selection: Selection) -> None:
        self._readouts, self.selection = readouts, selection
        self.whitening = prewhitening(readouts, selection)
        warnings: list[str] = []
        # Cropped even where readouts are not whole: their pixels are the slices.
        grid = sampled_grid(selection.encoding, readouts.lines[selection.image], warnings)
        self.placement = place(readouts, selection.encoding, selection.image, grid)
        self.warnings = (*warnings, *self.placement.warnings)
        self.counts = np.zeros((len(selection.frames), self.grid.rows, self.grid.partitions), np.uint32)
        self._calibration: dict[int, Complex | None] = {}

    @property
    def grid(self) -> Grid:
        """The k-space; its `kept` columns are the slices of a volume."""
        return self.placement.grid

    @property
    def coils(self) -> int:
        """Number of coils."""
        return int(self._readouts.lines["coils"][self.selection.image[0]])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(slices of a volume, coils, ky, kz)."""
        return self.grid.kept, self.coils, self.grid.rows, self.grid.partitions

    def sort(self, volume: int, columns: slice, rows: slice) -> Complex:
        """Hybrid space (columns, coils, rows, kz) of a volume, the mean where it was measured several times."""
        order = np.flatnonzero(self.selection.frame_of == volume)
        order = order[(self.placement.row[order] >= rows.start) & (self.placement.row[order] < rows.stop)]
        whole = slice(0, self.grid.partitions)
        found, self.counts[volume, rows] = self._sort(self.selection.image, self.placement, order, columns, rows, whole)
        return found

    def calibration(self, volume: int) -> Complex | None:
        """Fully measured samples (columns, coils, h, w) about the zero frequency for the coil maps of a volume.

        Of the readouts that were measured for calibration; where there are none, and the volume's own are too few, of
        all volumes of its slab. None where the volume's own are to be taken. The volume was sorted before.
        """
        if volume not in self._calibration:
            self._calibration[volume] = self._find_calibration(volume)
        return self._calibration[volume]

    def _find_calibration(self, volume: int) -> Complex | None:
        selection, frame = self.selection, self.selection.frames[volume]
        for indices in calibration_orders(self._readouts, selection, volume):
            found = self._central(indices)
            if found is not None:
                return found
        same = [number for number, other in enumerate(selection.frames) if other.slice == frame.slice]
        if min(full_centre(self.counts[volume] > 0)) >= SMALLEST_CALIBRATION or len(same) == 1:
            return None
        return self._central(selection.image[np.isin(selection.frame_of, same)])

    def _central(self, indices: Indices) -> Complex | None:
        """The fully measured samples about the zero frequency of readouts; None where they are too few for maps."""
        if not len(indices):
            return None
        grid = self.grid
        placement = place(self._readouts, self.selection.encoding, indices, grid)
        rows, partitions = (centre(side, LARGEST_CALIBRATION) for side in (grid.rows, grid.partitions))
        row, partition = placement.row, placement.partition
        near = (row >= rows.start) & (row < rows.stop) & (partition >= partitions.start) & (partition < partitions.stop)
        if not near.any():
            return None
        found, counts = self._sort(indices, placement, np.flatnonzero(near), slice(0, grid.kept), rows, partitions)
        size = full_centre(counts > 0)
        if min(size) < SMALLEST_CALIBRATION:
            return None
        height, width = (centre(side, length) for side, length in zip(counts.shape, size, strict=True))
        return found[:, :, height, width].copy()

    def _sort(
        self, indices: Indices, placement: Placement, order: Indices, columns: slice, rows: slice, partitions: slice
    ) -> tuple[Complex, NDArray[np.uint32]]:
        """The mean hybrid space of the readouts at the places `order` of `indices`, and how often it was measured."""
        grid = placement.grid
        sides = (rows.stop - rows.start, partitions.stop - partitions.start)
        volume = np.zeros((columns.stop - columns.start, self.coils, *sides), np.complex64)
        counts = np.zeros(sides, np.uint32)
        order = order[np.lexsort((placement.partition[order], placement.row[order]))]
        first = grid.columns // 2 - grid.kept // 2 + columns.start
        whole = replace(placement, grid=replace(grid, kept=grid.columns))
        for which, samples in placed_blocks(self._readouts, indices, whole, Prewhitening(None), order):
            with np.errstate(invalid="ignore", over="ignore"):  # values are checked afterwards
                line = fft.ifft(np.fft.ifftshift(samples, axes=-1), axis=-1, norm="ortho")
                line = np.fft.fftshift(line, axes=-1)[..., first : first + len(volume)]
                pixels = self.whitening.apply(line.astype(np.complex64, copy=False))
            row, partition = placement.row[which] - rows.start, placement.partition[which] - partitions.start
            # Readouts of one place follow each other.
            starts = np.flatnonzero(np.diff(row * sides[1] + partition, prepend=-1))
            row, partition = row[starts], partition[starts]
            volume[:, :, row, partition] += np.add.reduceat(pixels, starts, axis=0).transpose(2, 1, 0)
            counts[row, partition] += np.diff(starts, append=len(which)).astype(np.uint32)
        if (counts > 1).any():
            volume /= np.maximum(counts, 1)
        return volume, counts


class VolumeReader:
    """Reads a 3-D Cartesian measurement: a slice of the scan is a pixel along the readout of a frame."""

    USED: frozenset[str] = frozenset()

    def __init__(self, readouts: Readouts, selection: Selection) -> None:
        self._readouts, self._selection = readouts, selection
        self._reserved: ReservedArrays | None = None
        self._piece: tuple[int, int, Complex] | None = None  # volume, its first slice, hybrid space of some slices

    @cached_property
    def _sorter(self) -> VolumeSorter:
        return VolumeSorter(self._readouts, self._selection)

    @cached_property
    def _image(self) -> VolumeGrid:
        return volume_grid(self._selection.encoding, self._sorter.grid)

    def slice_count(self, contents: Contents) -> int:  # noqa: ARG002
        """Pixels along the readout of all frames."""
        return len(self._selection.frames) * self._sorter.grid.kept

    def check_limits(self, contents: Contents, limits: Limits) -> None:
        """Refuse a measurement of too many frames, coils or samples, and one that declares far more than it holds."""
        grid, coils = self._sorter.grid, self._sorter.coils
        limits.check("data", "coils", coils, min(limits.max_coils, MOST_COILS), remedy=COMPRESS)
        lines = self._readouts.lines[self._selection.image]
        limits.check("data", "samples of a readout", int(lines["samples"].max()), 4 * limits.max_matrix, LEAST_SIDE)
        limits.check("xml", "samples along x", grid.columns, 4 * limits.max_matrix, LEAST_SIDE)
        limits.check("xml", "pixels along x", grid.kept, limits.max_matrix, LEAST_SIDE)
        limits.check("xml", "samples along y", grid.rows, limits.max_matrix, LEAST_SIDE)
        limits.check("xml", "samples along z", grid.partitions, limits.max_matrix, LEAST_SIDE)
        count = self.slice_count(contents)
        limits.check("data", f"slices ({len(self._selection.frames)} of {grid.kept})", count, limits.max_slices)
        for side in self._image.size:
            limits.check("xml", "pixels a side", side, limits.max_matrix, LEAST_SIDE)
        refuse_bomb(count * math.prod(self._sorter.shape[1:]) * np.dtype(np.complex64).itemsize, lines)

    def assemble(self, contents: Contents, reserved: ReservedArrays) -> None:
        """Sort all readouts once, some rows at a time, to the room of the slices' k-space."""
        columns, coils, rows, partitions = self._sorter.shape
        reserved.reserve("kspace", self.slice_count(contents), (1, *self._sorter.shape[1:]), np.dtype(np.complex64))
        step = max(1, _PIECE_BYTES // (columns * coils * partitions * np.dtype(np.complex64).itemsize))
        for volume in range(len(self._selection.frames)):
            for first in range(0, rows, step):
                last = min(first + step, rows)
                piece = self._sorter.sort(volume, slice(0, columns), slice(first, last))
                for column in range(columns) if piece.any() else ():
                    for coil in range(coils):
                        start = (coil * rows + first) * partitions
                        reserved.write(volume * columns + column, start, piece[column, coil])
        self._reserved = reserved

    def probe(self, contents: Contents) -> ScanHeader:
        """Header of the measurement, after a check of all its values."""
        sorter, selection, image = self._sorter, self._selection, self._image
        statistics = collect_statistics(_Slices(self), None)
        masks = sorter.counts > 0
        union: NDArray[np.bool_] = np.any(masks, axis=0)
        check_content(statistics, union)
        geometry = volume_geometry(self._readouts.lines[selection.image], selection, image)
        corrections = [
            *selection.corrections,
            *sorter.whitening.corrections,
            *corrections_of(self._readouts.lines[selection.image], sorter.grid, int(sorter.counts.max())),
            "the inverse Fourier transform along the readout made slices of a 3-D measurement; rows and columns of a "
            "slice are its two axes of phase encoding, y and z",
        ]
        if sorter.coils > 1:
            corrections += self._check_calibration(masks)
        columns = sorter.grid.kept
        measured = int(masks.sum())
        return ScanHeader(
            format=contents.format,
            modality=Modality.MRI,
            slices=self.slice_count(contents),
            coils=sorter.coils,
            matrix=image.size,
            kspace_matrix=(sorter.grid.rows, sorter.grid.partitions),
            pixel_spacing_mm=image.spacing_mm or (1.0, 1.0),
            slice_spacing_mm=image.slice_spacing_mm,
            affine=geometry.affine,
            frames=() if len(selection.frames) == 1 else self._frames(columns),
            trajectory="cartesian",
            averages=int(sorter.counts.max()),
            prewhitened=sorter.whitening.matrix is not None,
            corrections=tuple(corrections),
            acceleration=round(masks.size / max(measured, 1), 4),
            warnings=(
                *selection.warnings,
                *sorter.warnings,
                *sorter.whitening.warnings,
                *image.warnings,
                *geometry.warnings,
                *self._sampling_warnings(masks),
                *(warning.replace("kx", "kz") for warning in content_warnings(statistics, union)),
            ),
        )

    def read(self, contents: Contents, slices: Sequence[int]) -> MRIAcquisition:  # noqa: ARG002
        """Read the wanted slices."""
        sorter, columns = self._sorter, self._sorter.grid.kept
        kspace = np.concatenate([self.slice_of(index) for index in slices])
        volumes = [index // columns for index in slices]
        masks = np.stack([sorter.counts[volume] > 0 for volume in volumes])
        mask: NDArray[np.bool_] = np.any(masks, axis=0)
        calibration = None
        if sorter.coils > 1:
            held = [sorter.calibration(volume) for volume in volumes]
            of_slices = [each[index % columns] for index, each in zip(slices, held, strict=True) if each is not None]
            if len(of_slices) == len(slices) and len({each.shape for each in of_slices}) == 1:
                calibration = np.stack(of_slices)
        return MRIAcquisition(
            kspace=kspace,
            mask=mask,
            masks=masks if (masks != masks[0]).any() else None,
            calibration=calibration,
            noise_covariance=None if sorter.whitening.matrix is None else np.eye(sorter.coils, dtype=np.complex64),
            recon_size=self._image.size,
            pixel_spacing_mm=self._image.spacing_mm or (1.0, 1.0),
        )

    def slice_of(self, index: int) -> Complex:
        """k-space (1, coils, ky, kz) of a slice."""
        if self._reserved is not None:
            kspace: Complex = self._reserved.read(index)
            return kspace
        columns, coils, rows, partitions = self._sorter.shape
        volume, column = divmod(index, columns)
        held = self._piece
        if held is None or held[0] != volume or not held[1] <= column < held[1] + len(held[2]):
            step = max(1, _PIECE_BYTES // (coils * rows * partitions * np.dtype(np.complex64).itemsize))
            first = column // step * step
            self._piece = None  # its memory goes before the next takes as much
            cut = slice(first, min(first + step, columns))
            self._piece = held = volume, first, self._sorter.sort(volume, cut, slice(0, rows))
        cached: Complex = held[2][column - held[1]][None]
        return cached

    def _frames(self, columns: int) -> tuple[Frame, ...]:
        """Frame of each slice; the slices of a slab follow those of the slab before it."""
        return tuple(
            replace(frame, slice=frame.slice * columns + column)
            for frame in self._selection.frames
            for column in range(columns)
        )

    def _check_calibration(self, masks: NDArray[np.bool_]) -> list[str]:
        """What coil maps are of, in words. Raises UnsupportedScan where a volume has nothing to make them of."""
        shared = False
        for volume, mask in enumerate(masks):
            if min(full_centre(mask)) < SMALLEST_CALIBRATION:
                if self._sorter.calibration(volume) is None:
                    calibration_size(mask)
                shared = True
        if not shared or len(self._selection.calibration):
            return []
        return ["coil maps of frames without a calibration region are of all frames of their slice"]

    def _sampling_warnings(self, masks: NDArray[np.bool_]) -> list[str]:
        warnings = []
        counts = self._sorter.counts
        empty = np.flatnonzero(~masks.any(axis=(1, 2)))
        if empty.size:
            labels = volume_labels(self._selection.frames)
            named = "; ".join(f"volume {volume} ({labels[volume]})" for volume in empty[:20])
            warnings.append(f"without any signal: {named}")
        uneven = sum(len(np.unique(each[each > 0])) > 1 for each in counts)
        if uneven:
            warnings.append(
                f"in {uneven} volumes some places were measured more often than others: their noise is lower there"
            )
        filled = masks[masks.any(axis=(1, 2))]
        if len(filled) and (filled != filled[0]).any():
            warnings.append("frames are sampled at different places: each is reconstructed by its own")
        placement, grid = self._sorter.placement, self._sorter.grid
        if (placement.count[placement.count > 0] < grid.columns).any():
            warnings.append(
                "readouts do not reach equally far to both sides (asymmetric echo): the volume is blurred along the "
                "readout, from slice to slice"
            )
        return warnings


class _Slices(ArraySource):
    """k-space of all slices (slices, coils, ky, kz)."""

    def __init__(self, reader: VolumeReader) -> None:
        self._reader = reader
        columns, *rest = reader._sorter.shape
        count = columns * len(reader._selection.frames)
        super().__init__("kspace", (count, *rest), np.dtype(np.complex64), 0)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """Slice after slice."""
        whole = tuple(slice(0, side) for side in self.shape[1:])
        for index in range(self.shape[0]):
            yield (slice(index, index + 1), *whole), self._reader.slice_of(index)

    def read(self, indices: Sequence[int]) -> Array:
        """Slices, stacked (len(indices), coils, ky, kz)."""
        return np.concatenate([self._reader.slice_of(index) for index in indices])
