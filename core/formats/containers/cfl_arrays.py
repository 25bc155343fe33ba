"""BART's arrays: a .cfl of complex64 in Fortran order, and a .hdr with up to 16 dimensions (BART's README, "doc/")."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import IO, NamedTuple

import numpy as np
from numpy import fft  # now: nothing can be imported once the sandbox is closed

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import BLOCK_BYTES, Array, ArraySource, Region, regions
from udig_recon.core.formats.containers.scan_file import ScanFile

HEADER_MARK = "# Dimensions"
DIMENSIONS = 16
READ, PHASE_1, PHASE_2, COIL, MAPS = range(5)
TE, TIME, TIME_2, SLICE, AVERAGE = 5, 10, 11, 13, 14
FRAME_DIMENSIONS = (SLICE, TIME_2, TIME, TE)
"""Dimensions that count images, the slowest first, as they lie in the file."""

_ITEM_BYTES = 8
_MOST_SIDE = 1 << 31
_SLAB_BYTES = 512 << 20


class Cfl(NamedTuple):
    """One array: its values, and its 16 dimensions."""

    file: ScanFile
    dimensions: tuple[int, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """How many of each of FRAME_DIMENSIONS there are."""
        return tuple(self.dimensions[each] for each in FRAME_DIMENSIONS)


def parse_header(name: str, text: str) -> tuple[int, ...]:
    """The 16 dimensions that a .hdr tells. Raises UnreadableScan."""
    lines = [line.strip() for line in text.splitlines()]
    expected = f"{HEADER_MARK}, and in the next line up to {DIMENSIONS} whole numbers from 1 on"
    if HEADER_MARK not in lines[:-1]:
        raise UnreadableScan.at(name, "a .hdr without dimensions", expected)
    words = lines[lines.index(HEADER_MARK) + 1].split()
    if not words or (len(words) > DIMENSIONS and any(word != "1" for word in words[DIMENSIONS:])):
        raise UnreadableScan.at(name, f"{len(words)} dimensions", expected)
    if not all(word.isascii() and word.isdecimal() and 0 < int(word[:12]) < _MOST_SIDE for word in words):
        raise UnreadableScan.at(name, "dimensions that are no whole numbers from 1 on", expected)
    sides = [*map(int, words[:DIMENSIONS]), *(DIMENSIONS - len(words)) * [1]]
    return tuple(sides)


def cfl_bytes(dimensions: Sequence[int]) -> int:
    """Bytes of the values."""
    return math.prod(dimensions) * _ITEM_BYTES


class CflArray(ArraySource):
    """Images (frames, coils, rows, columns): k-space, or maps that are the same for frames that they do not count.

    Of several sets of maps the first is taken; averages are averaged.
    """

    def __init__(self, name: str, array: Cfl, frames: tuple[int, ...], stored_bytes: int) -> None:
        self._array, self._frames = array, frames
        sides = array.dimensions
        shape = (math.prod(frames), sides[COIL], *(sides[each] for each in plane(sides)))
        super().__init__(name, shape, np.dtype("<c8"), stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The images in order, in blocks of a few MiB."""
        for frame in range(self.shape[0]):
            place = 0
            for region in regions(self.shape[1:], _ITEM_BYTES):
                shape = tuple(cut.stop - cut.start for cut in region)
                values = self._take(frame, place, math.prod(shape)).reshape(1, *shape)
                place += math.prod(shape)
                yield (slice(frame, frame + 1), *region), values

    def read(self, indices: Sequence[int]) -> Array:
        """Images of these frames, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        count, step = math.prod(self.shape[1:]), BLOCK_BYTES // _ITEM_BYTES
        for place, index in enumerate(indices):
            target = result[place].reshape(-1)
            for start in range(0, count, step):
                stop = min(start + step, count)
                target[start:stop] = self._take(index, start, stop - start)
        return result

    def _take(self, frame: int, start: int, count: int) -> Array:
        """So many values of an image from number `start` on, the mean of all averages."""
        averages = self._array.dimensions[AVERAGE]
        place = frame_place(self._array, self._frames, frame) + start
        stride = math.prod(self._array.dimensions[:AVERAGE])
        if averages == 1:
            return read_values(self._stream, place, count)
        total = np.zeros(count, np.complex128)
        for average in range(averages):
            total += read_values(self._stream, place + average * stride, count)
        return (total / averages).astype(self.dtype)

    @cached_property
    def _stream(self) -> IO[bytes]:
        return self._array.file.stream()


class CflVolume(ArraySource):
    """3-D arrays as stacks of slices along the readout: (frames x read, coils, phase 2, phase 1).

    k-space is transformed along the readout; maps are images already. Slices are made in slabs of a bounded size, each
    of which takes a pass over the file.
    """

    def __init__(self, name: str, array: Cfl, frames: tuple[int, ...], stored_bytes: int, *, transform: bool) -> None:
        sides = array.dimensions
        self._array, self._frames, self._transform = array, frames, transform
        self._sides = sides[READ], sides[PHASE_1], sides[PHASE_2], sides[COIL]
        self._slab: tuple[int, int, Array] | None = None  # frame, first slice, and the slices
        shape = (math.prod(frames) * sides[READ], sides[COIL], sides[PHASE_2], sides[PHASE_1])
        super().__init__(name, shape, np.dtype("<c8"), stored_bytes)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """Slice after slice, coil after coil."""
        whole = [slice(0, side) for side in self.shape[2:]]
        for index, coil in itertools.product(*map(range, self.shape[:2])):
            region = (slice(index, index + 1), slice(coil, coil + 1), *whole)
            yield region, self._slice(index)[None, coil : coil + 1]

    def read(self, indices: Sequence[int]) -> Array:
        """These slices, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place in np.argsort(indices, kind="stable"):
            result[place] = self._slice(indices[place])
        return result

    def _slice(self, index: int) -> Array:
        frame, at = divmod(index, self._sides[0])
        kept = self._slab
        if kept is None or kept[0] != frame or not kept[1] <= at < kept[1] + len(kept[2]):
            depth = max(1, _SLAB_BYTES // (math.prod(self.shape[1:]) * _ITEM_BYTES))
            first = at // depth * depth
            kept = self._slab = None
            kept = self._slab = frame, first, self._make_slab(frame, first, min(first + depth, self._sides[0]))
        result: Array = kept[2][at - kept[1]]
        return result

    def _make_slab(self, frame: int, first: int, stop: int) -> Array:
        """Slices first to stop of a frame, in one pass over its values."""
        read, phase_1, phase_2, coils = self._sides
        slab = np.empty((stop - first, coils, phase_2 * phase_1), self.dtype)
        place = frame_place(self._array, self._frames, frame)
        lines = max(1, BLOCK_BYTES // (read * _ITEM_BYTES))
        averages, stride = self._array.dimensions[AVERAGE], math.prod(self._array.dimensions[:AVERAGE])
        for coil in range(coils):
            for start in range(0, phase_1 * phase_2, lines):
                count = min(lines, phase_1 * phase_2 - start)
                at = place + (coil * phase_1 * phase_2 + start) * read
                block = np.zeros((count, read), self.dtype)
                for average in range(averages):
                    block += read_values(self._stream, at + average * stride, count * read).reshape(count, read)
                block /= np.float32(averages)
                if self._transform:
                    centred = fft.ifft(fft.ifftshift(block, 1), axis=1, norm="ortho")
                    block = fft.fftshift(centred, 1)
                slab[:, coil, start : start + count] = block[:, first:stop].T
        return slab.reshape(stop - first, coils, phase_2, phase_1)

    @cached_property
    def _stream(self) -> IO[bytes]:
        return self._array.file.stream()


def plane(dimensions: Sequence[int]) -> tuple[int, int]:
    """The dimensions of an image's rows and columns: two of readout and phase encodings, the faster one last."""
    if dimensions[PHASE_2] == 1:
        return PHASE_1, READ
    return (PHASE_2, PHASE_1) if dimensions[READ] == 1 else (PHASE_2, READ)


def frame_place(array: Cfl, frames: tuple[int, ...], index: int) -> int:
    """Where the values of a frame begin, by its number among `frames`; an array may count fewer than these."""
    place = 0
    numbers = np.unravel_index(index, frames)
    for dimension, number in zip(FRAME_DIMENSIONS, numbers, strict=True):
        if array.dimensions[dimension] > 1:
            place += int(number) * math.prod(array.dimensions[:dimension])
    return place


def read_values(stream: IO[bytes], place: int, count: int) -> Array:
    """So many values from number `place` on. Raises EOFError where the file ends before."""
    stream.seek(place * _ITEM_BYTES)
    content = stream.read(count * _ITEM_BYTES)
    if len(content) != count * _ITEM_BYTES:
        raise EOFError("the .cfl ends early")
    return np.frombuffer(content, "<c8")
