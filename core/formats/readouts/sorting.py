"""Sorts readouts of a Cartesian measurement to k-space: prewhitened, cut, turned, without oversampling, averaged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.coils.calibration import SMALLEST_CALIBRATION, centre, full_centre
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import PEAKS
from udig_recon.core.formats.readouts.noise import Prewhitening, prewhitening
from udig_recon.core.formats.readouts.placement import Grid, Placement, place, without_oversampling
from udig_recon.core.formats.readouts.readouts import COUNTERS, Flag, Readouts
from udig_recon.core.formats.readouts.selection import Selection

_FEW = 64  # readouts that tell how much of the signal is removed

Complex = NDArray[np.complex64]
Indices = NDArray[np.intp]


class PlacedBlock(NamedTuple):
    """Some readouts as they lie in k-space."""

    which: Indices  # (lines,), their places among the readouts that were asked for
    samples: Complex  # (lines, coils, columns), prewhitened, without oversampling, zeros where not measured


def placed_blocks(
    readouts: Readouts, indices: Indices, placement: Placement, whitening: Prewhitening, order: Indices | None = None
) -> Iterator[PlacedBlock]:
    """The readouts of these numbers as they lie in k-space, in blocks of a few MiB.

    `placement` is that of `indices`, of which those at the places `order` are wanted, or all. Readouts that lie outside
    of k-space, and those of nothing but zeros, which no receiver measures, are left out.
    """
    wanted = np.arange(len(indices)) if order is None else order
    wanted = wanted[placement.count[wanted] > 0]
    grid, done = placement.grid, 0
    for _, samples, _ in readouts.blocks(indices[wanted]):
        which = wanted[done : done + len(samples)]
        done += len(samples)
        _check_values(samples, indices[which])
        lines = np.zeros((len(samples), samples.shape[1], grid.columns), np.complex64)
        measured = np.zeros(len(samples), bool)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found in k-space
            white = whitening.apply(samples)
        for at, index in enumerate(which):
            start, skipped, count = placement.start[index], placement.skipped[index], placement.count[index]
            line = white[at, :, ::-1] if placement.reverse[index] else white[at]
            lines[at, :, start : start + count] = line[:, skipped : skipped + count]
            measured[at] = bool(lines[at].any())
        with np.errstate(over="ignore", invalid="ignore"):
            lines = without_oversampling(lines[measured], grid.kept)
        which = which[measured]
        if grid.kept != grid.columns:
            for at, index in enumerate(which):
                window = placement.window(index)
                lines[at, :, : window.start] = 0
                lines[at, :, window.stop :] = 0
        if len(which):
            yield PlacedBlock(which, lines)


def calibration_orders(readouts: Readouts, selection: Selection, index: int) -> Iterator[Indices]:
    """Calibration readouts of a frame's slice: of the frame's own counters, else of the first that were measured.

    Those alone that are no part of the image, then together with those that are a part of it too.
    """
    lines, frame = readouts.lines, selection.frames[index]
    alone = selection.calibration
    if not len(alone):
        return
    image = selection.image
    shared = image[(lines["flags"][image] & np.uint64(Flag.CALIBRATION_AND_IMAGE)) != 0]
    for chosen in (alone, np.union1d(alone, shared)):
        of_slice = chosen[lines["slice"][chosen] == selection.slice_numbers[frame.slice]]
        if not len(of_slice):
            continue
        counters = np.stack([lines[name][of_slice] for name in COUNTERS], axis=1)
        for wanted in ([getattr(frame, name) for name in COUNTERS], counters[np.lexsort(counters.T[::-1])[0]]):
            yield of_slice[(counters == wanted).all(axis=1)]


def _check_values(samples: Complex, numbers: Indices) -> None:
    """Raise UnreadableScan where readouts hold what is no measurement."""
    peaks = np.abs(samples.view(np.float32)).max(axis=(1, 2))
    wrong = ~(peaks <= PEAKS[1])
    if wrong.any():
        at = int(np.argmax(wrong))
        found = "NaN or infinity" if not np.isfinite(peaks[at]) else f"a magnitude of {peaks[at]:.3g}"
        raise UnreadableScan.at("data", f"{found} in readout {numbers[at]}", f"finite numbers, at most {PEAKS[1]:g}")


@dataclass(frozen=True)
class SortedFrame:
    """k-space of one frame."""

    kspace: Complex  # (coils, ky, kx), the mean where samples were measured several times
    counts: NDArray[np.uint32]  # (ky, kx), how often each sample was measured

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where samples were measured, (ky, kx)."""
        return self.counts > 0


