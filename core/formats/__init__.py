"""Scan files, recognised by their content: `probe` looks at all of a file, `read` takes slices of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from udig_recon.core.acquisition import Acquisition, Modality, ScanHeader
from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers import hdf5, npy
from udig_recon.core.formats.containers.arrays import Contents, shown_names
from udig_recon.core.formats.containers.source import ScanFile, opened_file
from udig_recon.core.formats.containers.unsupported import START_BYTES, foreign
from udig_recon.core.formats.kspace import reader as mri
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits, damage_is_unreadable
from udig_recon.core.formats.prepared import write_prepared
from udig_recon.core.formats.sandbox.client import Prober
from udig_recon.core.formats.sinogram import reader as ct

__all__ = ["Limits", "Prober", "probe", "read"]

_OPENERS = {
    hdf5.SIGNATURE: ("HDF5", hdf5.opened),
    npy.SIGNATURE: (".npy", npy.opened_npy),
    npy.ZIP_SIGNATURE: (".npz", npy.opened_npz),
}
_EXPECTED = "HDF5 with kspace or a sinogram at its root, .npy with kspace, or .npz with either"
_LARGEST_USER_BLOCK = 1 << 20


class _Modality(Protocol):
    """What the modules mri and ct make of a file's arrays."""

    def slice_count(self, contents: Contents) -> int: ...
    def check_limits(self, contents: Contents, limits: Limits) -> None: ...
    def probe(self, contents: Contents) -> ScanHeader: ...
    def read(self, contents: Contents, slices: Sequence[int]) -> Acquisition: ...


def probe(path: Path, limits: Limits = DEFAULT_LIMITS) -> ScanHeader:
    """Look at every value of a scan file, a few MiB at a time.

    Raises UnknownFormat when it is no scan file, UnreadableScan when what is inside is broken, contradictory or points
    outside the file, UnsupportedScan when it is beyond the limits.
    """
    with opened_file(path) as file:
        return probe_file(file, limits)


def probe_file(file: ScanFile, limits: Limits = DEFAULT_LIMITS) -> ScanHeader:
    """Do as `probe` with a file that is open."""
    with _opened(file) as (contents, modality):
        modality.check_limits(contents, limits)
        for source in contents.arrays.values():
            source.check_stored()
        return _with_unused(modality.probe(contents), contents)


def prepare(file: ScanFile, limits: Limits, source_sha256: str, descriptor: int) -> ScanHeader:
    """Probe an open file and write what it holds, slice by slice, as a prepared scan.

    Raises what `probe` raises, and NotWritten.
    """
    header = probe_file(file, limits)
    with _opened(file) as (contents, modality):
        count = modality.slice_count(contents)
        write_prepared(descriptor, asdict(header), source_sha256, lambda index: modality.read(contents, [index]), count)
    return header


def read(path: Path, slices: Sequence[int] | None = None) -> Acquisition:
    """Read the wanted slices, or all, of a file that `probe` has accepted."""
    with opened_file(path) as file, _opened(file) as (contents, modality):
        count = modality.slice_count(contents)
        wanted = range(count) if slices is None else slices
        for index in wanted:
            if not 0 <= index < count:
                raise UnsupportedScan.at("slices", str(index), f"0 to {count - 1}")
        return modality.read(contents, wanted)


def _with_unused(header: ScanHeader, contents: Contents) -> ScanHeader:
    """The header with a warning of what the file holds beside: somebody may have meant it to be used."""
    used = ct.USED if header.modality is Modality.CT else mri.USED
    foreign = [name for name in (*contents.arrays, *contents.attributes) if name not in used]
    unused = [*foreign, *contents.others]
    warnings = [f"{theirs} is read as {ours}" for theirs, ours in contents.renamed]
    if contents.format == "matlab":
        warnings.append("a MATLAB 7.3 file: its axes are read as (ky, kx, coils, slices)")
    if unused:
        warnings.append(f"not used, as these names mean nothing here: {shown_names(unused)}")
    return replace(header, warnings=(*warnings, *header.warnings))


@contextmanager
def _opened(file: ScanFile) -> Iterator[tuple[Contents, _Modality]]:
    start = file.start(START_BYTES)
    if _behind_a_user_block(file, start):
        start = hdf5.SIGNATURE
    for signature, (kind, opener) in _OPENERS.items():
        if start.startswith(signature):
            with damage_is_unreadable(kind), opener(file) as contents:
                yield contents, _modality(contents)
            return
    if (known := foreign(start)) is not None:
        raise _unknown(known.name, known.cure)
    raise _unknown(_likeness(start))


def _behind_a_user_block(file: ScanFile, start: bytes) -> bool:
    """Whether HDF5 begins at 512, 1024, 2048 ... bytes, as it may."""
    with file.stream() as stream:
        place = 512
        while place < min(file.size, _LARGEST_USER_BLOCK + 1) and not start.startswith(tuple(_OPENERS)):
            stream.seek(place)
            if stream.read(len(hdf5.SIGNATURE)) == hdf5.SIGNATURE:
                return True
            place *= 2
    return False


def _modality(contents: Contents) -> _Modality:
    kinds: dict[str, _Modality] = {"kspace": mri, "sinogram": ct}
    present = [name for name in kinds if name in contents.arrays]
    if len(present) > 1:
        raise UnreadableScan.at("file", "both kspace and sinogram", "one of them")
    if not present:
        if contents.layout is not None:
            raise _unknown(contents.layout.name, contents.layout.cure)
        if contents.format == "matlab":
            raise _unknown("a MATLAB 7.3 file without kspace", "kspace (ky, kx, coils, slices) in it, or an .npz")
        held = shown_names((*contents.arrays, *contents.attributes, *contents.others))
        raise _unknown(f"a file of {contents.format} format without kspace or sinogram (it holds {held})")
    return kinds[present[0]]


def _unknown(found: str, expected: str = _EXPECTED) -> UnknownFormat:
    return UnknownFormat.at("file", found, expected)


def _likeness(start: bytes) -> str:
    """What a file that is no scan looks like, for the message."""
    if not start:
        return "an empty file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:256]):
        return "text"
    return "bytes of no known format"
