"""Deflate streams (gzip, zip members, MATLAB's variables) read at any position, with little memory.

A stream is unpacked in pieces. Now and then the decompressor's state is kept as a mark: to go back is to go on from the
mark before, which is at most a few MiB away.
"""

import io
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import BOMB_BYTES, BOMB_RATIO
from udig_recon.core.formats.containers.scan_file import PositionedStream, ScanFile

GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""How a stream is wrapped: gzip's header and checksum, zlib's, or none, as in a zip archive."""

PIECE_BYTES = 256 << 10
_KEPT_PIECES = 32
_KEPT_STATES = 4  # streams that are read in turn, such as real and imaginary parts
_MOST_MARKS = 256  # of about 60 KiB
_MARK_EVERY = 16  # pieces, at first
_PACKED_BYTES = 16 << 10  # read at once; a mark keeps what is left of them


class _State(NamedTuple):
    """A decompressor, and where its next packed bytes lie. It is used once: copy it to keep it."""

    decompressor: "zlib._Decompress"
    packed: int

    def copy(self) -> "_State":
        return _State(self.decompressor.copy(), self.packed)


class Inflated:
    """What the packed bytes start to stop of a file unpack to. All streams of it share what is kept.

    `stream` opens the file. Reading raises EOFError where the packed bytes end early and zlib.error where they are
    damaged.
    """

    def __init__(self, stream: Callable[[], IO[bytes]], start: int, stop: int, wrapper: int) -> None:
        self._file = stream()
        self._start, self._stop, self._wrapper = start, stop, wrapper
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self._states: OrderedDict[int, _State] = OrderedDict()  # by the number of the piece that each gives next
        self._marks = {0: _State(zlib.decompressobj(wrapper), start)}
        self._mark_every = _MARK_EVERY
        self._end: int | None = None  # the number of the first piece that is not whole

    def measure(self, name: str) -> int:
        """Unpack everything once; returns its length. Raises UnreadableScan for a bomb, as soon as it shows."""
        most = max(BOMB_BYTES, BOMB_RATIO * (self._stop - self._start))
        size = 0
        for index in range(most // PIECE_BYTES + 2):
            piece = self.piece(index)
            size += len(piece)
            if len(piece) < PIECE_BYTES:
                return size
        expected = f"at most {BOMB_RATIO} times what is packed"
        raise UnreadableScan.at(name, f"{self._stop - self._start} bytes that unpack to more than {most}", expected)

    def stream(self, start: int, size: int) -> IO[bytes]:
        """A stream of the unpacked bytes from `start` on, with a position of its own."""
        return io.BufferedReader(_Stream(self, start, size), PIECE_BYTES // 4)

    def piece(self, index: int) -> bytes:
        """Unpacked bytes from index * PIECE_BYTES on; fewer than PIECE_BYTES where they end."""
        if self._end is not None and index > self._end:
            return b""
        found = self._pieces.get(index)
        if found is None:
            found = self._unpack(index)
            self._pieces[index] = found
            if len(self._pieces) > _KEPT_PIECES:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end(index)
        return found

    def _unpack(self, index: int) -> bytes:
        """The piece, from the state or mark that lies closest before it."""
        running = max((place for place in self._states if place <= index), default=-1)
        marked = max(place for place in self._marks if place <= index)
        place, state = (
            (running, self._states.pop(running)) if running >= marked else (marked, self._marks[marked].copy())
        )
        while True:
            content, state = self._next(state)
            if len(content) < PIECE_BYTES:
                self._end = place
                return content if place == index else b""
            place += 1
            if place % self._mark_every == 0 and place not in self._marks:
                self._mark(place, state)
            if place > index:
                self._states[place] = state
                if len(self._states) > _KEPT_STATES:
                    self._states.popitem(last=False)
                return content

    def _mark(self, place: int, state: _State) -> None:
        self._marks[place] = state.copy()
        if len(self._marks) > _MOST_MARKS:
            self._mark_every *= 2
            self._marks = {at: mark for at, mark in self._marks.items() if at % self._mark_every == 0}

    def _next(self, state: _State) -> tuple[bytes, _State]:
        """A whole piece, or what is left, and the state behind it."""
        decompressor, packed = state
        parts: list[bytes] = []
        wanted = PIECE_BYTES
        while wanted:
            if decompressor.eof:
                packed = self._next_member(packed)
                if packed == self._stop:
                    break
                decompressor = zlib.decompressobj(self._wrapper)
            self._file.seek(packed)
            given = self._file.read(min(_PACKED_BYTES, self._stop - packed))
            content = decompressor.decompress(given, wanted)
            packed += len(given) - len(decompressor.unconsumed_tail) - len(decompressor.unused_data)
            if not given and not content and not decompressor.eof:
                raise EOFError("packed bytes end early")
            parts.append(content)
            wanted -= len(content)
        return b"".join(parts), _State(decompressor, packed)

    def _next_member(self, packed: int) -> int:
        """Where the next gzip member begins; the end where none does. Zeros may fill up a file."""
        if self._wrapper != GZIP:
            return self._stop
        self._file.seek(packed)
        while block := self._file.read(min(_PACKED_BYTES, self._stop - packed)):
            if rest := block.lstrip(b"\0"):
                return packed + len(block) - len(rest)
            packed += len(block)
        return self._stop


class InflatedFile(ScanFile):
    """Unpacked bytes as a file: `size` of them from `start` on."""

    def __init__(self, inflated: Inflated, start: int, size: int) -> None:
        self._inflated, self._start, self.size = inflated, start, size

    def stream(self) -> IO[bytes]:
        """A stream from the first byte, with a position of its own."""
        return self._inflated.stream(self._start, self.size)

    def part(self, start: int, size: int) -> ScanFile:
        """So many bytes of the file as a file. Raises UnreadableScan where the file ends before."""
        self.check_part(start, size)
        return InflatedFile(self._inflated, self._start + start, size)


class _Stream(PositionedStream):
    """Reads a part of the unpacked bytes."""

    def __init__(self, inflated: Inflated, start: int, size: int) -> None:
        super().__init__(size)
        self._inflated, self._start = inflated, start

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as there are bytes."""
        wanted = self.wanted(buffer)
        filled = 0
        while filled < len(wanted):
            index, within = divmod(self._start + self._position + filled, PIECE_BYTES)
            content = memoryview(self._inflated.piece(index))[within:][: len(wanted) - filled]
            if not content:
                break
            wanted[filled : filled + len(content)] = content
            filled += len(content)
        self._position += filled
        return filled
