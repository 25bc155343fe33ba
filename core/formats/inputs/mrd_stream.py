"""Input format MRD stream: the messages of the MRD (ISMRMRD) streaming protocol in a file, as converters write them.

Little-endian; each message begins with its kind, a uint16. A header (XML) begins a measurement; its acquisitions
follow, each a head of 340 bytes, its trajectory (float32) and its samples (complex64).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.inputs.mrd import SAMPLE_XML, last_with_an_image, sample_lines
from udig_recon.core.formats.readouts.mrd_head import HEAD, MOST_COILS, MOST_READOUTS, readouts_of
from udig_recon.core.formats.readouts.mrd_header import read_mrd_header
from udig_recon.core.formats.readouts.mrd_protocol import (
    CONFIG_FILE_BYTES,
    IMAGE_HEAD,
    MESSAGE_ID,
    MOST_TEXT_BYTES,
    TEXT_LENGTH,
    WAVEFORM,
    MessageId,
    waveform_bytes,
)
from udig_recon.core.formats.readouts.reader import reader_of
from udig_recon.core.formats.readouts.readouts import ReadoutBlock, ReadoutHeader, Readouts, same_shape

_LONG_LENGTH = Struct("<Q")
_PIXEL_BYTES = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 8, 7: 8, 8: 16}
_MOST_MEASUREMENTS = 64
_MOST_MESSAGES = 1_000_000
_MARK = b"ismrmrdHeader"


class MrdStream:
    """A file of the streaming protocol's messages."""

    name = "MRD stream"
    expected = "a stream of MRD (ISMRMRD) messages"

    def sniff(self, file: ScanFile) -> bool:
        """Whether a header comes first, behind a configuration perhaps."""
        with file.stream() as stream:
            kind = _kind(stream)
            if kind == MessageId.CONFIG_FILE:
                stream.seek(CONFIG_FILE_BYTES, 1)
                kind = _kind(stream)
            elif kind == MessageId.CONFIG_TEXT:
                (length,) = TEXT_LENGTH.unpack(stream.read(TEXT_LENGTH.size).ljust(TEXT_LENGTH.size, b"\0"))
                stream.seek(length, 1)
                kind = _kind(stream)
            return kind == MessageId.HEADER and _MARK in stream.read(4096)

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The last measurement that holds lines of an image; noise of an earlier one goes with it."""
        measurement = last_with_an_image(_measurements(file))
        yield Contents("mrd", {}, reader=reader_of(measurement), identity=measurement.header.identity)

    def samples(self) -> Sequence[bytes]:
        """Noise, and an image of two coils with reversed and oversampled readouts."""
        heads, values = sample_lines()
        kind = MESSAGE_ID.pack(MessageId.ACQUISITION)
        lines = [kind + head.tobytes() + line.tobytes() for head, line in zip(heads, values, strict=True)]
        header = MESSAGE_ID.pack(MessageId.HEADER) + TEXT_LENGTH.pack(len(SAMPLE_XML)) + SAMPLE_XML.encode()
        return (header + b"".join(lines) + MESSAGE_ID.pack(MessageId.CLOSE),)


FORMAT = MrdStream()


class StreamedReadouts(Readouts):
    """A measurement in a stream that lies in a file."""

    def __init__(
        self,
        file: ScanFile,
        header: ReadoutHeader,
        lines: NDArray[Any],
        places: NDArray[np.int64],
        noise: Readouts | None,
        warnings: tuple[str, ...],
    ) -> None:
        """`places` (lines,) are where the bytes behind each readout's head begin."""
        super().__init__(header, lines, noise, warnings)
        self._file, self._places = file, places

    def blocks(self, indices: NDArray[np.intp]) -> Iterator[ReadoutBlock]:
        """The readouts of these numbers, in that order, in blocks of a few MiB."""
        with self._file.stream() as stream:
            for part in same_shape(self.lines, indices):
                coils, samples, dimensions = (
                    int(self.lines[part[0]][name]) for name in ("coils", "samples", "trajectory_dimensions")
                )
                places = np.empty((len(part), samples, dimensions), "<f4")
                values = np.empty((len(part), coils, samples), "<c8")
                for at, index in enumerate(part):
                    stream.seek(int(self._places[index]))
                    for target in (places[at], values[at]):
                        content = stream.read(target.nbytes)
                        target[...] = np.frombuffer(content, target.dtype).reshape(target.shape)
                trajectory = places.astype(np.float32, copy=False) if dimensions else None
                yield ReadoutBlock(part, values.astype(np.complex64, copy=False), trajectory)