class CartesianSorter:
    """Sorts the image's readouts of a 2-D measurement to k-space, frame by frame."""

    def __init__(self, readouts: Readouts, selection: Selection) -> None:
        self.readouts, self.selection = readouts, selection
        self.whitening = prewhitening(readouts, selection)
        self.placement = place(readouts, selection.encoding, selection.image)
        self._kept: dict[bytes, Complex | None] = {}  # calibration samples by the readouts that they are of

    @property
    def grid(self) -> Grid:
        """The k-space."""
        return self.placement.grid

    @property
    def coils(self) -> int:
        """Number of coils."""
        return int(self.readouts.lines["coils"][self.selection.image[0]])

    def frame(self, index: int) -> SortedFrame:
        """k-space of frame number `index`."""
        order = np.flatnonzero(self.selection.frame_of == index)
        return self._sort(self.selection.image, self.placement, order)

    def removed_share(self) -> float:
        """Share of the energy of readouts about the middle that lies in the columns removed as oversampling."""
        grid = self.grid
        if grid.kept == grid.columns:
            return 0.0
        near = np.flatnonzero((np.abs(self.placement.row - grid.rows // 2) <= 1) & (self.placement.count > 0))
        near = near[np.unique(np.linspace(0, len(near) - 1, min(len(near), _FEW)).astype(int))]
        whole = replace(self.placement, grid=replace(grid, kept=grid.columns))
        before = after = 0.0
        for _, lines in placed_blocks(self.readouts, self.selection.image, whole, self.whitening, near):
            before += float(np.square(np.abs(lines), dtype=np.float64).sum())
            after += float(np.square(np.abs(without_oversampling(lines, grid.kept)), dtype=np.float64).sum())
        return 1 - after / before if before > 0 else 0.0

    def calibration(self, index: int, mask: NDArray[np.bool_]) -> Complex | None:
        """Fully measured samples (coils, h, w) about the zero frequency for the coil maps of a frame with this mask.

        Of the readouts that were measured for calibration; where there are none, and the frame's own are too few, of
        all frames of its slice. None where the frame's own are to be taken.
        """
        for order in calibration_orders(self.readouts, self.selection, index):
            found = self._central(order)
            if found is not None:
                return found
        if min(full_centre(mask)) >= SMALLEST_CALIBRATION or len(self.selection.frames) == 1:
            return None
        frames = self.selection.frames
        same = [number for number, frame in enumerate(frames) if frame.slice == frames[index].slice]
        if len(same) == 1:
            return None
        return self._central(self.selection.image[np.isin(self.selection.frame_of, same)])

    def _central(self, indices: Indices) -> Complex | None:
        """The fully measured samples about the zero frequency of readouts; None where they are too few for maps."""
        key = indices.tobytes()
        if key not in self._kept:
            found = None
            if len(indices):
                sorted_ = self._sort(indices, place(self.readouts, self.selection.encoding, indices, self.grid))
                size = full_centre(sorted_.mask)
                rows, columns = (centre(side, width) for side, width in zip(sorted_.mask.shape, size, strict=True))
                if min(size) >= SMALLEST_CALIBRATION:
                    found = sorted_.kspace[:, rows, columns].copy()
            self._kept[key] = found
        return self._kept[key]

    def _sort(self, indices: Indices, placement: Placement, order: Indices | None = None) -> SortedFrame:
        """The mean k-space of the readouts at the places `order` of `indices`, or of all."""
        grid = placement.grid
        kspace = np.zeros((self.coils, grid.rows, grid.kept), np.complex64)
        counts = np.zeros((grid.rows, grid.kept), np.uint32)
        for which, samples in placed_blocks(self.readouts, indices, placement, self.whitening, order):
            for index, line in zip(which, samples, strict=True):
                row = placement.row[index]
                kspace[:, row] += line
                counts[row, placement.window(index)] += 1
        several = counts > 1
        if several.any():
            kspace /= np.maximum(counts, 1)
        return SortedFrame(kspace, counts)
