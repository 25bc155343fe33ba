"""Reading of scan files: which format recognises a file, and what is probed, prepared or read of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from udig_recon.core.acquisition import Acquisition, ScanHeader
from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.gzip_file import unpack
from udig_recon.core.formats.containers.scan_file import ScanFile, open_scan_file
from udig_recon.core.formats.header_identity import identity_of_header
from udig_recon.core.formats.input_format import ArrayReader, AssemblingReader, Contents, InputFormat, printable_names
from udig_recon.core.formats.kspace import noncartesian
from udig_recon.core.formats.kspace import reader as kspace
from udig_recon.core.formats.kspace.layouts import arrange
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits, damage_as_unreadable
from udig_recon.core.formats.prepared import ReservedArrays, write_prepared
from udig_recon.core.formats.registry import input_formats
from udig_recon.core.formats.sinogram import reader as sinogram
from udig_recon.core.formats.sinogram.view_axis import arrange_views
from udig_recon.core.formats.unsupported import START_BYTES, recognise
from udig_recon.core.identity import Identity


class _OpenedScan(NamedTuple):
    """A scan file that is open, and the module that reads its arrays."""

    contents: Contents
    reader: ArrayReader


def probe(path: Path, limits: Limits = DEFAULT_LIMITS) -> ScanHeader:
    """Look at every value of a scan file, a few MiB at a time.

    Raises UnknownFormat when it is no scan file, UnreadableScan when its content is broken, contradictory or points
    outside the file, UnsupportedScan when it is beyond the limits.
    """
    with open_scan_file(path) as file:
        return probe_file(file, limits)


def probe_file(file: ScanFile, limits: Limits = DEFAULT_LIMITS) -> ScanHeader:
    """`probe` of a file that is open."""
    with _open(unpack(file)) as opened:
        _check_sizes(opened, limits)
        return _probe(opened)


def _check_sizes(opened: _OpenedScan, limits: Limits) -> None:
    contents, reader = opened
    reader.check_limits(contents, limits)
    for source in contents.arrays.values():
        source.check_stored()


def _probe(opened: _OpenedScan) -> ScanHeader:
    contents, reader = opened
    header = reader.probe(contents)
    return replace(
        header,
        frames=contents.frames or header.frames,
        averages=contents.averages or header.averages,
        corrections=(*contents.corrections, *header.corrections),
        warnings=(*_warnings(contents, reader), *header.warnings),
    )


def prepare(file: ScanFile, limits: Limits, source_sha256: str, descriptor: int) -> ScanHeader:
    """Probe an open file and write its content, slice by slice, as a prepared scan.

    Raises what `probe` raises, and NotWritten.
    """
    with _open(unpack(file)) as opened:
        contents, reader = opened
        _check_sizes(opened, limits)
        reserved = ReservedArrays(descriptor)
        if isinstance(reader, AssemblingReader):
            reader.assemble(contents, reserved)
        header = _probe(opened)
        count = reader.slice_count(contents)
        write_prepared(
            descriptor,
            asdict(header),
            source_sha256,
            lambda index: reader.read(contents, [index]),
            count,
            reserved,
            _identity(contents),
        )
    return header


def _identity(contents: Contents) -> Identity:
    """Who was scanned, as the file tells it."""
    if contents.header_xml is not None and not contents.identity:
        return identity_of_header(contents.header_xml)
    return contents.identity


def read(path: Path, slices: Sequence[int] | None = None) -> Acquisition:
    """Read the wanted slices, or all, of a file that `probe` has accepted."""
    with open_scan_file(path) as file, _open(unpack(file)) as (contents, reader):
        count = reader.slice_count(contents)
        wanted = range(count) if slices is None else slices
        for index in wanted:
            if not 0 <= index < count:
                raise UnsupportedScan.at("slices", str(index), f"0 to {count - 1}")
        return reader.read(contents, wanted)


@contextmanager
def _open(file: ScanFile) -> Iterator[_OpenedScan]:
    """The file, opened by the first format that recognises it."""
    for format_ in input_formats():
        if _recognises(format_, file):
            with damage_as_unreadable(format_.name), format_.open(file) as contents:
                reader = _reader(contents, format_)
                if reader is kspace:
                    contents = arrange(contents)
                elif reader is sinogram:
                    contents = arrange_views(contents)
                yield _OpenedScan(contents, reader)
            return
    start = file.start(START_BYTES)
    if (known := recognise(start)) is not None:
        raise UnknownFormat.at("file", known.name, known.remedy)
    expected = ", or ".join(format_.expected for format_ in input_formats())
    raise UnknownFormat.at("file", _likeness(start), expected)


def _recognises(format_: InputFormat, file: ScanFile) -> bool:
    """Whether the file is of this format; a format that fails over the bytes of a damaged file does not say so."""
    try:
        with damage_as_unreadable(format_.name):
            return format_.sniff(file)
    except UnreadableScan:
        return False


def _reader(contents: Contents, format_: InputFormat) -> ArrayReader:
    """The format's own reader, or else the module for the file's modality."""
    if contents.reader is not None:
        return contents.reader
    match "kspace" in contents.arrays, "sinogram" in contents.arrays:
        case True, True:
            raise UnreadableScan.at("file", "both kspace and sinogram", "one of them")
        case True, False:
            return noncartesian if "trajectory" in contents.arrays else kspace
        case False, True:
            return sinogram
    if (known := contents.unsupported) is not None:
        raise UnknownFormat.at("file", known.name, known.remedy)
    names = printable_names((*contents.arrays, *contents.attributes, *contents.unused))
    found = f"a file of {format_.name} format without kspace or sinogram (it holds {names})"
    raise UnknownFormat.at("file", found, format_.expected)


def _warnings(contents: Contents, reader: ArrayReader) -> list[str]:
    """Warnings of how the file was understood, and of what in it is not used: somebody may have meant it to be."""
    warnings = [f"{theirs} is read as {ours}" for theirs, ours in contents.renamed]
    warnings += contents.warnings
    of_another_modality = [name for name in (*contents.arrays, *contents.attributes) if name not in reader.USED]
    unused = [*of_another_modality, *contents.unused]
    if unused:
        warnings.append(f"not used, as these names mean nothing here: {printable_names(unused)}")
    return warnings


def _likeness(start: bytes) -> str:
    """What a file of no known format looks like, for the message."""
    if not start:
        return "an empty file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:256]):
        return "text"
    return "bytes of no known format"
