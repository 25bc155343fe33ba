"""numpy's .npy arrays, streamed, without pickles."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import BLOCK_BYTES, Array, ArraySource, Region, regions
from udig_recon.core.formats.limits import dtype_name

SIGNATURE = npy_format.MAGIC_PREFIX

_MOST_WHOLE_BYTES = 256 << 20
_MOST_HEADER_BYTES = 10_000
_PREFIX_BYTES = npy_format.MAGIC_LEN + 4  # signature, version, and the length of the header


class NpyArray(ArraySource):
    """An array in .npy form inside a file that can be opened again and again."""

    def __init__(self, name: str, stream: Callable[[], IO[bytes]], size_bytes: int, stored_bytes: int) -> None:
        self._stream = stream
        with stream() as file:
            shape, self._fortran, dtype = _read_header(name, file)
            self._offset = file.tell()
        super().__init__(name, shape, dtype, stored_bytes)
        if self._offset + self.nbytes != size_bytes:
            found = f"{size_bytes - self._offset} bytes of data"
            raise UnreadableScan.at(name, found, f"{self.nbytes} bytes for shape {shape} of {dtype}")
        if self._fortran and self.nbytes > _MOST_WHOLE_BYTES:
            raise UnreadableScan.at(name, "a large array in Fortran order", "C order (numpy.ascontiguousarray)")

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The array in order, in blocks of a few MiB."""
        cuts = regions(self.shape, self.dtype.itemsize)
        if self._fortran:
            whole = self._fortran_order
            yield from ((region, whole[region]) for region in cuts)
            return
        with self._stream() as file:
            file.seek(self._offset)
            for region in cuts:
                yield region, self._take(file, tuple(cut.stop - cut.start for cut in region))

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        if self._fortran:
            return self._fortran_order[list(indices)]
        entry = self.shape[1:]
        stride = math.prod(entry) * self.dtype.itemsize
        result = np.empty((len(indices), *entry), self.dtype)
        # In the file's order, and on from the last reading: to go back in a packed stream is to start again.
        for place in np.argsort(indices, kind="stable"):
            self._going.seek(self._offset + indices[place] * stride)
            self._fill(self._going, result[place : place + 1])
        return result

    def select(self, places: Mapping[int, int]) -> Array | None:
        """The values at these places of the first axes, without them; None of other axes."""
        if self._fortran or sorted(places) != list(range(len(places))):
            return None
        rest = self.shape[len(places) :]
        at = 0
        for axis in range(len(places)):
            at = at * self.shape[axis] + places[axis]
        result = np.empty(rest, self.dtype)
        self._going.seek(self._offset + at * math.prod(rest) * self.dtype.itemsize)
        self._fill(self._going, result)
        return result

    @cached_property
    def _going(self) -> IO[bytes]:
        return self._stream()

    @cached_property
    def _fortran_order(self) -> Array:
        with self._stream() as file:
            file.seek(self._offset)
            return self._take(file, self.shape[::-1]).transpose()

    def _take(self, file: IO[bytes], shape: tuple[int, ...]) -> Array:
        result = np.empty(shape, self.dtype)
        self._fill(file, result)
        return result

    def _fill(self, file: IO[bytes], result: Array) -> None:
        content = result.reshape(-1).view(np.uint8)
        # Piece by piece: a packed stream needs several times the memory of what is asked of it.
        for start in range(0, content.size, BLOCK_BYTES):
            piece = content[start : start + BLOCK_BYTES]
            taken = file.read(piece.size)
            if len(taken) != piece.size:
                raise EOFError(f"{self.name} ends early")
            piece[:] = np.frombuffer(taken, np.uint8)


def _read_header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype, by numpy's own reader. Leaves the file where the values begin."""
    # At most so many bytes: numpy would read a header of the length that the file declares before it looks at it.
    start = io.BytesIO(file.read(_PREFIX_BYTES + _MOST_HEADER_BYTES))
    try:
        version = npy_format.read_magic(start)
    except ValueError as error:
        raise UnreadableScan.at(name, "bytes that are no .npy array", "an array as numpy.save writes it") from error
    # Version 3 differs from 2 in names of fields beyond Latin, and an array of numbers has none.
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    if version not in ((1, 0), (2, 0), (3, 0)):
        found = f"version {version[0]}.{version[1]} of .npy"
        raise UnreadableScan.at(name, found, "version 1, 2 or 3, as numpy.save writes it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns of headers that it mends
            shape, fortran, dtype = read(start, max_header_size=_MOST_HEADER_BYTES)
    except (ValueError, UserWarning, TokenError) as error:
        expected = f"descr, fortran_order and shape in at most {_MOST_HEADER_BYTES} bytes, as numpy.save writes them"
        raise UnreadableScan.at(name, "another header", expected) from error
    if not all(type(side) is int and side >= 0 for side in shape):
        raise UnreadableScan.at(name, "a shape of something else", "whole numbers")
    if dtype.hasobject:
        raise UnreadableScan.at(name, "a pickled array of objects", "an array of numbers")
    if dtype.kind not in "biufcSU":
        raise UnreadableScan.at(name, f"an array of {dtype_name(dtype)}", "an array of numbers")
    file.seek(start.tell())
    return shape, fortran, dtype
