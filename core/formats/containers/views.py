"""Views of arrays in files: cropped to the centre, joined to complex numbers, with axes swapped or dropped."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region, View

BAND_BYTES = 512 << 20
"""Memory for slices that lie across all projections, which are read together."""


class CentreCrop(View):
    """The centre (height, width) of the last two axes, from (n - m) // 2 on as fastMRI crops."""

    def __init__(self, source: ArraySource, size: tuple[int, int]) -> None:
        self._source = source
        starts = [(have - keep) // 2 for have, keep in zip(source.shape[-2:], size, strict=True)]
        self._cuts = [slice(start, start + keep) for start, keep in zip(starts, size, strict=True)]
        super().__init__(source.name, (*source.shape[:-2], *size), source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The parts of the source's blocks that lie in the centre."""
        for region, block in self._source.blocks():
            targets, parts = [], []
            for have, keep in zip(region[-2:], self._cuts, strict=True):
                start, stop = max(have.start, keep.start), min(have.stop, keep.stop)
                targets.append(slice(start - keep.start, stop - keep.start))
                parts.append(slice(start - have.start, stop - have.start))
            if all(part.start < part.stop for part in parts):
                yield (*region[:-2], *targets), block[..., parts[0], parts[1]]

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        return self._source.read(indices)[..., self._cuts[0], self._cuts[1]]


class JoinedComplex(View):
    """Complex numbers whose real and imaginary parts lie on a last axis of length 2."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        dtype = np.dtype(np.complex128 if source.dtype.itemsize > np.dtype(np.float32).itemsize else np.complex64)
        super().__init__(source.name, source.shape[:-1], dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks as complex numbers."""
        real: Array | None = None
        for region, block in self._source.blocks():
            if block.shape[-1] == 2:
                yield region[:-1], self._complex(block[..., 0], block[..., 1])
            elif real is None:
                # The last axis is the innermost: the imaginary part of the same place comes next.
                real = block[..., 0]
            else:
                yield region[:-1], self._complex(real, block[..., 0])
                real = None

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        parts = self._source.read(indices)
        return self._complex(parts[..., 0], parts[..., 1])

    def select(self, places: Mapping[int, int]) -> Array | None:
        """The values at these places of some axes, without them."""
        parts = self._source.select(places)
        return None if parts is None else self._complex(parts[..., 0], parts[..., 1])

    def _complex(self, real: Array, imaginary: Array) -> Array:
        values = np.empty(real.shape, self.dtype)
        values.real, values.imag = real, imaginary
        return values


class RenamedArray(View):
    """An array under another name, which messages then say."""

    def __init__(self, source: ArraySource, name: str) -> None:
        self._source = source
        super().__init__(name, source.shape, source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks."""
        return self._source.blocks()

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        return self._source.read(indices)


class SwappedAxes(View):
    """An array with its last two axes swapped, as MATLAB stores an image."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        shape = (*source.shape[:-2], source.shape[-1], source.shape[-2])
        super().__init__(source.name, shape, source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks with their last two axes swapped."""
        for region, block in self._source.blocks():
            yield (*region[:-2], region[-1], region[-2]), block.swapaxes(-1, -2)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        if len(self.shape) > 2:
            return self._source.read(indices).swapaxes(-1, -2)
        return self.whole()[list(indices)]

    def select(self, places: Mapping[int, int]) -> Array | None:
        """The values at these places of some axes but the last two, without them; None of other axes."""
        if max(places, default=0) >= len(self.shape) - 2:
            return None
        found = self._source.select(places)
        return None if found is None else found.swapaxes(-1, -2)


class DroppedAxis(View):
    """An array without one of its axes, whose length is 1."""

    def __init__(self, source: ArraySource, axis: int) -> None:
        self._source, self._axis = source, axis
        super().__init__(
            source.name, (*source.shape[:axis], *source.shape[axis + 1 :]), source.dtype, source.stored_bytes
        )

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks without the axis."""
        for region, block in self._source.blocks():
            yield (*region[: self._axis], *region[self._axis + 1 :]), block.squeeze(self._axis)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        if self._axis > 0:
            return self._source.read(indices).squeeze(self._axis)
        entries: Array = self._source.read([0])[0][list(indices)]
        return entries


class ChosenEntries(View):
    """Some entries of an array's first axis, in their order, such as the flat fields among a scan's frames."""

    def __init__(self, source: ArraySource, indices: NDArray[np.intp]) -> None:
        self._source, self._indices = source, np.unique(indices)
        shape = (len(self._indices), *source.shape[1:])
        super().__init__(source.name, shape, source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The blocks of the chosen entries alone, those that lie next to each other together."""
        yield from self.part(tuple(slice(0, side) for side in self.shape))

    @property
    def chunk(self) -> tuple[int, ...]:
        """Sides of the source's pieces."""
        return self._source.chunk

    def part(self, cuts: Region) -> Iterator[tuple[Region, Array]]:
        """The part of the chosen entries within `cuts`, in blocks."""
        wanted = self._indices[cuts[0]]
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1) if wanted.size else []
        done = cuts[0].start
        for run in runs:
            first = int(run[0])
            for region, block in self._source.part((slice(first, int(run[-1]) + 1), *cuts[1:])):
                at = done + region[0].start - first
                yield (slice(at, at + len(block)), *region[1:]), block
            done += len(run)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        return self._source.read([int(self._indices[index]) for index in indices])


class SlicesOfProjections(View):
    """Sinograms (slices, views, detectors) of projections (views, slices, detectors), as a detector with rows has them.

    A slice lies across all projections. So as many as BAND_BYTES hold are read together, in one pass over their rows,
    and kept for the next reading.
    """

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._band: tuple[int, Array] | None = None  # the first slice, and the latest ones that were read
        views, slices, detectors = source.shape
        super().__init__(source.name, (slices, views, detectors), source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks with their first two axes swapped."""
        for region, block in self._source.blocks():
            yield (region[1], region[0], region[2]), block.swapaxes(0, 1)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            if self._band is None or not 0 <= index - self._band[0] < len(self._band[1]):
                self._band = None  # its memory goes before that of the next one comes
                self._band = self._read_band(index)
            result[place] = self._band[1][index - self._band[0]]
        return result

    def _read_band(self, index: int) -> tuple[int, Array]:
        """The slices from `index` on that fit into memory, from the first of its rows of chunks."""
        slices, views, detectors = self.shape
        rows = self._source.chunk[1]
        most = max(1, BAND_BYTES // max(1, views * detectors * self.dtype.itemsize))
        start = index // rows * rows if most >= rows else index
        stop = min(slices, start + (most // rows * rows if most >= rows else most))
        band = np.empty((stop - start, views, detectors), self.dtype)
        for region, block in self._source.part((slice(0, views), slice(start, stop), slice(0, detectors))):
            band[region[1].start - start : region[1].stop - start, region[0], region[2]] = block.swapaxes(0, 1)
        return start, band
