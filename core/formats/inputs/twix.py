"""Input format twix: raw data of Siemens scanners, of versions VB and VD to XA (.dat), read as readouts.

A file of VD and later begins with a directory of measurements: adjustments first, the scan last. A file of VB is one
measurement. A measurement is a header of several texts, and readouts with a header each (MDH), until one that ends it.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.ismrmrd_header import Space
from udig_recon.core.formats.readouts.reader import reader_of
from udig_recon.core.formats.readouts.readouts import (
    READOUT,
    Flag,
    Limit,
    ReadoutBlock,
    ReadoutEncoding,
    ReadoutHeader,
    Readouts,
    same_shape,
)

MOST_READOUTS = 1_000_000

_MOST_MEASUREMENTS = 64
_ENTRY_BYTES, _FIRST_ENTRY = 152, 8
_LARGEST_VERSION_WORD = 10_000  # of VD; a file of VB begins with the length of its header, which is larger
_MOST_HEADER_BYTES = 64 << 20
_MOST_TEXTS = 64
_MOST_LINES = 1 << 16
_BUFFER_BYTES = 1 << 20
_TEXT_NAME = re.compile(rb"\w{4,}\0")
_ASSIGNMENT = re.compile(rb"^([A-Za-z_][\w.\[\]]{0,200})[ \t]*=[ \t]*(\S{1,64})[ \t\r]*$", re.MULTILINE)
_OVERSAMPLING = re.compile(rb'"flReadoutOSFactor">\s{0,99}\{\s{0,99}(?:<Precision>\s{0,99}\d+\s{1,99})?(\d+(?:\.\d+)?)')
_NOISE_BANDWIDTH_HZ = 130  # of a readout of the noise adjustment, whatever number of samples it has

_COUNTERS = ("line", "average", "slice", "partition", "echo", "phase", "repetition", "set", "segment")
_COUNTER_FIELDS = [(name, "<u2") for name in (*_COUNTERS, "ida", "idb", "idc", "idd", "ide")]
_COMMON = [("length", "<u4"), ("uid", "<i4"), ("number", "<u4"), ("time", "<u4"), ("pmu_time", "<u4")]
_COUNTED = [
    ("flags", "<u8"),
    ("samples", "<u2"),
    ("channels", "<u2"),
    *_COUNTER_FIELDS,
    ("discard_pre", "<u2"),
    ("discard_post", "<u2"),
    ("center_column", "<u2"),
    ("coil_select", "<u2"),
    ("off_centre", "<f4"),
    ("since_rf", "<u4"),
    ("center_line", "<u2"),
    ("center_partition", "<u2"),
]
_SLICE = [("position", "<f4", 3), ("quaternion", "<f4", 4)]
VD_HEADER = np.dtype([*_COMMON, ("system", "V20"), *_COUNTED, *_SLICE, ("rest", "V64")])
"""Header of a readout since VD (192 bytes): one for all channels, each of which has a header of 32 bytes."""
VB_HEADER = np.dtype([*_COMMON, *_COUNTED, ("free", "V16"), *_SLICE, ("rest", "V4")])
"""Header of a readout of VB (128 bytes), before every channel."""
CHANNEL_BYTES = 32


class Mask:
    """Bits of a readout's flags (EvalInfoMask) that matter here."""

    END, FEEDBACK, HP_FEEDBACK, SYNC = 1 << 0, 1 << 1, 1 << 2, 1 << 5
    PHASE_STABILIZATION_REFERENCE, PHASE_STABILIZATION = 1 << 14, 1 << 15
    PHASE_CORRECTION, CALIBRATION, CALIBRATION_AND_IMAGE = 1 << 21, 1 << 22, 1 << 23
    REFLECTED, NOISE, DUMMY = 1 << 24, 1 << 25, 1 << 51


