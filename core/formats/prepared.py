"""Prepared scans: the arrays of a scan file in a plain format of our own, written once; see docs/prepared-scan.md.

    16 bytes    MAGIC, which holds the version of the layout
    arrays      little-endian, C order, each at a multiple of 64 bytes
    header      JSON: the source's SHA-256, the scan's header, its identity where the file tells one, and for each
                slice its fields: values, or arrays as [offset, dtype, shape, SHA-256]
    64 bytes    where the header lies (offset, length: two little-endian uint64), its SHA-256, and MAGIC again

Reading it needs no library and no trust: each offset is checked against the file, each byte against its digest.
"""

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from struct import Struct
from typing import IO, Any, NamedTuple

import numpy as np

from udig_recon.core.acquisition import Acquisition, ScanHeader, acquisition_type
from udig_recon.core.errors import DamagedScan, UnreadableScan
from udig_recon.core.files.atomic import DamagedFile, open_stored
from udig_recon.core.formats.containers.arrays import BLOCK_BYTES, Array
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.sandbox.messages import header_of
from udig_recon.core.identity import Identity

MAGIC = b"udig-prepared/1\n"
READING = 6
"""Version of the readers. It grows when they understand the same bytes differently; older prepared scans are remade."""

_ALIGNMENT = 64
FOOTER = Struct("<QQ32s16s")
_MOST_HEADER_BYTES = 64 << 20
_DTYPES = ("|b1", "|u1", "<i4", "<i8", "<f4", "<f8", "<c8", "<c16")


class NotWritten(Exception):
    """The system wrote no more of a prepared scan; the argument is its error number."""


class ReservedArrays:
    """Room in a prepared scan for an array of each slice that is written in pieces, in any order, before the rest.

    For scans whose slices come of all their data together, such as 3-D k-space, and are too large for memory. What is
    not written is zero.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._field = ""
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.uint8)
        self._stride = self._count = 0
        self.end = 0  # of the room

    def reserve(self, field: str, slices: int, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Make room for this field of all slices, an array of this shape for each. It can be done once."""
        self._field, self._count = field, slices
        self._shape, self._dtype = tuple(shape), dtype.newbyteorder("<")
        nbytes = math.prod(shape) * dtype.itemsize
        self._stride = nbytes + -nbytes % _ALIGNMENT
        self.end = _ALIGNMENT + slices * self._stride
        _write_at(self._descriptor, self.end - 1, b"\0")

    def write(self, index: int, start: int, values: Array) -> None:
        """Write values to slice number `index`, from its element number `start` in C order on. Raises NotWritten."""
        place = self._place(index) + start * self._dtype.itemsize
        content = np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data
        if place + len(content) > self._place(index) + self._stride:
            raise IndexError("values beyond the array")
        _write_at(self._descriptor, place, content)

    def read(self, index: int) -> Array:
        """The array of slice number `index`."""
        array = np.empty(self._shape, self._dtype)
        with ScanFile(self._descriptor).stream() as stream:
            stream.seek(self._place(index))
            if not _fill(stream, array):
                raise NotWritten(errno.EIO)
        return array

    def offset(self, index: int, field: str) -> int | None:
        """Where an array of this field lies already; None: nowhere."""
        return self._place(index) if field == self._field else None

    def _place(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return _ALIGNMENT + index * self._stride


def write_prepared(
    descriptor: int,
    header: dict[str, Any],
    source_sha256: str,
    read: Callable[[int], Acquisition],
    slices: int,
    reserved: ReservedArrays | None = None,
    identity: Identity | None = None,
) -> None:
    """Write slice after slice as `read` gives them, with memory for one.

    `header` is the scan's, as JSON. Arrays in the room that is `reserved` are there already. Raises NotWritten, and
    what `read` raises.
    """
    writer = _Writer(descriptor, reserved)
    written: list[dict[str, Any]] = []
    kind = ""
    for index in range(slices):
        acquisition = read(index)
        kind = type(acquisition).__name__
        written.append(
            {each.name: writer.value(index, each.name, getattr(acquisition, each.name)) for each in fields(acquisition)}
        )
    first = written[0]
    shared = {name: value for name, value in first.items() if all(each[name] == value for each in written)}
    content = {
        "source_sha256": source_sha256,
        "reading": READING,
        "scan": header,
        **({"identity": identity.to_json()} if identity else {}),
        "kind": kind,
        "shared": shared,
        "slices": [{name: value for name, value in each.items() if name not in shared} for each in written],
    }
    writer.finish(json.dumps(content, allow_nan=False).encode())


class _Writer:
    """Appends bytes to a file; of equal arrays the first one only."""

    def __init__(self, descriptor: int, reserved: ReservedArrays | None = None) -> None:
        self._descriptor, self._offset = descriptor, 0
        self._reserved = reserved
        self._offsets: dict[tuple[bytes, str, tuple[int, ...]], int] = {}
        os.lseek(descriptor, 0, os.SEEK_SET)
        self._write(MAGIC)
        if reserved is not None and reserved.end:
            self._offset = os.lseek(descriptor, reserved.end, os.SEEK_SET)

    def value(self, index: int, name: str, value: Any) -> Any:
        """A field of a slice's acquisition as the header has it; the bytes of an array are written."""
        if not isinstance(value, np.ndarray):
            return value
        array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        content = array.reshape(-1).view(np.uint8).data
        digest = hashlib.sha256(content)
        key = (digest.digest(), array.dtype.str, value.shape)
        if self._reserved is not None and (place := self._reserved.offset(index, name)) is not None:
            self._offsets.setdefault(key, place)
        if key not in self._offsets:
            self._write(bytes(-self._offset % _ALIGNMENT))
            self._offsets[key] = self._offset
            self._write(content)
        return {"array": [self._offsets[key], array.dtype.str, list(value.shape), digest.hexdigest()]}

    def finish(self, header: bytes) -> None:
        """Write the header, and the footer with its offset."""
        place = self._offset
        self._write(header)
        self._write(FOOTER.pack(place, len(header), hashlib.sha256(header).digest(), MAGIC))

    def _write(self, content: bytes | memoryview) -> None:
        self._offset += len(content)
        _write_all(self._descriptor, content)


def _write_at(descriptor: int, place: int, content: bytes | memoryview) -> None:
    os.lseek(descriptor, place, os.SEEK_SET)
    _write_all(descriptor, content)


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left[:BLOCK_BYTES]) :]
        except OSError as error:
            raise NotWritten(error.errno) from None


