"""Arrays inside files, read piece by piece: memory stays small whatever a file declares."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import dtype_name

BLOCK_BYTES = 4 << 20
BOMB_BYTES = 64 << 20  # arrays below this are never bombs
BOMB_RATIO = 100  # masked k-space compresses 10:1 or so; more than 100:1 is no measurement

Array = NDArray[Any]
Region = tuple[slice, ...]


class ArraySource(ABC):
    """One array of a file; nothing of it is in memory until asked for."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], stored_bytes: int) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.native = dtype.newbyteorder("=")
        self.stored_bytes = stored_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The array in C order, in blocks of a few MiB, each with its region."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""

    def part(self, cuts: Region) -> Iterator[tuple[Region, Array]]:
        """The part of the array within `cuts` (one for each axis), in blocks, with their regions in the whole array."""
        for region, block in self.blocks():
            shared = tuple(
                slice(max(have.start, want.start), min(have.stop, want.stop))
                for have, want in zip(region, cuts, strict=True)
            )
            if all(cut.start < cut.stop for cut in shared):
                within = (slice(cut.start - r.start, cut.stop - r.start) for cut, r in zip(shared, region, strict=True))
                yield shared, block[tuple(within)]

    @property
    def chunk(self) -> tuple[int, ...]:
        """Sides of the pieces in which the array is packed; ones where it may be read anywhere."""
        return (1,) * len(self.shape)

    def select(self, places: Mapping[int, int]) -> Array | None:  # noqa: ARG002
        """The values at these places of some axes, without them; None where that costs as much as reading all."""
        return None

    def check_stored(self) -> None:
        """Refuse a decompression bomb: an array that declares far more bytes than are stored."""
        if self.nbytes > BOMB_BYTES and self.nbytes > BOMB_RATIO * self.stored_bytes:
            raise UnreadableScan.at(
                self.name,
                f"an array that declares {self.nbytes} bytes, of which {self.stored_bytes} are stored",
                f"at most {BOMB_RATIO} times what is stored",
            )

    def whole(self) -> Array:
        """The whole array in memory; for small ones."""
        result = np.empty(self.shape, self.dtype)
        for region, block in self.blocks():
            result[region] = block
        return result


class EntryArray(ArraySource):
    """An array that is read entry after entry of its first axis."""

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """Entry after entry."""
        rest = tuple(slice(0, side) for side in self.shape[1:])
        for index in range(self.shape[0]):
            yield (slice(index, index + 1), *rest), self.read([index])


class View(ArraySource):
    """An array that shows another one differently."""

    _source: ArraySource

    def check_stored(self) -> None:
        """Refuse what the array beneath refuses."""
        self._source.check_stored()


class AddedAxis(View):
    """An array with one more axis of length 1: a slice or coil axis that the file leaves out."""

    def __init__(self, source: ArraySource, axis: int) -> None:
        self._source, self._axis = source, axis
        shape = (*source.shape[:axis], 1, *source.shape[axis:])
        super().__init__(source.name, shape, source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks with the axis added."""
        at = self._axis
        for region, block in self._source.blocks():
            yield (*region[:at], slice(0, 1), *region[at:]), np.expand_dims(block, at)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        if self._axis == 0:
            return np.broadcast_to(self._source.whole(), (len(indices), *self._source.shape)).copy()
        return np.expand_dims(self._source.read(indices), self._axis)


class SqueezedAxes(View):
    """An array without its axes of length 1."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        self._kept = [axis for axis, side in enumerate(source.shape) if side != 1]
        shape = tuple(source.shape[axis] for axis in self._kept)
        super().__init__(source.name, shape, source.dtype, source.stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks without those axes."""
        for region, block in self._source.blocks():
            cuts = tuple(region[axis] for axis in self._kept)
            yield cuts, block.reshape([cut.stop - cut.start for cut in cuts])

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        if self._kept and self._kept[0] == 0:
            return self._source.read(indices).reshape(len(indices), *self.shape[1:])
        entries: Array = self.whole()[list(indices)]
        return entries


class InMemory(ArraySource):
    """A small array that is in memory, such as an attribute's value."""

    def __init__(self, name: str, values: Array) -> None:
        super().__init__(name, values.shape, values.dtype, values.nbytes)
        self._values = values

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """All of it."""
        yield tuple(slice(0, side) for side in self.shape), self._values

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        entries: Array = self._values[list(indices)]
        return entries


def regions(shape: tuple[int, ...], itemsize: int, chunk: tuple[int, ...] | None = None) -> Iterator[Region]:
    """Regions of about BLOCK_BYTES that cover an array in C order, each of whole chunks.

    A compressed chunk that lay in two regions would be decompressed twice.
    """
    sides = list(chunk or (1,) * len(shape))
    for axis in reversed(range(len(shape))):
        chunks_that_fit = max(1, BLOCK_BYTES // (math.prod(sides) * itemsize))
        sides[axis] = min(max(shape[axis], 1), sides[axis] * chunks_that_fit)
    starts = (range(0, length, side) for length, side in zip(shape, sides, strict=True))
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + side, length)) for start, side, length in zip(corner, sides, shape, strict=True)
        )


def parse_attribute(name: str, value: Array) -> float | str:
    """A scalar attribute as a number or a text. Raises UnreadableScan for anything else."""
    if value.size == 1:
        only = value.reshape(-1)[0]
        if value.dtype.kind in "biuf":
            return float(only)
        if isinstance(only, bytes):
            return only.decode("utf-8", "replace")
        if isinstance(only, str):
            return str(only)
    raise UnreadableScan.at(name, f"shape {value.shape} of {dtype_name(value.dtype)}", "one number or one text")