_FLAGS = {
    Mask.NOISE: Flag.NOISE,
    Mask.CALIBRATION: Flag.CALIBRATION,
    Mask.CALIBRATION_AND_IMAGE: Flag.CALIBRATION_AND_IMAGE,
    Mask.REFLECTED: Flag.REVERSE,
    Mask.PHASE_CORRECTION: Flag.PHASE_CORRECTION,
    Mask.HP_FEEDBACK: Flag.HP_FEEDBACK,
    Mask.FEEDBACK: Flag.RT_FEEDBACK,
    Mask.DUMMY: Flag.DUMMY,
    Mask.PHASE_STABILIZATION_REFERENCE: Flag.PHASE_STABILIZATION_REFERENCE,
    Mask.PHASE_STABILIZATION: Flag.PHASE_STABILIZATION,
}
_TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral"}
_CALIBRATION_MODES = {2: "embedded", 4: "separate"}
_OURS = {
    **{"kspace_encode_step_1": "line", "kspace_encode_step_2": "partition", "average": "average", "slice": "slice"},
    **{"contrast": "echo", "phase": "phase", "repetition": "repetition", "set": "set", "segment": "segment"},
    **{"samples": "samples", "coils": "channels", "discard_pre": "discard_pre", "discard_post": "discard_post"},
    **{"center_sample": "center_column", "position": "position"},
}


class Twix:
    """A .dat as the scanner exports it."""

    name = "Siemens twix"
    expected = "Siemens twix (.dat)"

    def sniff(self, file: ScanFile) -> bool:
        """Whether its measurements begin with headers of texts."""
        return bool(_measurements(file))

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The last measurement; noise readouts of earlier ones go with it."""
        readouts: TwixReadouts | None = None
        found = _measurements(file)
        for number, place in enumerate(found):
            is_last = number == len(found) - 1
            readouts = _read_measurement(file, place, readouts, is_last=is_last)
        if readouts is None:
            raise UnreadableScan.at("file", "no measurement", "a whole twix file")
        if len(found) > 1:
            warning = f"the file holds {len(found)} measurements: the last one is read"
            readouts.warnings = (*readouts.warnings, warning)
        yield Contents("twix", {}, reader=reader_of(readouts))

    def samples(self) -> Sequence[bytes]:
        """Eight readouts of two channels."""
        return (_sample(),)


FORMAT = Twix()


class _Measurement(NamedTuple):
    """Where a measurement lies."""

    start: int
    end: int
    is_vd: bool


@dataclass(frozen=True)
class _Layout:
    """How the readouts of a measurement lie in the file."""

    header: np.dtype[Any]
    first: int  # bytes before the first channel
    channel: int  # bytes before the samples of each channel

    def nbytes(self, samples: int, channels: int) -> int:
        """Bytes of a readout."""
        return self.first + channels * (self.channel + 8 * samples)


_VD = _Layout(VD_HEADER, VD_HEADER.itemsize, CHANNEL_BYTES)
_VB = _Layout(VB_HEADER, 0, VB_HEADER.itemsize)


class TwixReadouts(Readouts):
    """A measurement in a twix file."""

    def __init__(
        self,
        file: ScanFile,
        layout: _Layout,
        header: ReadoutHeader,
        lines: NDArray[Any],
        places: NDArray[np.int64],
        noise: Readouts | None,
    ) -> None:
        super().__init__(header, lines, noise)
        self._stream, self._layout, self._places = file.stream(), layout, places

    def blocks(self, indices: NDArray[np.intp]) -> Iterator[ReadoutBlock]:
        """The readouts of these numbers, in that order, in blocks of a few MiB."""
        for part in same_shape(self.lines, indices):
            samples, coils = (int(self.lines[name][part[0]]) for name in ("samples", "coils"))
            size = self._layout.nbytes(samples, coils) - self._layout.first
            content = np.empty((len(part), size), np.uint8)
            for row, place in zip(content, self._places[part], strict=True):
                self._stream.seek(int(place) + self._layout.first)
                read = self._stream.read(size)
                if len(read) != size:
                    raise EOFError("a readout ends early")
                row[:] = np.frombuffer(read, np.uint8)
            channels = content.reshape(len(part), coils, self._layout.channel + 8 * samples)
            values = np.ascontiguousarray(channels[:, :, self._layout.channel :]).view("<c8")
            yield ReadoutBlock(part, values.astype(np.complex64, copy=False), None)


def _measurements(file: ScanFile) -> list[_Measurement]:
    """The measurements of a twix file, in its order; none for a file of another kind."""
    if file.size < VD_HEADER.itemsize:
        return []
    with file.stream() as stream:
        start = stream.read(_FIRST_ENTRY + _MOST_MEASUREMENTS * _ENTRY_BYTES)
        word, count = struct.unpack_from("<II", start)
        found = [_Measurement(0, file.size, is_vd=False)]
        if word < _LARGEST_VERSION_WORD:
            if not 1 <= count <= _MOST_MEASUREMENTS or len(start) < _FIRST_ENTRY + count * _ENTRY_BYTES:
                return []
            entries = [struct.unpack_from("<QQ", start, _FIRST_ENTRY + n * _ENTRY_BYTES + 8) for n in range(count)]
            # A scan that was broken off has a length of 0.
            found = [_Measurement(at, min(at + (size or file.size), file.size), is_vd=True) for at, size in entries]
        for each in found:
            stream.seek(min(each.start, file.size))
            head = stream.read(48)
            if len(head) < 48 or not 0 < struct.unpack_from("<I", head, 4)[0] <= _MOST_TEXTS:
                return []
            if _TEXT_NAME.match(head, 8) is None:
                return []
    return found


def _read_measurement(file: ScanFile, place: _Measurement, before: Readouts | None, *, is_last: bool) -> "TwixReadouts":
    """One measurement. Only the last one's protocol has to be known."""
    with file.stream() as stream:
        stream.seek(place.start)
        (size,) = struct.unpack("<I", stream.read(4))
        if not 8 < size <= min(_MOST_HEADER_BYTES, place.end - place.start):
            found = f"a header of {size} bytes in a measurement of {place.end - place.start}"
            raise UnreadableScan.at("file", found, f"at most {_MOST_HEADER_BYTES}, and no more than the measurement")
        stream.seek(place.start)
        text = stream.read(size)
    layout = _VD if place.is_vd else _VB
    heads, places = _heads(file, layout, place.start + size, place.end)
    protocol = _protocol(text)
    if is_last:
        header = _header(protocol, text, heads)
    else:
        header = ReadoutHeader(encodings=(ReadoutEncoding(encoded=Space((1, 1, 1), (None, None, None)), recon=None),))
    is_3d = protocol.get("sKSpace.ucDimension") == 4
    return TwixReadouts(file, layout, header, _lines(heads, protocol, is_3d=is_3d), places, before)


