"""numpy's .npy and .npz without pickles, streamed."""

import ast
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from struct import Struct
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import (
    ARRAYS,
    ATTRIBUTES,
    BLOCK_BYTES,
    EITHER,
    NAMES,
    Array,
    ArraySource,
    Contents,
    Region,
    attribute,
    regions,
)
from udig_recon.core.formats.containers.source import ScanFile
from udig_recon.core.formats.kspace.synonyms import spelt
from udig_recon.core.formats.limits import of_kind

SIGNATURE = b"\x93NUMPY"
ZIP_SIGNATURE = b"PK\x03\x04"

_UNNAMED = "arr_0"  # what numpy.savez calls an array that was given without a name
_MOST_MEMBERS = 64
_MOST_WHOLE_BYTES = 256 << 20
_MOST_ATTRIBUTE_BYTES = 4096
_MOST_HEADER_BYTES = 10_000
_LENGTHS = {b"\1\0": Struct("<H"), b"\2\0": Struct("<I"), b"\3\0": Struct("<I")}  # by version


class NpyArray(ArraySource):
    """An array in .npy form inside a file that can be opened again and again."""

    def __init__(self, name: str, stream: Callable[[], IO[bytes]], size_bytes: int, stored_bytes: int) -> None:
        self._stream = stream
        with stream() as file:
            shape, self._fortran, dtype = _header(name, file)
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


@contextmanager
def opened_npy(file: ScanFile) -> Iterator[Contents]:
    """The array of an .npy file, which is k-space."""
    yield Contents("npy", {"kspace": NpyArray("kspace", file.stream, file.size, file.size)}, {})


@contextmanager
def opened_npz(file: ScanFile) -> Iterator[Contents]:
    """The arrays of an .npz file; 0-d ones are attributes."""
    with zipfile.ZipFile(file.stream()) as archive:
        members, others, renamed = _members(archive)
        sources = {name: _source(archive, name, member, file.size) for name, member in members.items()}
        single = {name for name, source in sources.items() if name in EITHER and math.prod(source.shape) == 1}
        arrays = {name: source for name, source in sources.items() if name in (*ARRAYS, *EITHER) and name not in single}
        attributes = {name: _attribute(source) for name, source in sources.items() if name in (*ATTRIBUTES, *single)}
        yield Contents("npz", arrays, attributes, others=tuple(others), renamed=tuple(renamed))


def _members(
    archive: zipfile.ZipFile,
) -> tuple[dict[str, zipfile.ZipInfo], list[str], list[tuple[str, str]]]:
    """Members by the names that scans use, the names of all others, and which have another name in the file."""
    listed = archive.infolist()
    if len(listed) > _MOST_MEMBERS:
        raise UnreadableScan.at("file", f"{len(listed)} members", f"at most {_MOST_MEMBERS} members")
    members: dict[str, zipfile.ZipInfo] = {}
    others = []
    names = spelt((member.filename.removesuffix(".npy") for member in listed), ARRAYS)
    ours = {theirs: name for name, theirs in names.items()}
    for member in listed:
        theirs = member.filename.removesuffix(".npy")
        name = "kspace" if theirs == _UNNAMED and len(listed) == 1 else ours.get(theirs, theirs)
        if name not in NAMES:
            others.append(name)
            continue
        if name in members:
            raise UnreadableScan.at(name, "two members of this name", "one")
        if member.flag_bits & 1:
            raise UnreadableScan.at(name, "an encrypted member", "a plain one")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableScan.at(
                name, f"zip compression {member.compress_type}", "numpy.savez or numpy.savez_compressed"
            )
        members[name] = member
    return members, others, [(theirs, name) for name, theirs in names.items() if name != theirs]


def _source(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo, archive_bytes: int) -> NpyArray:
    return NpyArray(name, lambda: archive.open(member), member.file_size, min(member.compress_size, archive_bytes))


def _attribute(source: NpyArray) -> float | str:
    if source.nbytes > _MOST_ATTRIBUTE_BYTES:
        raise UnreadableScan.at(source.name, f"{source.nbytes} bytes", "one number or one text")
    return attribute(source.name, source.whole())


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype; numpy's own reader mends old headers with warnings, this one refuses them."""
    start = file.read(len(SIGNATURE) + 2)
    length_of = _LENGTHS.get(start[len(SIGNATURE) :])
    if not start.startswith(SIGNATURE) or length_of is None:
        raise UnreadableScan.at(name, "bytes that are no .npy array", "an array as numpy.save writes it")
    (length,) = length_of.unpack(file.read(length_of.size))
    if length > _MOST_HEADER_BYTES:
        raise UnreadableScan.at(name, f"a header of {length} bytes", f"at most {_MOST_HEADER_BYTES} bytes")
    match ast.literal_eval(file.read(length).decode("utf-8")):
        case {"descr": descr, "fortran_order": bool(fortran), "shape": tuple(shape)}:
            dtype = npy_format.descr_to_dtype(descr)
        case _:
            raise UnreadableScan.at(name, "another header", "descr, fortran_order and shape")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise UnreadableScan.at(name, "a shape of something else", "whole numbers")
    if dtype.hasobject:
        raise UnreadableScan.at(name, "a pickled array of objects", "an array of numbers")
    if dtype.kind not in "biufcSU":
        raise UnreadableScan.at(name, f"an array of {of_kind(dtype)}", "an array of numbers")
    return shape, fortran, dtype
