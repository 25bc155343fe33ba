"""Input format Bruker: a zip of a ParaVision 5 or 6 scan's folder, with fid, acqp and method, read as readouts."""

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.zip_archive import ZipMember, member_names, read_archive
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.ismrmrd_header import Space
from udig_recon.core.formats.readouts.reader import reader_of
from udig_recon.core.formats.readouts.readouts import (
    READOUT,
    Limit,
    ReadoutBlock,
    ReadoutEncoding,
    ReadoutHeader,
    Readouts,
    same_shape,
)

_MOST_PARAMETER_BYTES = 8 << 20
_MOST_NUMBERS = 1 << 16
_MOST_READOUTS = 1_000_000
_BLOCK = 1024  # bytes that scans are filled up to, in Standard_KBlock_Format
_LABEL = re.compile(r"^##\$(\w{1,64})=(.*)$")
_SIZES = re.compile(r"^\(\s*\d+(?:\s*,\s*\d+)*\s*\)")
_TOKEN = re.compile(r"@(\d{1,6})\*\(([^()\s]{1,40})\)|<[^>]*>|\(|\)|[^\s,()<>]+")
_NUMBERS = {"GO_32BIT_SGN_INT": "i4", "GO_16BIT_SGN_INT": "i2", "GO_32BIT_FLOAT": "f4"}
_OTHER_SEQUENCES = {"EPI": "EPI", "SPIRAL": "spiral", "UTE": "UTE", "ZTE": "ZTE", "RADIAL": "radial"}

Parameters = Mapping[str, tuple[str, ...]]


class Bruker:
    """A scan of a ParaVision console."""

    name = "Bruker"
    expected = "a zip of a Bruker scan's folder (fid, acqp, method)"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is an archive with raw data and their parameters."""
        names = member_names(file)
        return "acqp" in names and ("fid" in names or any(name.startswith("rawdata.job") for name in names))

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The one scan in the archive."""
        fid, parameters = _members(file)
        yield Contents("bruker", {}, reader=reader_of(_readouts(fid, parameters)))

    def samples(self) -> Sequence[bytes]:
        """A scan of eight lines."""
        acqp = "##$ACQ_size=( 2 )\n16 8\n##$GO_raw_data_format=GO_32BIT_SGN_INT\n##$GO_block_size=continuous\n"
        method = "##$PVM_Matrix=( 2 )\n8 8\n##$PVM_Fov=( 2 )\n20 20\n##$PVM_EncSteps1=( 8 )\n-4 -3 -2 -1 0 1 2 3\n"
        values = np.ones((8, 8, 2), "<i4")
        values[4, 4] = 99
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (("acqp", acqp), ("method", method), ("fid", values.tobytes())):
                archive.writestr(f"5/{name}", content)
        return (stream.getvalue(),)


FORMAT = Bruker()


def _members(file: ScanFile) -> tuple[ZipMember, Parameters]:
    """The raw data and all parameters. Raises UnreadableScan unless the archive holds one scan."""
    members = read_archive(file)
    scans = [member for member in members.values() if member.name == "fid"]
    if not scans and any(member.name.startswith("rawdata.job") for member in members.values()):
        raise UnknownFormat.at(
            "file",
            "Bruker raw data of ParaVision 360 (rawdata.job0), which are not read",
            "fid of ParaVision 5 or 6, or kspace (slices, coils, ky, kx) as .npz, sorted by ACQ_jobs and PVM_EncSteps1",
        )
    if len(scans) != 1:
        raise UnreadableScan.at("file", f"{len(scans)} files named fid", "the folder of one scan")
    (fid,) = scans
    beside = {member.name: member for member in members.values() if member.folder == fid.folder}
    if "acqp" not in beside:
        raise UnreadableScan.at("acqp", "none beside fid", "the folder of one scan, with fid, acqp and method")
    found: dict[str, tuple[str, ...]] = {}
    for name in ("acqp", "method"):
        if name in beside:
            found.update(parse_parameters(name, beside[name].text(_MOST_PARAMETER_BYTES)))
    return fid, found