def _measurements(file: ScanFile) -> list[Readouts]:
    """The measurements in their order. Raises UnreadableScan for messages that are none, or end with the file."""
    found: list[Readouts] = []
    header: ReadoutHeader | None = None
    heads: list[bytes] = []
    places: list[int] = []

    def finish(warnings: tuple[str, ...] = ()) -> None:
        if header is None or not heads:
            return
        lines = readouts_of(np.frombuffer(b"".join(heads), HEAD))
        before = found[-1] if found else None
        found.append(StreamedReadouts(file, header, lines, np.array(places, np.int64), before, warnings))
        heads.clear()
        places.clear()

    with file.stream() as stream:
        for _ in range(_MOST_MESSAGES):
            kind = _kind(stream)
            match kind:
                case None:
                    finish(("the stream was not closed: what came until then is read",))
                    return found
                case MessageId.CLOSE:
                    finish()
                    return found
                case MessageId.HEADER:
                    finish()
                    if len(found) >= _MOST_MEASUREMENTS:
                        raise UnreadableScan.at("file", "more headers", f"at most {_MOST_MEASUREMENTS} measurements")
                    header = read_mrd_header(_read(stream, _length(stream)))
                case MessageId.ACQUISITION:
                    if header is None or len(heads) >= MOST_READOUTS:
                        found_ = "readouts before a header" if header is None else f"more than {MOST_READOUTS} readouts"
                        raise UnreadableScan.at("file", found_, f"a header, then at most {MOST_READOUTS} readouts")
                    head = _read(stream, HEAD.itemsize)
                    heads.append(head)
                    places.append(stream.tell())
                    _skip(stream, _bytes_of(head), file)
                case _:
                    _skip_message(stream, kind, file)
    raise UnreadableScan.at("file", f"more than {_MOST_MESSAGES} messages", "fewer")


def _bytes_of(head: bytes) -> int:
    """Bytes of an acquisition behind its head."""
    fields = np.frombuffer(head, HEAD)[0]
    samples, coils, dimensions = (
        int(fields[name]) for name in ("number_of_samples", "active_channels", "trajectory_dimensions")
    )
    if coils > MOST_COILS:
        raise UnreadableScan.at("file", f"a readout of {coils} coils", f"at most {MOST_COILS}")
    return samples * (8 * coils + 4 * dimensions)


def _skip_message(stream: IO[bytes], kind: int, file: ScanFile) -> None:
    """Go behind a message that is not used."""
    if kind == MessageId.CONFIG_FILE:
        _skip(stream, CONFIG_FILE_BYTES, file)
    elif kind in (MessageId.CONFIG_TEXT, MessageId.TEXT):
        _skip(stream, _length(stream), file)
    elif kind == MessageId.WAVEFORM:
        _skip(stream, waveform_bytes(_read(stream, WAVEFORM.size)), file)
    elif kind == MessageId.IMAGE:
        head = np.frombuffer(_read(stream, IMAGE_HEAD.itemsize), IMAGE_HEAD)[0]
        pixel, pixels = int(head["data_type"]), int(head["channels"]) * math.prod(map(int, head["matrix_size"]))
        (attributes,) = _LONG_LENGTH.unpack(_read(stream, _LONG_LENGTH.size))
        if pixel not in _PIXEL_BYTES:
            raise UnreadableScan.at("file", f"an image of type {pixel}", "1 to 8")
        _skip(stream, attributes + pixels * _PIXEL_BYTES[pixel], file)
    else:
        raise UnreadableScan.at("file", f"a message of kind {kind}", "messages of the MRD streaming protocol")


def _kind(stream: IO[bytes]) -> int | None:
    """The kind of the next message; None at the end of the file."""
    content = stream.read(MESSAGE_ID.size)
    return int(MESSAGE_ID.unpack(content)[0]) if len(content) == MESSAGE_ID.size else None


def _length(stream: IO[bytes]) -> int:
    (length,) = TEXT_LENGTH.unpack(_read(stream, TEXT_LENGTH.size))
    if length > MOST_TEXT_BYTES:
        raise UnreadableScan.at("file", f"a text of {length} bytes", f"at most {MOST_TEXT_BYTES}")
    return int(length)


def _read(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise UnreadableScan.at("file", "a message that ends with the file", "a whole stream")
    return content


def _skip(stream: IO[bytes], length: int, file: ScanFile) -> None:
    if stream.tell() + length > file.size:
        raise UnreadableScan.at("file", "a message that ends with the file", "a whole stream")
    stream.seek(length, 1)
