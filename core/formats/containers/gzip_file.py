"""Scan files packed by gzip: read as the file that is in them, at any position, without unpacking it to the disk."""

from typing import IO

from udig_recon.core.errors import UnknownFormat
from udig_recon.core.formats.containers.inflate import GZIP, Inflated
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.limits import damage_as_unreadable

SIGNATURE = b"\x1f\x8b\x08"

_TAR_MARK, _TAR_PLACE = b"ustar", 257


class InflatedFile(ScanFile):
    """The file in a gzip file; several that were packed one after the other are one."""

    def __init__(self, packed: ScanFile) -> None:
        self._inflated = Inflated(packed.stream, 0, packed.size, GZIP)
        self.size = self._inflated.measure("file")

    def stream(self) -> IO[bytes]:
        """A stream from the first byte, with a position of its own."""
        return self._inflated.stream(0, self.size)


def unpack(file: ScanFile) -> ScanFile:
    """The file, or what is in it where gzip packed it. Each byte is unpacked, and compared with gzip's checksum.

    Raises UnreadableScan for damaged bytes and for bombs, UnknownFormat where another packed file is in it.
    """
    if file.start(len(SIGNATURE)) != SIGNATURE:
        return file
    with damage_as_unreadable("gzip"):
        inner = InflatedFile(file)
        start = inner.start(512)
    if start.startswith(SIGNATURE):
        raise UnknownFormat.at("file", "a gzip file within a gzip file", "a scan packed once, or not at all")
    if start[_TAR_PLACE:].startswith(_TAR_MARK):
        raise UnknownFormat.at("file", "a tar archive packed by gzip", "the scan in it, or a zip of the scan's files")
    return inner
