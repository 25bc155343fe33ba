"""View of an array with its axes in another order, some of them counted through as slices."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from udig_recon.core.formats.containers.arrays import Array, ArraySource, EntryArray, Region, View

_KEPT_BYTES = 256 << 20


class Arranged(EntryArray, View):
    """An array as (slices, ...): its `outer` axes are counted through as slices, its `inner` ones follow.

    An outer axis is its length and the source's axis, or None where the source has none and is the same all along it.
    An inner axis is the source's axis, or None for one of length 1. All other axes of the source have length 1.
    """

    def __init__(
        self, source: ArraySource, outer: Sequence[tuple[int, int | None]], inner: Sequence[int | None]
    ) -> None:
        self._source = source
        self._lengths = [length for length, _ in outer]
        self._outer = [axis for _, axis in outer]
        self._kept = [axis for axis in inner if axis is not None]
        self._entries: dict[int, Array] = {}
        sides = tuple(1 if axis is None else source.shape[axis] for axis in inner)
        super().__init__(source.name, (math.prod(self._lengths), *sides), source.dtype, source.stored_bytes)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            result[place] = self._entry(index).reshape(self.shape[1:])
        return result

    def _places(self, index: int) -> dict[int, int]:
        """Where an entry lies along the source's outer axes."""
        counters = np.unravel_index(index, self._lengths) if self._lengths else ()
        return {axis: int(at) for axis, at in zip(self._outer, counters, strict=True) if axis is not None}

    def _entry(self, index: int) -> Array:
        places = self._places(index)
        sides = self._source.shape
        # A single axis in front is read as it is: what lies in one chunk of the file is then unpacked once.
        in_front = len(places) > 1 and sorted(places) == list(range(len(places)))
        if in_front and (found := self._source.select(places)) is not None:
            whole = found.reshape([1 if axis in places else side for axis, side in enumerate(sides)])
            return self._inner_axes(whole, dict.fromkeys(places, 0))
        if 0 in places:
            return self._inner_axes(self._first(places[0])[None], {**places, 0: 0})
        if index not in self._entries:
            self._entries = self._gather(index)
        return self._entries[index]

    def _first(self, at: int) -> Array:
        """An entry of the source's first axis; the last one is kept, as several slices may lie in it."""
        if at not in self._entries:
            entry: Array = self._source.read([at])[0]
            self._entries = {at: entry} if entry.nbytes <= _KEPT_BYTES else {}
            return entry
        return self._entries[at]

    def _inner_axes(self, block: Array, places: dict[int, int]) -> Array:
        """The inner axes of a block of the source, in our order, at these places of its other axes."""
        chosen = block[tuple(slice(None) if axis in self._kept else places.get(axis, 0) for axis in range(block.ndim))]
        ordered: Array = chosen.transpose([sorted(self._kept).index(axis) for axis in self._kept])
        return ordered

    def _gather(self, first: int) -> dict[int, Array]:
        """As many entries from `first` on as may be kept, in one pass over the source."""
        sides = [self._source.shape[axis] for axis in self._kept]
        count = max(1, _KEPT_BYTES // max(1, math.prod(sides) * self.dtype.itemsize))
        wanted = range(first, min(self.shape[0], first + count))
        entries = {index: np.empty(sides, self.dtype) for index in wanted}
        for region, block in self._source.blocks():
            cuts = tuple(region[axis] for axis in self._kept)
            for index, entry in entries.items():
                places = self._places(index)
                if all(region[axis].start <= at < region[axis].stop for axis, at in places.items()):
                    within = {axis: at - region[axis].start for axis, at in places.items()}
                    entry[cuts] = self._inner_axes(block, within)
        return entries


class Interleaved(EntryArray, View):
    """Complex numbers whose real and imaginary parts alternate along the last axis: that of (..., 2 n) has n."""

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        double = source.dtype.itemsize > np.dtype(np.float32).itemsize
        dtype = np.dtype(np.complex128 if double else np.complex64)
        super().__init__(source.name, (*source.shape[:-1], source.shape[-1] // 2), dtype, source.stored_bytes)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        parts = self._source.read(indices)
        values = np.empty((*parts.shape[:-1], parts.shape[-1] // 2), self.dtype)
        values.real, values.imag = parts[..., ::2], parts[..., 1::2]
        return values


class Transformed(EntryArray, View):
    """k-space (slices, coils, ky, kx) whose zero frequency is moved from the corner, and its image by half its sides.

    To move an image is to multiply k-space by a ramp of phases: by 1 and -1 in turn for half of an even side.
    """

    def __init__(self, source: ArraySource, *, from_corner: bool, move_image: bool) -> None:
        self._source, self._from_corner, self._move_image = source, from_corner, move_image
        super().__init__(source.name, source.shape, source.dtype, source.stored_bytes)

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        kspace = self._source.read(indices)
        if self._from_corner:
            kspace = np.fft.fftshift(kspace, (-2, -1))
        return move_by_half(kspace) if self._move_image else kspace


def move_by_half(kspace: Array) -> Array:
    """k-space (..., ky, kx) of the image that is moved by half its sides, as fftshift moves it."""
    for axis in (-2, -1):
        side = kspace.shape[axis]
        ramp = np.exp(-2j * np.pi * (side // 2) * (np.arange(side) - side // 2) / side).astype(kspace.dtype)
        kspace = kspace * (ramp[:, None] if axis == -2 else ramp)
    return kspace


class Stacked(ArraySource):
    """Arrays of one shape and type as one, stacked along their first axis."""

    def __init__(self, sources: Sequence[ArraySource]) -> None:
        self._sources = sources
        first = sources[0]
        stored = sum(source.stored_bytes for source in sources)
        super().__init__(first.name, (len(sources) * first.shape[0], *first.shape[1:]), first.dtype, stored)

    def check_stored(self) -> None:
        """Refuse what one of them refuses."""
        for source in self._sources:
            source.check_stored()

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The blocks of one after the other."""
        for number, source in enumerate(self._sources):
            offset = number * source.shape[0]
            for region, block in source.blocks():
                yield (slice(region[0].start + offset, region[0].stop + offset), *region[1:]), block

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            number, at = divmod(index, self._sources[0].shape[0])
            result[place] = self._sources[number].read([at])[0]
        return result
