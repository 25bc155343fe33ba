"""A scan file as a descriptor: whoever reads it needs no name, and may hold several places in it at once."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_BUFFER_BYTES = 64 << 10
_ONE_PLACE = threading.Lock()


class ScanFile:
    """An open file that is only read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.lseek(descriptor, 0, os.SEEK_END)

    def stream(self) -> IO[bytes]:
        """The bytes from the start, with a place of their own; to close it leaves the file open."""
        return io.BufferedReader(_Stream(self._descriptor, self.size), _BUFFER_BYTES)

    def start(self, length: int) -> bytes:
        """The first bytes."""
        with self.stream() as stream:
            return stream.read(length)


@contextmanager
def open_scan_file(path: Path) -> Iterator[ScanFile]:
    """The file of this name. Raises OSError."""
    with path.open("rb") as file:
        yield ScanFile(file.fileno())


class _Stream(io.RawIOBase):
    """Reads at a place that no other stream of the descriptor moves."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size, self._place = descriptor, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; beyond the end there is nothing."""
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if place < 0:
            raise ValueError("a place before the file")
        self._place = place
        return place

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as there are bytes."""
        room = memoryview(buffer).cast("B")[: max(0, self._size - self._place)]
        if not room:
            return 0
        count = _read_at(self._descriptor, room, self._place)
        self._place += count
        return count


def _read_at(descriptor: int, buffer: memoryview, place: int) -> int:
    """Fill the buffer from a place in the file, whatever other threads read; the number of bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], place)
    with _ONE_PLACE:  # Windows has only the descriptor's own place
        os.lseek(descriptor, place, os.SEEK_SET)
        found = os.read(descriptor, len(buffer))
    buffer[: len(found)] = found
    return len(found)