def parse_parameters(name: str, text: str) -> dict[str, tuple[str, ...]]:
    """Parameters of a JCAMP-DX file by their names, as words. Raises UnreadableScan for too many values of one."""
    found: dict[str, tuple[str, ...]] = {}
    label, lines = "", list[str]()
    for line in (*text.splitlines(), "##END="):
        if line.startswith("$$"):
            continue
        if not line.startswith("##"):
            lines.append(line)
            continue
        if label:
            found[label] = _words(name, label, lines)
        match = _LABEL.match(line)
        label, lines = (match[1], [match[2]]) if match else ("", [])
    return found


def _words(name: str, label: str, lines: Sequence[str]) -> tuple[str, ...]:
    text = " ".join(lines)
    if sizes := _SIZES.match(text):
        text = text[sizes.end() :]
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        count = int(token[1]) if token[1] else 1
        if len(words) + count > _MOST_NUMBERS:
            raise UnreadableScan.at(name, f"more than {_MOST_NUMBERS} values of {label}", "fewer")
        words += count * [token[2] if token[1] else token[0]]
    return tuple(words)


def _numbers(parameters: Parameters, name: str) -> list[float]:
    """A parameter's numbers; none where it is missing. Raises UnreadableScan for what is no number."""
    try:
        found = [float(word) for word in parameters.get(name, ())]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(number) for number in found):
        raise UnreadableScan.at(name, "values that are no numbers", "numbers")
    return found


def _count(parameters: Parameters, name: str, default: int = 1) -> int:
    found = _numbers(parameters, name)
    if not found:
        return default
    if not 1 <= found[0] <= _MOST_NUMBERS or found[0] != int(found[0]):
        raise UnreadableScan.at(name, f"{found[0]:g}", f"a whole number of 1 to {_MOST_NUMBERS}")
    return int(found[0])


@dataclass(frozen=True)
class _Loops:
    """How often what is measured, from the outermost loop to the innermost."""

    repetitions: int
    partitions: int
    shots: int  # of `factor` lines each
    objects: int  # slices x echo images
    factor: int
    receivers: int
    samples: int  # complex numbers
    number: np.dtype[np.generic]
    block: int  # bytes of a readout of all receivers

    @property
    def lines(self) -> int:
        """Readouts of one object and partition."""
        return self.shots * self.factor

    @property
    def readouts(self) -> int:
        """All readouts."""
        return self.repetitions * self.partitions * self.lines * self.objects


class BrukerReadouts(Readouts):
    """A scan whose readouts lie one after the other."""

    def __init__(self, fid: ScanFile, loops: _Loops, header: ReadoutHeader, lines: NDArray[np.void]) -> None:
        super().__init__(header, lines)
        self._stream, self._loops = fid.stream(), loops

    def blocks(self, indices: NDArray[np.intp]) -> Iterator[ReadoutBlock]:
        """The readouts of these numbers, in that order, in blocks of a few MiB."""
        loops = self._loops
        size = loops.receivers * 2 * loops.samples * loops.number.itemsize
        for part in same_shape(self.lines, indices):
            content = np.empty((len(part), size), np.uint8)
            for row, index in zip(content, part, strict=True):
                self._stream.seek(int(index) * loops.block)
                read = self._stream.read(size)
                if len(read) != size:
                    raise EOFError("fid ends early")
                row[:] = np.frombuffer(read, np.uint8)
            values = content.view(loops.number).astype(np.float32).view(np.complex64)
            yield ReadoutBlock(part, values.reshape(len(part), loops.receivers, loops.samples), None)


