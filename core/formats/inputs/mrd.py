"""Input format MRD (ISMRMRD): raw data of an MRI scanner, line by line, in HDF5.

A group of the file holds a measurement: `xml`, its header, and `data`, a compound of `head`, `traj` and `data`, of
which the last two are of variable length. Each line is usually a chunk of its own.
"""

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.hdf5_arrays import OpenedHdf5, find_hdf5, open_hdf5, open_inside
from udig_recon.core.formats.containers.hdf5_chunks import FILTERS, GZIP, SHUFFLE, read_filters
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.readouts.mrd_head import HEAD, MOST_COILS, MOST_READOUTS, readouts_of
from udig_recon.core.formats.readouts.mrd_header import read_mrd_header
from udig_recon.core.formats.readouts.reader import reader_of
from udig_recon.core.formats.readouts.readouts import (
    READOUT,
    Flag,
    ReadoutBlock,
    ReadoutHeader,
    Readouts,
    same_shape,
)

_MOST_HEADER_BYTES = 1 << 20
_MOST_GROUPS = 64
_MOST_CHUNK_BYTES = 16 << 20
_ROWS_AT_A_TIME = 4096
_VARIABLE = ("traj", "data")


class Mrd:
    """HDF5 with groups of `xml` and `data`."""

    name = "MRD"
    expected = "MRD (ISMRMRD) raw data"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is HDF5 with a measurement, and without arrays of other names that are read."""
        if not find_hdf5(file):
            return False
        with open_hdf5(file) as opened:
            root = set(opened.file)
            return not root & {"kspace", "sinogram"} and bool(_measurements(opened.file))

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The last measurement that holds lines of an image; noise of an earlier one goes with it."""
        with open_hdf5(file) as opened:
            measurement = last_with_an_image(_read_measurements(opened, file))
            yield Contents("mrd", {}, reader=reader_of(measurement), identity=measurement.header.identity)

    def samples(self) -> Sequence[bytes]:
        """Noise, and an image of two coils with reversed and oversampled readouts."""
        return (_sample(),)


FORMAT = Mrd()


SAMPLE_XML = (
    "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>16</x><y>8</y></matrixSize></encodedSpace>"
    "<reconSpace><matrixSize><x>8</x><y>8</y></matrixSize></reconSpace></encoding></ismrmrdHeader>"
)


def sample_lines() -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Heads (9,) and samples (9, 2 coils x 16 complex) of noise and of an image, for the samples of formats."""
    heads = np.zeros(9, HEAD)
    heads["number_of_samples"], heads["active_channels"], heads["center_sample"] = 16, 2, 8
    heads["idx"]["kspace_encode_step_1"][1:] = np.arange(8)
    heads["flags"][0], heads["flags"][1] = Flag.NOISE, Flag.REVERSE
    heads["center_sample"][1] = 7
    return heads, np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)


def _sample() -> bytes:
    floats = h5py.vlen_dtype(np.dtype("<f4"))
    rows = np.empty(9, [("head", HEAD), ("traj", floats), ("data", floats)])
    rows["head"], values = sample_lines()
    for index, line in enumerate(values):
        rows["traj"][index], rows["data"][index] = line[:0], line
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        how = {"chunks": (4,), "maxshape": (None,), "compression": "gzip", "shuffle": True}
        file.create_dataset("dataset/data", data=rows, **how)
        file.create_dataset("dataset/xml", data=np.array([SAMPLE_XML], object), dtype=h5py.string_dtype())
    return stream.getvalue()


class MrdReadouts(Readouts):
    """A measurement in an MRD file."""

    def __init__(
        self,
        dataset: h5py.Dataset,
        header: ReadoutHeader,
        lines: NDArray[Any],
        noise: Readouts | None,
        warnings: tuple[str, ...],
    ) -> None:
        super().__init__(header, lines, noise, warnings)
        self._dataset = dataset
        self._names = [name for name in _VARIABLE if name in (dataset.dtype.fields or {})]

    def blocks(self, indices: NDArray[np.intp]) -> Iterator[ReadoutBlock]:
        """The readouts of these numbers, in that order, in blocks of a few MiB."""
        for part in same_shape(self.lines, indices):
            ascending = np.argsort(part, kind="stable")
            ordered = part[ascending]
            consecutive = ordered[-1] - ordered[0] + 1 == len(ordered)
            cut = slice(int(ordered[0]), int(ordered[-1]) + 1) if consecutive else ordered
            rows = self._dataset.fields(self._names)[cut]
            back = np.argsort(ascending, kind="stable")
            line = self.lines[part[0]]
            coils, samples, dimensions = (int(line[name]) for name in ("coils", "samples", "trajectory_dimensions"))
            values = np.stack([np.asarray(row, np.float32) for row in rows["data"][back]])
            trajectory = None
            if dimensions and "traj" in self._names:
                places = np.stack([np.asarray(row, np.float32) for row in rows["traj"][back]])
                trajectory = places.reshape(len(part), samples, dimensions)
            complex_ = values.view(np.complex64).reshape(len(part), coils, samples)
            yield ReadoutBlock(part, complex_, trajectory)


def _measurements(file: h5py.File) -> list[str]:
    """Names of the groups that hold a measurement, in the order of their numbers."""
    found = []
    for name in list(file)[:_MOST_GROUPS]:
        if file.get(name, getclass=True) is not h5py.Group:
            continue
        group = file[name]
        if all(group.get(each, getclass=True) is h5py.Dataset for each in ("xml", "data")):
            found.append(name)
    return sorted(found, key=_number)


def _number(name: str) -> tuple[int, str]:
    """Siemens' converter names measurements dataset, dataset_1, dataset_2 ... in the order of time."""
    found = re.fullmatch(r".*?_?(\d{1,9})", name)
    return (int(found[1]) if found else 0, name)


