"""Input format MRD (ISMRMRD): raw data of an MRI scanner, line by line, in HDF5.

A group of the file holds a measurement: `xml`, its header, and `data`, a compound of `head`, `traj` and `data`, of
which the last two are of variable length. Each line is usually a chunk of its own.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.hdf5_arrays import OpenedHdf5, find_hdf5, open_hdf5, open_inside
from udig_recon.core.formats.containers.hdf5_chunks import FILTERS, GZIP, SHUFFLE, read_filters
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents
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

MOST_READOUTS = 250_000
"""HDF5's index takes 2 KiB of memory for each of them, where each is a chunk."""

_MOST_HEADER_BYTES = 1 << 20
_MOST_COILS = 1024
_MOST_GROUPS = 64
_MOST_CHUNK_BYTES = 16 << 20
_ROWS_AT_A_TIME = 4096
_COUNTERS = (
    *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set"),
    "segment",
)
_NAMES = {"samples": "number_of_samples", "coils": "active_channels", "encoding": "encoding_space_ref"}


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
            yield Contents("mrd", {}, reader=reader_of(_last_measurement(opened, file)))

    def samples(self) -> Sequence[bytes]:
        """Two lines of two coils."""
        return ()


FORMAT = Mrd()


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
        self._names = [name for name in ("traj", "data") if name in (dataset.dtype.fields or {})]

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


def _last_measurement(opened: OpenedHdf5, file: ScanFile) -> Readouts:
    """The last measurement with readouts of an image, with the one before it that holds noise."""
    names = _measurements(opened.file)
    measurement: Readouts | None = None
    found: Readouts | None = None
    for name in names:
        measurement = _measurement(opened.file, name, file, measurement)
        if _holds_image(measurement.lines):
            found = measurement
    chosen = found if found is not None else measurement
    if chosen is None:
        raise UnreadableScan.at("file", "no measurement", "a group of xml and data")
    if len(names) > 1:
        chosen.warnings = (
            *chosen.warnings,
            f"the file holds {len(names)} measurements: the last one with readouts of an image is read",
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
    lines = _lines(dataset)
    _check_lengths(dataset, lines, scan)
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
    for name in (b"traj", b"data"):
        member = members.get(name)
        if member is None and name == b"traj":
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


def _lines(dataset: h5py.Dataset) -> NDArray[Any]:
    """What each line tells of itself, as READOUT."""
    count = dataset.shape[0]
    lines = np.zeros(count, READOUT)
    heads = dataset.fields("head")
    for first in range(0, count, _ROWS_AT_A_TIME):
        cut = slice(first, min(first + _ROWS_AT_A_TIME, count))
        rows = heads[cut]
        counters = _member(rows, "idx")
        for name in READOUT.names or ():
            source = counters if name in _COUNTERS else rows
            lines[name][cut] = _values(source, _NAMES.get(name, name), READOUT[name])
    return lines


def _member(rows: NDArray[Any], name: str) -> NDArray[Any]:
    if rows.dtype.names is None or name not in rows.dtype.names:
        raise UnreadableScan.at("data", f"a head without {name}", "the members of an ISMRMRD acquisition header")
    member: NDArray[Any] = rows[name]
    return member


def _values(rows: NDArray[Any], name: str, wanted: np.dtype[Any]) -> NDArray[Any]:
    values = _member(rows, name)
    if values.dtype.kind not in "iuf" or values.shape[1:] != wanted.shape:
        raise UnreadableScan.at("data", f"{name} of another type", f"{wanted.base} of shape {wanted.shape}")
    if wanted.base.kind == "u":
        with np.errstate(invalid="ignore"):
            converted = values.astype(wanted.base)
        if (converted != values).any():
            raise UnreadableScan.at("data", f"{name} out of range", f"{wanted.base}")
        return converted
    return values


def _check_lengths(dataset: h5py.Dataset, lines: NDArray[Any], scan: ScanFile) -> None:
    """Compare the lengths of lines, which stand in their rows, with what their heads tell, before any is followed.

    Many rows may point to the same bytes: all together must not be longer than the file.
    """
    lengths = _lengths(dataset, scan)
    samples, coils = lines["samples"].astype(np.int64), lines["coils"].astype(np.int64)
    if coils.max() > _MOST_COILS:
        raise UnreadableScan.at("data", f"readouts of {coils.max()} coils", f"at most {_MOST_COILS}")
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


@dataclass(frozen=True)
class _Rows:
    """How a dataset's rows lie in the file."""

    size: int
    offsets: Mapping[str, int]  # of the members of variable length, which begin with their length


def _lengths(dataset: h5py.Dataset, scan: ScanFile) -> dict[str, NDArray[np.int64]]:
    """Lengths of the members of variable length, as the rows tell them."""
    kind = dataset.id.get_type()
    members = {kind.get_member_name(index): index for index in range(kind.get_nmembers())}
    rows = _Rows(
        kind.get_size(),
        {name: kind.get_member_offset(members[name.encode()]) for name in ("traj", "data") if name.encode() in members},
    )
    count = dataset.shape[0]
    lengths = {name: np.zeros(count, np.int64) for name in rows.offsets}
    for first, content in _raw_rows(dataset, rows.size, scan):
        raw = np.frombuffer(content, np.uint8).reshape(-1, rows.size)[: count - first]
        for name, offset in rows.offsets.items():
            lengths[name][first : first + len(raw)] = raw[:, offset : offset + 4].copy().view("<u4")[:, 0]
    return lengths


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