def _readouts(fid: ZipMember, parameters: Parameters) -> BrukerReadouts:
    _refuse_other_sequences(parameters)
    loops = _loops(fid, parameters)
    fid.check_crc()
    is_3d = loops.partitions > 1
    rows = _steps(parameters, "1", loops.lines, factor=loops.factor)
    partitions = _steps(parameters, "2", loops.partitions, factor=1) if is_3d else np.zeros(1, np.int64)
    encoding = _encoding(parameters, loops, rows, partitions)
    _, y, z = encoding.encoded.matrix
    lines = np.zeros(loops.readouts, READOUT)
    lines["samples"], lines["coils"] = loops.samples, loops.receivers
    lines["center_sample"] = max(0, loops.samples - encoding.encoded.matrix[0] // 2)
    shape = (loops.repetitions, loops.partitions, loops.shots, loops.objects, loops.factor)
    repetition, partition, shot, item, echo = (each.reshape(-1) for each in np.indices(shape))
    slices, contrasts = _objects(parameters, loops.objects)
    lines["repetition"] = repetition
    lines["kspace_encode_step_1"] = rows[shot * loops.factor + echo] + y // 2
    lines["kspace_encode_step_2"] = partitions[partition] + z // 2 if is_3d else 0
    lines["slice"], lines["contrast"] = slices[item], contrasts[item]
    return BrukerReadouts(fid.open(), loops, ReadoutHeader(encodings=(encoding,)), lines)


def _refuse_other_sequences(parameters: Parameters) -> None:
    words = " ".join((*parameters.get("Method", ()), *parameters.get("ACQ_method", ()))).upper()
    for word, name in _OTHER_SEQUENCES.items():
        if word in words:
            expected = "a Cartesian sequence of single lines or RARE; of others, ParaVision's own images"
            raise UnsupportedScan.at("trajectory", name, expected)
    described = parameters.get("ACQ_dim_desc", ())
    if any(word != "Spatial" for word in described):
        raise UnsupportedScan.at("ACQ_dim_desc", "a dimension that is not spatial", "an image, not a spectrum")


def _loops(fid: ZipMember, parameters: Parameters) -> _Loops:
    """The loops of a scan. Raises UnreadableScan where they do not make up the raw data's size."""
    sizes = _numbers(parameters, "ACQ_size")
    if len(sizes) not in (2, 3) or not all(1 <= size <= _MOST_NUMBERS and size == int(size) for size in sizes):
        raise UnreadableScan.at("ACQ_size", f"{len(sizes)} numbers", "2 or 3 whole numbers")
    reals, lines, partitions = (*(int(size) for size in sizes), 1)[:3]
    if reals % 2:
        raise UnreadableScan.at("ACQ_size", f"{reals} numbers in a readout", "real and imaginary parts, an even number")
    format_ = next(iter(parameters.get("GO_raw_data_format", ())), "GO_32BIT_SGN_INT")
    if format_ not in _NUMBERS:
        raise UnreadableScan.at("GO_raw_data_format", "another format", f"one of {', '.join(_NUMBERS)}")
    order = ">" if parameters.get("BYTORDA") == ("big",) else "<"
    number = np.dtype(order + _NUMBERS[format_])
    factor = _count(parameters, "ACQ_phase_factor")
    if lines % factor:
        raise UnreadableScan.at("ACQ_phase_factor", f"{factor} for {lines} lines", "a divisor of the lines")
    selected = sum(word == "Yes" for word in parameters.get("ACQ_ReceiverSelect", ()))
    receivers = _count(parameters, "PVM_EncNReceivers", max(1, selected))
    block = receivers * reals * number.itemsize
    if parameters.get("GO_block_size", ("Standard_KBlock_Format",)) == ("Standard_KBlock_Format",):
        block = -(-block // _BLOCK) * _BLOCK
    loops = _Loops(
        repetitions=_count(parameters, "NR"),
        partitions=partitions,
        shots=lines // factor,
        objects=_count(parameters, "NI"),
        factor=factor,
        receivers=receivers,
        samples=reals // 2,
        number=number,
        block=block,
    )
    if loops.readouts > _MOST_READOUTS:
        raise UnreadableScan.at("acqp", f"{loops.readouts} readouts", f"at most {_MOST_READOUTS}")
    if fid.size != loops.readouts * block:
        raise UnreadableScan.at(
            "fid",
            f"{fid.size} bytes",
            f"{loops.readouts * block} bytes: {loops.readouts} readouts of {receivers} receivers, {block} bytes each",
        )
    return loops


def _steps(parameters: Parameters, axis: str, count: int, *, factor: int) -> NDArray[np.int64]:
    """Encoding steps in the order of time, 0 at the zero frequency."""
    told = _numbers(parameters, f"PVM_EncSteps{axis}")
    if len(told) == count:
        steps = np.array(told)
    elif len(phases := _numbers(parameters, f"ACQ_spatial_phase_{axis}")) == count:
        steps = np.round(np.array(phases) * (count / 2))
    elif factor > 1:
        expected = f"{count} numbers, one for each line: RARE measures lines in another order"
        raise UnreadableScan.at(f"PVM_EncSteps{axis}", f"{len(told)} numbers", expected)
    else:
        steps = np.arange(count) - count // 2
    if np.abs(steps).max() >= _MOST_NUMBERS // 2 or (steps != np.round(steps)).any():
        raise UnreadableScan.at(f"PVM_EncSteps{axis}", "steps that are no small whole numbers", "whole numbers")
    return steps.astype(np.int64)


def _encoding(
    parameters: Parameters, loops: _Loops, rows: NDArray[np.int64], partitions: NDArray[np.int64]
) -> ReadoutEncoding:
    """k-space and the image: PVM_Matrix of PVM_Fov, more of both where there is PVM_AntiAlias."""
    axes = 3 if loops.partitions > 1 else 2
    matrix = _numbers(parameters, "PVM_Matrix")[:axes]
    fov = _numbers(parameters, "PVM_Fov") or [10 * length for length in _numbers(parameters, "ACQ_fov")]
    more = _numbers(parameters, "PVM_AntiAlias")
    finer = _numbers(parameters, "PVM_EncZf")
    if len(matrix) < axes or not all(1 <= side < _MOST_NUMBERS for side in matrix):
        sides = loops.samples, 2 * max(1, int(np.abs(rows).max())), loops.partitions
        matrix = [float(side) for side in sides[:axes]]
    wide = [_at(more, axis) for axis in range(axes)]
    encoded = [max(1, round(side * wide[axis] / _at(finer, axis))) for axis, side in enumerate(matrix)]
    encoded[0] = max(encoded[0], loops.samples)
    for axis, steps in ((1, rows), (2, partitions))[: axes - 1]:
        reach = max(-int(steps.min()), int(steps.max()) + 1)
        if -int(steps.min()) > encoded[axis] // 2 or int(steps.max()) >= encoded[axis] - encoded[axis] // 2:
            encoded[axis] = 2 * reach
    lengths = [length if 0 < length < 1e4 else None for length in fov[:axes]] + [None] * (axes - len(fov[:axes]))
    distance = _numbers(parameters, "PVM_SPackArrSliceDistance") or _numbers(parameters, "PVM_SliceThick")
    across = distance[0] if distance and 0 < distance[0] < 1e4 else None
    depth = lengths[2] if axes == 3 else across
    full = [None if length is None else length * wide[axis] for axis, length in enumerate(lengths)]
    whole = (encoded[0], encoded[1], encoded[2] if axes == 3 else 1)
    kept = [max(1, round(side / wide[axis])) for axis, side in enumerate(encoded)]
    return ReadoutEncoding(
        encoded=Space(whole, (full[0], full[1], full[2] if axes == 3 else across)),
        recon=Space((kept[0], kept[1], kept[2] if axes == 3 else 1), (lengths[0], lengths[1], depth)),
        limits={
            "kspace_encoding_step_1": _limit(rows, whole[1]),
            "kspace_encoding_step_2": _limit(partitions, whole[2]),
        },
    )


def _at(numbers: Sequence[float], axis: int) -> float:
    """A factor of an axis, 1 where none is told or it cannot be."""
    return numbers[axis] if axis < len(numbers) and 1 <= numbers[axis] <= 16 else 1.0


def _limit(steps: NDArray[np.int64], side: int) -> Limit:
    return Limit(int(steps.min()) + side // 2, int(steps.max()) + side // 2, side // 2)


def _objects(parameters: Parameters, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slice, by its offset, and contrast of the objects in the order of time."""
    contrasts = _count(parameters, "ACQ_n_echo_images")
    slices = _count(parameters, "NSLICES", max(1, count // contrasts))
    if slices * contrasts != count:
        found = f"{count} objects (NI) of {slices} slices and {contrasts} echoes"
        raise UnsupportedScan.at("NI", found, "slices x echoes: choose one movie frame, phase or flow encoding")
    order = _numbers(parameters, "ACQ_obj_order")
    if sorted(order) != list(range(count)):
        order = list(range(count))
    objects = np.array(order, np.int64)
    offsets = _numbers(parameters, "ACQ_slice_offset")
    places = np.arange(slices)
    if len(offsets) == slices:
        places[np.argsort(offsets, kind="stable")] = np.arange(slices)
    return places[objects // contrasts], objects % contrasts
