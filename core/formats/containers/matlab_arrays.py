"""MATLAB's version 5 files: their variables and structs, whose arrays are read piece by piece.

Layout: "MAT-File Format" of The MathWorks. Only tags are read when a file is opened, so that what a file declares is
known before any of it is in memory. Axes are given as MATLAB 7.3 shows them to HDF5: reversed, which is C order.
"""

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, NamedTuple, TypeAlias

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import BLOCK_BYTES, Array, ArraySource, Region, regions
from udig_recon.core.formats.containers.inflate import ZLIB, Inflated
from udig_recon.core.formats.containers.scan_file import ScanFile

SIGNATURE = b"MATLAB 5.0"

_HEADER_BYTES, _VERSION_PLACE = 128, 124
_TAG_BYTES = 8
_MATRIX, _COMPRESSED = 14, 15
_INT8, _INT32, _UINT32 = 1, 5, 6
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CODECS = {1: "latin-1", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_STRUCT, _CHAR = 2, 4
_OTHERS = {
    1: "a cell array",
    3: "an object",
    5: "a sparse matrix",
    16: "a function handle",
    17: "an object of a class",
    18: "an object of a class",
}
_COMPLEX = 0x08
_MOST_VARIABLES = 256
_MOST_ELEMENTS = 10_000  # variables and fields of all structs
_MOST_AXES = 16
_MOST_FIELDS = 1024
_MOST_NAME_BYTES = 64 << 10
_MOST_TEXT_BYTES = 4096
_DEEPEST = 8


@dataclass(frozen=True)
class NoArray:
    """A value that is neither numbers, text nor a single struct."""

    kind: str  # "a cell array"


MatlabValue: TypeAlias = "ArraySource | str | NoArray | MatlabStruct"
MatlabStruct: TypeAlias = Mapping[str, MatlabValue]
"""The fields of a struct by their names: arrays, texts, structs, and values that are none of them."""


def read_variables(file: ScanFile) -> MatlabStruct:
    """The variables of a MATLAB 5 file by their names. Raises UnreadableScan, and what damaged bytes raise."""
    with file.stream() as stream:
        header = stream.read(_HEADER_BYTES)
    order = {b"IM": "<", b"MI": ">"}.get(header[_VERSION_PLACE + 2 :])
    if order is None or struct.unpack_from(f"{order}H", header, _VERSION_PLACE)[0] != 0x0100:
        raise UnreadableScan.at("file", "another header", "version 5 of MATLAB's files (save -v7 or -v7.3)")
    variables: dict[str, MatlabValue] = {}
    variables_seen, fields_seen = itertools.count(), itertools.count()
    for part in _parts(file, order):
        if next(variables_seen) >= _MOST_VARIABLES:
            raise UnreadableScan.at("file", f"more than {_MOST_VARIABLES} variables", "k-space or a sinogram")
        found = _Reader(part, order, fields_seen).element(part.start, part.end, 0)
        if found is not None and found.name:
            if found.name in variables:
                raise UnreadableScan.at("file", "two variables of one name", "variables of different names")
            variables[found.name] = found.value
    return variables


class _Part(NamedTuple):
    """One variable: a tag, and all that belongs to it, at a place of a stream."""

    stream: Callable[[], IO[bytes]]
    start: int
    end: int
    packed_bytes: int | None  # None: it is not packed


class _Element(NamedTuple):
    name: str
    value: MatlabValue


class _Tag(NamedTuple):
    kind: int
    start: int  # of its content
    size: int
    end: int  # where the next element begins


def _parts(file: ScanFile, order: str) -> Iterator[_Part]:
    """The variables, one after the other. Raises UnreadableScan where the file ends within one."""
    with file.stream() as stream:
        place = _HEADER_BYTES
        while place + _TAG_BYTES <= file.size:
            stream.seek(place)
            kind, size = struct.unpack(f"{order}II", stream.read(_TAG_BYTES))
            start, end = place + _TAG_BYTES, place + _TAG_BYTES + size
            if end > file.size:
                found = f"a variable of {size} bytes, of which {file.size - start} are there"
                raise UnreadableScan.at("file", found, "a whole file")
            if kind == _COMPRESSED:
                yield _unpacked(Inflated(file.stream, start, end, ZLIB), order, size)
            else:
                yield _Part(file.stream, place, end, None)
            place = end


def _unpacked(inflated: Inflated, order: str, packed_bytes: int) -> _Part:
    """A variable as long as its own tag says; it is unpacked only as far as it is read."""
    tag = inflated.piece(0)[:_TAG_BYTES]
    if len(tag) < _TAG_BYTES:
        raise EOFError("a variable without a tag")
    size = _TAG_BYTES + int(struct.unpack(f"{order}II", tag)[1])
    return _Part(lambda: inflated.stream(0, size), 0, size, packed_bytes)


class _Reader:
    """Reads the tags of one variable."""

    def __init__(self, part: _Part, order: str, count: Iterator[int]) -> None:
        self._part, self._order, self._count = part, order, count
        self._stream = part.stream()

    def element(self, place: int, end: int, depth: int) -> _Element | None:
        """The matrix at this place; None for what is no matrix."""
        if next(self._count) >= _MOST_ELEMENTS:
            raise UnreadableScan.at("file", f"more than {_MOST_ELEMENTS} variables and fields", "k-space or a sinogram")
        tag = self._tag(place, end)
        if tag.kind != _MATRIX:
            return None
        if tag.size == 0:
            return _Element("", NoArray("an empty value"))
        flags = self._tag(tag.start, tag.end)
        word = self._integers(flags, _UINT32, 2)[0]
        class_, is_complex = word & 0xFF, bool(word >> 8 & _COMPLEX)
        if class_ in (17, 18):  # their content has an order of its own
            return _Element("", NoArray(_OTHERS[class_]))
        sides = self._tag(flags.end, tag.end)
        if not 0 < sides.size <= 4 * _MOST_AXES:
            raise UnreadableScan.at("file", f"an array of {sides.size // 4} axes", f"1 to {_MOST_AXES} axes")
        shape = tuple(reversed(self._integers(sides, _INT32, sides.size // 4)))
        if min(shape) < 0:
            raise UnreadableScan.at("file", "an axis of negative length", "lengths of 0 or more")
        label = self._tag(sides.end, tag.end)
        name = self._bytes(label, _MOST_NAME_BYTES).decode("latin-1")
        if class_ in _CLASSES:
            return _Element(name, self._array(name, shape, class_, is_complex, label.end, tag.end))
        if class_ == _CHAR:
            return _Element(name, self._text(label.end, tag.end))
        if class_ == _STRUCT and math.prod(shape) == 1 and depth < _DEEPEST:
            return _Element(name, self._struct(label.end, tag.end, depth))
        kind = "an array of structs" if class_ == _STRUCT else _OTHERS.get(class_, "a value of an unknown class")
        return _Element(name, NoArray(kind))

    def _array(
        self, name: str, shape: tuple[int, ...], class_: int, is_complex: bool, place: int, end: int
    ) -> "MatlabArray":
        parts = [self._tag(place, end)]
        if is_complex:
            parts.append(self._tag(parts[0].end, end))
        count = math.prod(shape)
        stored = []
        for part in parts:
            if part.kind not in _NUMBERS:
                raise UnreadableScan.at("file", f"values of type {part.kind}", "numbers")
            number = np.dtype(self._order + _NUMBERS[part.kind])
            if part.size != count * number.itemsize:
                expected = f"{count * number.itemsize} bytes for {count} values of {number}"
                raise UnreadableScan.at(name or "file", f"{part.size} bytes of data", expected)
            stored.append(_Stored(part.start, number))
        dtype = np.dtype(_CLASSES[class_])
        if is_complex:
            dtype = np.dtype(np.complex128 if class_ != 7 else np.complex64)
        packed = self._part.packed_bytes
        stored_bytes = sum(part.size for part in parts)
        return MatlabArray(name, shape, dtype, self._part.stream, stored, stored_bytes if packed is None else packed)

    def _text(self, place: int, end: int) -> str:
        tag = self._tag(place, end)
        codec = _CODECS.get(tag.kind)
        if codec is None:
            raise UnreadableScan.at("file", f"a text of type {tag.kind}", "characters")
        if codec != "utf-8" and codec != "latin-1":
            codec += "-le" if self._order == "<" else "-be"
        return self._bytes(tag, _MOST_TEXT_BYTES, cut=True).decode(codec, "replace")

    def _struct(self, place: int, end: int, depth: int) -> MatlabStruct:
        length = self._tag(place, end)
        (size,) = self._integers(length, _INT32, 1)
        names = self._tag(length.end, end)
        if not 0 < size <= _MOST_NAME_BYTES or names.size % size or names.size // size > _MOST_FIELDS:
            raise UnreadableScan.at("file", f"{names.size} bytes of names of {size}", f"at most {_MOST_FIELDS} fields")
        text = self._bytes(names, _MOST_FIELDS * size)
        fields: dict[str, MatlabValue] = {}
        place = names.end
        for at in range(0, names.size, size):
            name = text[at : at + size].split(b"\0")[0].decode("latin-1")
            found = self.element(place, end, depth + 1)
            if found is None:
                raise UnreadableScan.at("file", "a field that is no array", "an array for each field of a struct")
            fields[name] = found.value
            place = self._tag(place, end).end
        return fields

    def _tag(self, place: int, end: int) -> _Tag:
        """The element at this place. Raises UnreadableScan where it does not end within what holds it."""
        word, size = struct.unpack(f"{self._order}II", self._read(place, _TAG_BYTES))
        start = place + _TAG_BYTES
        if small := word >> 16:  # up to four bytes stand in place of the size, which stands in the upper half
            tag = _Tag(word & 0xFFFF, place + 4, small, start)
        else:
            tag = _Tag(word, start, size, start + -(-size // 8) * 8)
        if small > 4 or tag.start + tag.size > end:
            raise UnreadableScan.at(
                "file", f"an element of {tag.size} bytes where {end - tag.start} are left", "a whole"
            )
        return tag

    def _integers(self, tag: _Tag, kind: int, count: int) -> tuple[int, ...]:
        if tag.kind not in (kind, _INT32, _UINT32) or tag.size != 4 * count:
            raise UnreadableScan.at("file", f"{tag.size} bytes of type {tag.kind}", f"{count} whole numbers")
        letter = "I" if tag.kind == _UINT32 else "i"
        return struct.unpack(f"{self._order}{count}{letter}", self._read(tag.start, tag.size))

    def _bytes(self, tag: _Tag, most: int, *, cut: bool = False) -> bytes:
        if tag.size > most and not cut:
            raise UnreadableScan.at("file", f"a name of {tag.size} bytes", f"at most {most} bytes")
        return self._read(tag.start, min(tag.size, most))

    def _read(self, place: int, size: int) -> bytes:
        self._stream.seek(place)
        content = self._stream.read(size)
        if len(content) != size:
            raise EOFError("a variable ends early")
        return content


class _Stored(NamedTuple):
    """Where real or imaginary parts lie in a variable, and as which numbers: MATLAB shortens small ones."""

    start: int
    dtype: np.dtype[np.generic]


class MatlabArray(ArraySource):
    """An array of a MATLAB 5 file, its axes reversed; real and imaginary parts lie one behind the other."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        stream: Callable[[], IO[bytes]],
        parts: Sequence[_Stored],
        stored_bytes: int,
    ) -> None:
        super().__init__(name, shape, dtype, stored_bytes)
        self._parts, self._stream = parts, stream

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The array in order, in blocks of a few MiB."""
        place = 0
        for region in regions(self.shape, self.dtype.itemsize):
            shape = tuple(cut.stop - cut.start for cut in region)
            count = math.prod(shape)
            yield region, self._take(place, count).reshape(shape)
            place += count

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        entry = self.shape[1:]
        count = math.prod(entry)
        result = np.empty((len(indices), *entry), self.dtype)
        for place, index in enumerate(indices):
            target = result[place].reshape(-1) if entry else result[place : place + 1]
            step = max(1, BLOCK_BYTES // self.dtype.itemsize)
            for start in range(0, count, step):
                stop = min(start + step, count)
                target[start:stop] = self._take(index * count + start, stop - start)
        return result

    @cached_property
    def _streams(self) -> list[IO[bytes]]:
        return [self._stream() for _ in self._parts]

    def _take(self, start: int, count: int) -> Array:
        """So many values from number `start` on."""
        result = np.empty(count, self.dtype)
        targets = (result,) if len(self._parts) == 1 else (result.real, result.imag)
        for target, part, stream in zip(targets, self._parts, self._streams, strict=True):
            stream.seek(part.start + start * part.dtype.itemsize)
            content = stream.read(count * part.dtype.itemsize)
            target[...] = np.frombuffer(content, part.dtype, count)
        return result
