"""Reader of the messages of the MRD streaming protocol (ISMRMRD) from a connection, which bounds what comes."""

import asyncio
import time
from struct import Struct
from typing import NamedTuple

from udig_recon.core.formats.readouts.mrd_head import HEAD, MOST_COILS
from udig_recon.core.formats.readouts.mrd_protocol import (
    CONFIG_FILE_BYTES,
    MESSAGE_ID,
    MOST_TEXT_BYTES,
    TEXT_LENGTH,
    WAVEFORM,
    MessageId,
    waveform_bytes,
)

MOST_LINE_BYTES = 64 << 20
MOST_DIMENSIONS = 8  # of a trajectory
PROGRESS_BYTES = 1024  # fewer than this within the time-out is no progress of a message that has begun
READ_BYTES = 1 << 18
VERSION = 1  # of the headers of acquisitions and images

_SIZES_OF_ACQUISITION = Struct("<HHH")  # samples, available channels, active channels
_SIZES_OFFSET = HEAD.fields["number_of_samples"][1]  # type: ignore[index]
_DIMENSIONS_OFFSET = HEAD.fields["trajectory_dimensions"][1]  # type: ignore[index]


class ProtocolError(Exception):
    """The client broke the protocol, or a bound of it; the message says how, and what would be right."""


class ConnectionCut(Exception):
    """The client ended the connection before it had closed its scan."""


class Line(NamedTuple):
    """One acquisition as it came."""

    head: bytes  # 340
    trajectory: bytes  # float32, samples x dimensions
    data: bytes  # complex64, channels x samples


class MessageReader:
    """Reads messages from a connection: nothing is kept before its size is known to be allowed.

    `seconds` is how long a client may be silent; `most_bytes` what it may send in all.
    """

    def __init__(self, stream: asyncio.StreamReader, *, seconds: float, most_bytes: int) -> None:
        self.received_bytes = 0
        self._stream, self._seconds, self._most_bytes = stream, seconds, most_bytes
        self._buffer, self._at = b"", 0
        self._began_at, self._began_bytes = 0.0, 0  # of the message, or of the last look at its progress

    async def message_id(self) -> int | None:
        """The kind of the next message; None where the connection ends before it. Raises ProtocolError."""
        self._began_at, self._began_bytes = time.monotonic(), self.received_bytes
        if self._at == len(self._buffer) and not await self._fill():
            return None
        (kind,) = MESSAGE_ID.unpack(await self._take(MESSAGE_ID.size))
        return int(kind)

    async def config_file(self) -> str:
        """The name of a configuration. Raises ProtocolError."""
        name = (await self._take(CONFIG_FILE_BYTES)).split(b"\0", 1)[0]
        try:
            return name.decode()
        except UnicodeDecodeError:
            raise ProtocolError("the name of the configuration (message 1) is no UTF-8") from None

    async def text(self, what: str) -> bytes:
        """A text of bounded length, without the zeros that some clients end it with. Raises ProtocolError."""
        (length,) = TEXT_LENGTH.unpack(await self._take(TEXT_LENGTH.size))
        if length > MOST_TEXT_BYTES:
            raise ProtocolError(f"{what} has {length} bytes by its length, and may have {MOST_TEXT_BYTES}")
        return (await self._take(length)).rstrip(b"\0")

    async def acquisition(self) -> Line:
        """One line. Raises ProtocolError where its header gives it a size that no line may have."""
        head = await self._take(HEAD.itemsize)
        version = int.from_bytes(head[:2], "little")
        if version != VERSION:
            raise ProtocolError(
                f"an acquisition (message 1008) is of version {version} by its header, expected {VERSION}: either "
                "another protocol, or the bytes are out of step with the lengths that were sent before"
            )
        samples, _, channels = _SIZES_OF_ACQUISITION.unpack_from(head, _SIZES_OFFSET)
        dimensions = int.from_bytes(head[_DIMENSIONS_OFFSET : _DIMENSIONS_OFFSET + 2], "little")
        if not 1 <= channels <= MOST_COILS:
            raise ProtocolError(f"a line has {channels} channels by its header, expected 1 to {MOST_COILS}")
        if dimensions > MOST_DIMENSIONS:
            raise ProtocolError(
                f"a line has a trajectory of {dimensions} dimensions by its header, expected at most {MOST_DIMENSIONS}"
            )
        if (size := samples * (4 * dimensions + 8 * channels)) > MOST_LINE_BYTES:
            raise ProtocolError(f"a line has {size} bytes by its header, expected at most {MOST_LINE_BYTES}")
        trajectory = await self._take(4 * samples * dimensions)
        return Line(head, trajectory, await self._take(8 * samples * channels))

    async def skip_waveform(self) -> None:
        """Read past a waveform, with memory for a piece of it. Raises ProtocolError."""
        left = waveform_bytes(await self._take(WAVEFORM.size))
        self._check_total(left)
        while left:
            piece = min(left, len(self._buffer) - self._at) or min(left, len(await self._filled()))
            self._at += piece
            left -= piece

    async def _take(self, count: int) -> bytes:
        """So many bytes. Raises ConnectionCut where the connection ends before."""
        if self._at + count > len(self._buffer):
            self._check_total(count - (len(self._buffer) - self._at))
            parts = [self._buffer[self._at :]]
            missing = count - len(parts[0])
            self._buffer, self._at = b"", 0
            while missing > 0:
                parts.append(await self._filled())
                missing -= len(parts[-1])
            self._buffer = b"".join(parts)
        taken = self._buffer[self._at : self._at + count]
        self._at += count
        return taken

    async def _filled(self) -> bytes:
        if not await self._fill():
            raise ConnectionCut
        return self._buffer

    async def _fill(self) -> bool:
        """Put what has come into the empty buffer; False at the end. Raises ProtocolError when nothing comes."""
        try:
            async with asyncio.timeout(self._seconds):
                self._buffer, self._at = await self._stream.read(READ_BYTES), 0
        except TimeoutError:
            raise ProtocolError(f"nothing came for {self._seconds:g} s, so the connection is closed") from None
        except OSError:
            raise ConnectionCut from None
        self.received_bytes += len(self._buffer)
        self._check_total(0)
        now = time.monotonic()
        if now - self._began_at >= self._seconds:
            if self.received_bytes - self._began_bytes < PROGRESS_BYTES:
                raise ProtocolError(
                    f"fewer than {PROGRESS_BYTES} bytes of a message came within {self._seconds:g} s, so the "
                    "connection is closed"
                )
            self._began_at, self._began_bytes = now, self.received_bytes
        return bool(self._buffer)

    def _check_total(self, more: int) -> None:
        if self.received_bytes + more > self._most_bytes:
            raise ProtocolError(
                f"the scan has more than {self._most_bytes} bytes, the limit of this service (MAX_UPLOAD_BYTES)"
            )


def text_message(text: str) -> bytes:
    """A TEXT message."""
    content = text.encode()
    return MESSAGE_ID.pack(MessageId.TEXT) + TEXT_LENGTH.pack(len(content)) + content


CLOSE_MESSAGE = MESSAGE_ID.pack(MessageId.CLOSE)
