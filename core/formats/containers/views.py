"""Views of arrays in files: cropped to the centre, joined to complex numbers, with axes swapped or dropped."""

from collections.abc import Iterator, Sequence

import numpy as np

from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region


class CentreCrop(ArraySource):
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


class JoinedComplex(ArraySource):
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

    def _complex(self, real: Array, imaginary: Array) -> Array:
        values = np.empty(real.shape, self.dtype)
        values.real, values.imag = real, imaginary
        return values


class RenamedArray(ArraySource):
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


class SwappedAxes(ArraySource):
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


class DroppedAxis(ArraySource):
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
