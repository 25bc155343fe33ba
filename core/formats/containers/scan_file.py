"""Scan file as a descriptor: it is read without a name, and at several positions at once."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from udig_recon.core.errors import UnreadableScan

_BUFFER_BYTES = 64 << 10
_ONE_POSITION = threading.Lock()


class ScanFile:
    """An open file that is only read, or `size` bytes of it from `start` on."""

    def __init__(self, descriptor: int, start: int = 0, size: int | None = None) -> None:
        self._descriptor, self._start = descriptor, start
        self.size = os.lseek(descriptor, 0, os.SEEK_END) if size is None else size

    def stream(self) -> IO[bytes]:
        """A stream from the first byte, with a position of its own. Closing it leaves the file open."""
        return io.BufferedReader(_Stream(self._descriptor, self._start, self.size), _BUFFER_BYTES)

    def part(self, start: int, size: int) -> "ScanFile":
        """So many bytes of the file as a file. Raises UnreadableScan where the file ends before."""
        self.check_part(start, size)
        return ScanFile(self._descriptor, self._start + start, size)

    def check_part(self, start: int, size: int) -> None:
        """Raise UnreadableScan unless so many bytes lie in the file."""
        if start < 0 or size < 0 or start + size > self.size:
            raise UnreadableScan.at("file", f"{size} bytes from {start} on", f"a place within its {self.size} bytes")

    def start(self, length: int) -> bytes:
        """The first bytes."""
        with self.stream() as stream:
            return stream.read(length)


@contextmanager
def open_scan_file(path: Path) -> Iterator[ScanFile]:
    """The file at this path. Raises OSError."""
    with path.open("rb") as file:
        yield ScanFile(file.fileno())


class PositionedStream(io.RawIOBase):
    """Reads so many bytes from a position of its own; what `readinto` does is the source's."""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position; beyond the end there is nothing to read."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError("a position before the file")
        self._position = position
        return position

    def wanted(self, buffer: Any) -> memoryview:
        """The part of a buffer that the bytes left can fill."""
        return memoryview(buffer).cast("B")[: max(0, self._size - self._position)]


class _Stream(PositionedStream):
    """Reads at a position that no other stream of the descriptor moves."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__(size)
        self._descriptor, self._start = descriptor, start

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as there are bytes."""
        wanted = self.wanted(buffer)
        if not wanted:
            return 0
        count = _read_at(self._descriptor, wanted, self._start + self._position)
        self._position += count
        return count


def _read_at(descriptor: int, buffer: memoryview, position: int) -> int:
    """Fill the buffer from a position in the file, whatever other threads read; returns the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], position)
    with _ONE_POSITION:  # Windows has only the descriptor's own position
        os.lseek(descriptor, position, os.SEEK_SET)
        found = os.read(descriptor, len(buffer))
    buffer[: len(found)] = found
    return len(found)