def _fill(stream: IO[bytes], array: Array) -> bool:
    """Fill an array from a stream; whether there were so many bytes."""
    left = array.reshape(-1).view(np.uint8).data
    while left and (count := stream.readinto(left)):  # type: ignore[attr-defined]
        left = left[count:]
    return not left


class _StoredArray(NamedTuple):
    """An array in the file."""

    offset: int
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class PreparedScan:
    """A prepared scan that is open. All that it returns was compared with its digests; else it raises DamagedScan."""

    def __init__(self, file: ScanFile) -> None:
        self._file = file
        content = self._content()
        try:
            self.source_sha256 = str(content["source_sha256"])
            self.reading = int(content["reading"])
            self.header: ScanHeader = header_of(json.dumps(content["scan"]))
            self.identity = Identity.from_json(content.get("identity", "{}"))
            self.kind = str(content["kind"])  # name of the type of acquisition that `read` gives
            shared = _fields(content["shared"])
            self._slices = [{**shared, **_fields(each)} for each in content["slices"]]
        except (KeyError, TypeError, ValueError, AttributeError, UnreadableScan) as error:
            raise _damage("a header that makes no sense") from error
        for place in self._stored_arrays():
            if place.offset < len(MAGIC) or place.offset + place.nbytes > file.size:
                raise _damage("an array outside the file")
        if len(self._slices) != self.header.slices:
            raise _damage("another number of slices than its header says")

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._file.size

    def read(self, slices: Sequence[int]) -> Acquisition:
        """Read one slice as `udig_recon.core.formats.read` does from the scan file, with memory for that slice alone.

        `slices` holds one number: slices may differ in what they do not share, such as the mask.
        """
        (index,) = slices
        found: dict[str, Any] = {
            name: self._array(value) if isinstance(value, _StoredArray) else value
            for name, value in self._slices[index].items()
        }
        try:
            acquisition: Acquisition = acquisition_type(self.kind)(**found)
            return acquisition
        except (KeyError, TypeError) as error:
            raise _damage("fields of another version") from error

    def verify(self) -> None:
        """Compare all bytes with their digests, a few MiB at a time. Raises DamagedScan."""
        with self._file.stream() as stream:
            for place in sorted(set(self._stored_arrays())):
                stream.seek(place.offset)
                digest, left = hashlib.sha256(), place.nbytes
                while left and (block := stream.read(min(left, BLOCK_BYTES))):
                    digest.update(block)
                    left -= len(block)
                if digest.hexdigest() != place.sha256:
                    raise _damage("an array with another SHA-256")

    def _content(self) -> dict[str, Any]:
        file = self._file
        if file.size < len(MAGIC) + FOOTER.size or file.start(len(MAGIC)) != MAGIC:
            raise _damage("another beginning")
        with file.stream() as stream:
            stream.seek(file.size - FOOTER.size)
            place, length, digest, magic = FOOTER.unpack(stream.read(FOOTER.size))
            if magic != MAGIC or length > _MOST_HEADER_BYTES or place + length + FOOTER.size != file.size:
                raise _damage("another end")
            stream.seek(place)
            header = stream.read(length)
        if hashlib.sha256(header).digest() != digest:
            raise _damage("a header with another SHA-256")
        try:
            content = json.loads(header)
        except ValueError as error:
            raise _damage("a header that makes no sense") from error
        if not isinstance(content, dict):
            raise _damage("a header that makes no sense")
        return content

    def _stored_arrays(self) -> Iterator[_StoredArray]:
        for each in self._slices:
            yield from (value for value in each.values() if isinstance(value, _StoredArray))

    def _array(self, place: _StoredArray) -> Array:
        array = np.empty(place.shape, place.dtype)
        with self._file.stream() as stream:
            stream.seek(place.offset)
            whole = _fill(stream, array)
        if not whole or hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest() != place.sha256:
            raise _damage("an array with another SHA-256")
        return array


@contextmanager
def open_prepared(path: Path) -> Iterator[PreparedScan]:
    """Open a prepared scan. Raises DamagedScan, and OSError where there is none."""
    try:
        opened = open_stored(path)
    except DamagedFile as error:
        raise _damage("no regular file") from error
    with opened as file:
        yield PreparedScan(ScanFile(file.fileno()))


def verify_prepared(path: Path) -> None:
    """Read all of a prepared scan. Raises DamagedScan where a byte has changed, and OSError."""
    with open_prepared(path) as scan:
        scan.verify()


def _fields(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in stored.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_value, value))
    if not isinstance(value, dict):
        return value
    offset, dtype, shape, sha256 = value["array"]
    sides = tuple(map(int, shape))
    if dtype not in _DTYPES or len(sides) > 8 or min(sides, default=0) < 0 or not isinstance(sha256, str):
        raise ValueError("no array")
    return _StoredArray(int(offset), dtype, sides, sha256)


def _damage(found: str) -> DamagedScan:
    return DamagedScan.at("scan", found, "the bytes that were written", subject="prepared scan")
