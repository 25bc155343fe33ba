"""Input format .npz: arrays under the names that scans use; 0-dimensional arrays are attributes."""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import parse_attribute
from udig_recon.core.formats.containers.npy_arrays import NpyArray
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.zip_archive import SIGNATURE, member_names
from udig_recon.core.formats.input_format import ARRAYS_OR_ATTRIBUTES, ATTRIBUTES, NAMES, Contents
from udig_recon.core.formats.synonyms import match_names

_UNNAMED = "arr_0"  # the name that numpy.savez gives to an array without one
_MOST_MEMBERS = 64
_MOST_ATTRIBUTE_BYTES = 4096


class Npz:
    """A zip archive of .npy members, as numpy.savez and numpy.savez_compressed write it."""

    name = ".npz"
    expected = ".npz with kspace or a sinogram"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is a zip archive with .npy members, or one so damaged that it does not tell."""
        if file.start(len(SIGNATURE)) != SIGNATURE:
            return False
        try:
            return any(name.endswith(".npy") for name in member_names(file))
        except UnreadableScan:
            return True

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The members of known names."""
        with zipfile.ZipFile(file.stream()) as archive:
            members = _members(archive)
            sources = {name: _array(archive, name, member, file.size) for name, member in members.known.items()}
            numbers = {name for name in ARRAYS_OR_ATTRIBUTES if name in sources and math.prod(sources[name].shape) == 1}
            attributes = {name: _attribute(sources[name]) for name in sources if name in ATTRIBUTES or name in numbers}
            arrays = {name: source for name, source in sources.items() if name not in attributes}
            yield Contents("npz", arrays, attributes, renamed=members.renamed, unused=members.unused)

    def samples(self) -> Sequence[bytes]:
        """A sinogram, compressed, and spokes of k-space."""
        stream = io.BytesIO()
        sinogram = np.ones((9, 8), np.float32)
        np.savez_compressed(stream, sinogram=sinogram, angles=np.arange(9) / 9, geometry="parallel")
        radial = io.BytesIO()
        angles = np.arange(24)[:, None] * (np.pi / 24)
        spokes = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * np.arange(-16, 16)[:, None] / 2
        np.savez(radial, kspace=np.ones((2, 24, 32), np.complex64), trajectory=spokes.astype(np.float32))
        return stream.getvalue(), radial.getvalue()


FORMAT = Npz()


@dataclass(frozen=True)
class _Members:
    """The members of an archive."""

    known: dict[str, zipfile.ZipInfo]  # by the names that scans use
    unused: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]  # names in the archive, and ours


def _members(archive: zipfile.ZipFile) -> _Members:
    listed = archive.infolist()
    if len(listed) > _MOST_MEMBERS:
        raise UnreadableScan.at("file", f"{len(listed)} members", f"at most {_MOST_MEMBERS} members")
    matched = match_names((member.filename.removesuffix(".npy") for member in listed), NAMES)
    ours = {theirs: name for name, theirs in matched.items()}
    known: dict[str, zipfile.ZipInfo] = {}
    unused = []
    for member in listed:
        theirs = member.filename.removesuffix(".npy")
        name = "kspace" if theirs == _UNNAMED and len(listed) == 1 else ours.get(theirs, theirs)
        if name not in NAMES:
            unused.append(name)
            continue
        if name in known:
            raise UnreadableScan.at(name, "two members of this name", "one")
        if member.flag_bits & 1:
            raise UnreadableScan.at(name, "an encrypted member", "a plain one")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = f"zip compression {member.compress_type}"
            raise UnreadableScan.at(name, found, "numpy.savez or numpy.savez_compressed")
        known[name] = member
    renamed = tuple((theirs, name) for name, theirs in matched.items() if name != theirs)
    return _Members(known, tuple(unused), renamed)


def _array(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo, archive_bytes: int) -> NpyArray:
    return NpyArray(name, lambda: archive.open(member), member.file_size, min(member.compress_size, archive_bytes))


def _attribute(source: NpyArray) -> float | str:
    if source.nbytes > _MOST_ATTRIBUTE_BYTES:
        raise UnreadableScan.at(source.name, f"{source.nbytes} bytes", "one number or one text")
    return parse_attribute(source.name, source.whole())