def _heads(file: ScanFile, layout: _Layout, place: int, end: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The headers of all readouts, and their places in the file."""
    size = layout.header.itemsize
    heads, places = bytearray(), list[int]()
    window, base = b"", place
    with file.stream() as stream:
        while place + size <= end:
            if not base <= place <= base + len(window) - size:
                stream.seek(place)
                window, base = stream.read(_BUFFER_BYTES), place
                if len(window) < size:
                    break
            head = window[place - base : place - base + size]
            (head_flags,) = struct.unpack_from("<Q", head, layout.header.fields["flags"][1])  # type: ignore[index]
            if head_flags & Mask.END:
                break
            if head_flags & Mask.SYNC:
                length = struct.unpack_from("<I", head)[0] & 0x1FFFFFF
                if length < size:
                    raise UnreadableScan.at("file", f"a block of {length} bytes", f"at least {size} bytes")
                place += length
                continue
            samples, channels = struct.unpack_from("<HH", head, layout.header.fields["samples"][1])  # type: ignore[index]
            length = layout.nbytes(samples, channels)
            if place + length > end:
                # A scan that was broken off may end within a readout.
                break
            if len(places) >= MOST_READOUTS or not length:
                found = f"more than {MOST_READOUTS} readouts" if length else "a readout without channels"
                raise UnreadableScan.at("file", found, f"1 to {MOST_READOUTS} readouts with samples")
            heads += head
            places.append(place)
            place += length
    if not places:
        return np.zeros(0, layout.header), np.zeros(0, np.int64)
    return np.frombuffer(bytes(heads), layout.header), np.array(places, np.int64)


def _lines(heads: NDArray[Any], protocol: Mapping[str, float], *, is_3d: bool) -> NDArray[Any]:
    """What each readout tells of itself, as READOUT."""
    lines = np.zeros(len(heads), READOUT)
    for ours, theirs in _OURS.items():
        lines[ours] = heads[theirs]
    for mask, flag in _FLAGS.items():
        lines["flags"] |= np.where(heads["flags"] & np.uint64(mask), np.uint64(flag), np.uint64(0))
    dwell = protocol.get("sRXSPEC.alDwellTime[0]", 0) / 1000
    lines["sample_time_us"] = dwell if 0 < dwell < 1e4 else 0
    noise = (heads["flags"] & np.uint64(Mask.NOISE)) != 0
    lines["sample_time_us"][noise] = 1e6 / _NOISE_BANDWIDTH_HZ / np.maximum(heads["samples"][noise], 1)
    phase, read, slice_ = _directions(heads["quaternion"].astype(np.float64))
    # The scanner's signal is exp(+i k r) where ours is exp(-i k r): along encoded axes images come out reversed.
    lines["read_dir"], lines["phase_dir"], lines["slice_dir"] = -read, -phase, -slice_ if is_3d else slice_
    return lines


def _directions(quaternions: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Phase, readout and slice direction: the columns of the rotation matrices of quaternions (w, x, y, z)."""
    norm = np.linalg.norm(quaternions, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        w, x, y, z = np.where(np.isfinite(norm) & (norm > 0), quaternions / norm, np.nan).T
    columns = (
        np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=1),
        np.stack([2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)], axis=1),
        np.stack([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)], axis=1),
    )
    return tuple(np.nan_to_num(column) for column in columns)