def _read_measurements(opened: OpenedHdf5, file: ScanFile) -> list[Readouts]:
    """The measurements in their order, each with the one before it."""
    found: list[Readouts] = []
    for name in _measurements(opened.file):
        found.append(_measurement(opened.file, name, file, found[-1] if found else None))
    return found


def last_with_an_image(measurements: Sequence[Readouts]) -> Readouts:
    """The last measurement with readouts of an image, or else the last. Raises UnreadableScan where there is none."""
    if not measurements:
        raise UnreadableScan.at("file", "no readouts", "a measurement: a header and readouts")
    chosen = next((each for each in reversed(measurements) if _holds_image(each.lines)), measurements[-1])
    if len(measurements) > 1:
        chosen.warnings = (
            *chosen.warnings,
            f"the file holds {len(measurements)} measurements: the last one with readouts of an image is read",
        )
    return chosen


def _holds_image(lines: NDArray[Any]) -> bool:
    others = ~np.uint64(Flag.CALIBRATION_AND_IMAGE | Flag.REVERSE)
    known = np.uint64(sum(Flag))
    return bool(((lines["flags"] & known & others) == 0).any())


def _measurement(file: h5py.File, name: str, scan: ScanFile, before: Readouts | None) -> Readouts:
    header = read_mrd_header(_xml(file, f"{name}/xml"))
    dataset = open_inside(file, f"{name}/data")
    _check_dataset(dataset)
    lines, lengths = _read_rows(dataset, scan)
    _check_lengths(lines, lengths, scan)
    return MrdReadouts(dataset, header, lines, before, ())


def _xml(file: h5py.File, path: str) -> bytes:
    """The header's text."""
    dataset = open_inside(file, path)
    expected = f"one XML text of at most {_MOST_HEADER_BYTES} bytes"
    if dataset.shape not in ((), (1,)) or h5py.check_string_dtype(dataset.dtype) is None or read_filters(dataset):
        raise UnreadableScan.at("xml", f"shape {dataset.shape}", expected)
    if dataset.dtype.itemsize > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("xml", f"{dataset.dtype.itemsize} bytes", expected)
    value = np.asarray(dataset[()], dtype=object).reshape(-1)[0]
    text = value if isinstance(value, bytes) else str(value).encode()
    if len(text) > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("xml", f"{len(text)} bytes", expected)
    return text


def _check_dataset(dataset: h5py.Dataset) -> None:
    """Raise UnreadableScan unless the dataset is a list of lines whose rows can be looked at one by one."""
    expected = "a list of lines: a compound of head, traj and data"
    if dataset.shape is None or len(dataset.shape) != 1:
        raise UnreadableScan.at("data", f"shape {dataset.shape}", expected)
    if not 0 < dataset.shape[0] <= MOST_READOUTS:
        raise UnreadableScan.at("data", f"{dataset.shape[0]} readouts", f"1 to {MOST_READOUTS}")
    kind = dataset.id.get_type()
    if not isinstance(kind, h5py.h5t.TypeCompoundID):
        raise UnreadableScan.at("data", "values that are no compound", expected)
    members = {kind.get_member_name(index): kind.get_member_type(index) for index in range(kind.get_nmembers())}
    if not isinstance(members.get(b"head"), h5py.h5t.TypeCompoundID) or b"data" not in members:
        raise UnreadableScan.at("data", "a compound without head and data", expected)
    for name in map(str.encode, _VARIABLE):
        member = members.get(name)
        if member is None and name != b"data":
            continue
        base = member.get_super() if isinstance(member, h5py.h5t.TypeVlenID) else None
        if not isinstance(base, h5py.h5t.TypeFloatID) or base.get_size() != 4:
            found = f"{name.decode()} of another type"
            raise UnreadableScan.at("data", found, "float32 numbers of variable length")
    unknown = [code for code in read_filters(dataset) if code not in (GZIP, SHUFFLE)]
    if unknown:
        found = FILTERS.get(unknown[0], f"filter {unknown[0]}")
        raise UnreadableScan.at("data", f"lines packed by {found}", "gzip, or nothing (h5repack -f NONE)")
    size = kind.get_size()
    if size > 1 << 16 or (dataset.chunks and dataset.chunks[0] * size > _MOST_CHUNK_BYTES):
        raise UnreadableScan.at("data", "chunks of many MiB", f"chunks of at most {_MOST_CHUNK_BYTES} bytes")