def _protocol(text: bytes) -> dict[str, float]:
    """Numbers of the protocol by their names ("sKSpace.lBaseResolution"); the rest of it may name a patient."""
    place = text.find(b"MeasYaps\0")
    section = text[place:] if place >= 0 else text
    found: dict[str, float] = {}
    for match in _ASSIGNMENT.finditer(section):
        name, value = match[1].decode("ascii"), match[2].decode("latin-1")
        try:
            number = float(int(value, 16)) if value.startswith("0x") else float(value)
        except ValueError:
            continue
        if np.isfinite(number):
            found.setdefault(name, number)
    return found


def _header(protocol: Mapping[str, float], text: bytes, heads: NDArray[Any]) -> ReadoutHeader:
    """k-space, the image and its calibration, of the protocol and of what was measured."""
    others = Mask.NOISE | Mask.PHASE_CORRECTION | Mask.FEEDBACK | Mask.HP_FEEDBACK | Mask.CALIBRATION
    image = heads[(heads["flags"] & np.uint64(others)) == 0]
    if not len(image):
        raise UnreadableScan.at("file", f"no readouts of an image among {len(heads)}", "a scan, not an adjustment")
    base = int(protocol.get("sKSpace.lBaseResolution", 0))
    if not 0 < base < _MOST_LINES:
        raise UnreadableScan.at("file", "a protocol without sKSpace.lBaseResolution", "the protocol of a whole scan")
    is_3d = protocol.get("sKSpace.ucDimension") == 4
    oversampling = _oversampling(text)
    columns = round(base * oversampling)
    lines = _encoded(int(protocol.get("sKSpace.lPhaseEncodingLines", 0)), image["line"], image["center_line"])
    partitions = 1
    if is_3d:
        wanted = int(protocol.get("sKSpace.lPartitions", 0))
        partitions = _encoded(wanted, image["partition"], image["center_partition"])
    fov = [_length(protocol, f"sSliceArray.asSlice[0].{name}") for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")]
    more = 1 + max(0.0, protocol.get("sKSpace.dPhaseOversamplingForDialog", 0.0))
    slabs = int(protocol.get("sKSpace.lImagesPerSlab", 0)) if is_3d else 1
    slabs = slabs if 0 < slabs <= partitions else partitions
    deeper = partitions / slabs
    wide = [_times(length, factor) for length, factor in zip(fov, (oversampling, more, deeper), strict=True)]
    recon = (base, max(1, round(lines / more)), slabs)
    trajectory = _TRAJECTORIES.get(int(protocol.get("sKSpace.ucTrajectory", 1)), "other")
    reflected = (image["flags"] & np.uint64(Mask.REFLECTED)).any()
    if protocol.get("sFastImaging.lEPIFactor", 1) > 1 and reflected:
        trajectory = "epi"
    encoding = ReadoutEncoding(
        encoded=Space((columns, lines, partitions), (wide[0], wide[1], wide[2])),
        recon=Space(recon, (fov[0], fov[1], fov[2])),
        trajectory=trajectory,
        limits={
            "kspace_encoding_step_1": _limit(image["line"], image["center_line"]),
            "kspace_encoding_step_2": _limit(image["partition"], image["center_partition"]),
        },
        calibration_mode=_CALIBRATION_MODES.get(int(protocol.get("sPat.ucRefScanMode", 0))),
    )
    return ReadoutHeader(encodings=(encoding,))


def _oversampling(text: bytes) -> float:
    """How many times more samples a readout has than the image has columns; scanners measure twice as many."""
    match = _OVERSAMPLING.search(text)
    factor = 2.0 if match is None else float(match[1])
    return factor if 1 <= factor <= 16 else 2.0


def _encoded(stated: int, steps: NDArray[np.uint16], centers: NDArray[np.uint16]) -> int:
    """Encoding steps of the whole k-space: as stated, unless what was measured reaches further."""
    centre, last = int(centers[0]), int(steps.max())
    if 0 < stated < _MOST_LINES and centre <= stated // 2 and last - centre < stated - stated // 2:
        return stated
    return 2 * max(centre, last - centre + 1)


def _limit(steps: NDArray[np.uint16], centers: NDArray[np.uint16]) -> Limit:
    return Limit(int(steps.min()), int(steps.max()), int(centers[0]))


def _length(protocol: Mapping[str, float], name: str) -> float | None:
    value = protocol.get(name, 0)
    return value if 0 < value < 1e4 else None


def _times(length: float | None, factor: float) -> float | None:
    return None if length is None else length * factor


def _sample() -> bytes:
    """A scan of 8 lines and 2 channels, as of VD."""
    protocol = (
        b"### ASCCONV BEGIN ###\nsKSpace.lBaseResolution = 8\nsKSpace.lPhaseEncodingLines = 8\n### ASCCONV END ###"
    )
    text = struct.pack("<II", 0, 1) + b"MeasYaps\0" + struct.pack("<I", len(protocol)) + protocol
    header = struct.pack("<I", len(text)) + text[4:]
    lines = b""
    for number in range(8):
        head = np.zeros((), VD_HEADER)
        head["samples"], head["channels"], head["line"] = 16, 2, number
        head["center_column"], head["center_line"] = 8, 4
        head["quaternion"] = 1, 0, 0, 0
        samples = np.ones(16, "<c8").tobytes() if number == 4 else np.full(16, 0.01, "<c8").tobytes()
        lines += head.tobytes() + 2 * (bytes(CHANNEL_BYTES) + samples)
    end = np.zeros((), VD_HEADER)
    end["flags"] = Mask.END
    measurement = header + lines + end.tobytes()
    first = 10240
    directory = struct.pack("<IIIIQQ", 0, 1, 1, 1, first, len(measurement)).ljust(first, b"\0")
    return directory + measurement