def _read_rows(dataset: h5py.Dataset, scan: ScanFile) -> tuple[NDArray[Any], dict[str, NDArray[np.int64]]]:
    """What each line tells of itself, as READOUT, and the lengths of its members of variable length.

    They are taken from the rows as the file holds them: HDF5 would follow each length even to read the heads alone.
    """
    kind = dataset.id.get_type()
    members = {kind.get_member_name(index): index for index in range(kind.get_nmembers())}
    head = kind.get_member_type(members[b"head"])
    layout, start = head.dtype, kind.get_member_offset(members[b"head"])
    if layout.hasobject or layout.itemsize != head.get_size():
        raise UnreadableScan.at("data", "a head with members of variable length", "an ISMRMRD acquisition header")
    offsets = {name: kind.get_member_offset(members[name.encode()]) for name in _VARIABLE if name.encode() in members}
    count, size = dataset.shape[0], kind.get_size()
    lines = np.zeros(count, READOUT)
    lengths = {name: np.zeros(count, np.int64) for name in offsets}
    for first, content in _raw_rows(dataset, size, scan):
        raw = np.frombuffer(content, np.uint8).reshape(-1, size)[: count - first]
        cut = slice(first, first + len(raw))
        heads = raw[:, start : start + layout.itemsize].copy().view(layout)[:, 0]
        lines[cut] = readouts_of(heads)
        for name, offset in offsets.items():
            lengths[name][cut] = raw[:, offset : offset + 4].copy().view("<u4")[:, 0]
    return lines, lengths


def _check_lengths(lines: NDArray[Any], lengths: dict[str, NDArray[np.int64]], scan: ScanFile) -> None:
    """Compare the lengths of lines, which stand in their rows, with what their heads tell, before any is followed.

    Many rows may point to the same bytes: all together must not be longer than the file.
    """
    samples, coils = lines["samples"].astype(np.int64), lines["coils"].astype(np.int64)
    if coils.max() > MOST_COILS:
        raise UnreadableScan.at("data", f"readouts of {coils.max()} coils", f"at most {MOST_COILS}")
    for name, needed in (("data", 2 * samples * coils), ("traj", samples * lines["trajectory_dimensions"])):
        if name not in lengths:
            if needed.any():
                lines["trajectory_dimensions"] = 0
            continue
        wrong = np.flatnonzero(lengths[name] != needed)
        if len(wrong):
            at = int(wrong[0])
            raise UnreadableScan.at(
                "data",
                f"{lengths[name][at]} numbers in {name} of readout {at}",
                f"{needed[at]}, of {samples[at]} samples, {coils[at]} coils and "
                f"{lines['trajectory_dimensions'][at]} dimensions of the trajectory",
            )
    total = 4 * sum(int(each.sum()) for each in lengths.values())
    if total > scan.size:
        raise UnreadableScan.at("data", f"readouts of {total} bytes in a file of {scan.size}", "no more than the file")


def _raw_rows(dataset: h5py.Dataset, size: int, scan: ScanFile) -> Iterator[tuple[int, bytes]]:
    """The rows as the file holds them, with the number of the first of each piece."""
    count = dataset.shape[0]
    if dataset.chunks is None:
        place, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if place is None or stored != count * size:
            raise UnreadableScan.at("data", f"{stored} stored bytes", f"{count * size} bytes, in the file itself")
        with scan.stream() as stream:
            stream.seek(place)
            for first in range(0, count, _ROWS_AT_A_TIME):
                rows = min(_ROWS_AT_A_TIME, count - first)
                content = stream.read(rows * size)
                if len(content) != rows * size:
                    raise UnreadableScan.at("data", "rows beyond the end of the file", "a whole file")
                yield first, content
        return
    chunk, codes = dataset.chunks[0], read_filters(dataset)
    stored_chunks: list[Any] = []
    dataset.id.chunk_iter(stored_chunks.append)
    for each in stored_chunks:
        if each.size > chunk * size + 4096:
            raise UnreadableScan.at("data", f"{each.size} bytes for a chunk of {chunk} readouts", f"{chunk * size}")
        skipped, content = dataset.id.read_direct_chunk(each.chunk_offset)
        for bit, code in reversed(list(enumerate(codes))):
            if skipped >> bit & 1:
                continue
            content = _unpacked(content, chunk * size) if code == GZIP else _unshuffled(content, size)
        if len(content) != chunk * size:
            raise UnreadableScan.at("data", f"a chunk of {len(content)} bytes", f"{chunk * size}")
        yield each.chunk_offset[0], content


def _unpacked(content: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(content, size + 1)


def _unshuffled(content: bytes, size: int) -> bytes:
    whole = len(content) // size * size
    mixed = np.frombuffer(content[:whole], np.uint8).reshape(size, -1)
    return mixed.T.tobytes() + content[whole:]
