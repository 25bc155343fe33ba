"""Scan files packed by gzip: read as the file that is in them, at any position, without unpacking it to the disk."""

from udig_recon.core.errors import UnknownFormat
from udig_recon.core.formats.containers.inflate import GZIP, Inflated, InflatedFile
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.limits import damage_as_unreadable

SIGNATURE = b"\x1f\x8b\x08"

_TAR_MARK, _TAR_PLACE = b"ustar", 257


def unpack(file: ScanFile) -> ScanFile:
    """The file, or what is in it where gzip packed it, several members as one.

    Each byte is unpacked once, and compared with gzip's checksum.
    Raises UnreadableScan for damaged bytes and for bombs, UnknownFormat where another packed file is in it.
    """
    if file.start(len(SIGNATURE)) != SIGNATURE:
        return file
    with damage_as_unreadable("gzip"):
        inflated = Inflated(file.stream, 0, file.size, GZIP)
        inner = InflatedFile(inflated, 0, inflated.measure("file"))
        start = inner.start(512)
    if start.startswith(SIGNATURE):
        raise UnknownFormat.at("file", "a gzip file within a gzip file", "a scan packed once, or not at all")
    if start[_TAR_PLACE:].startswith(_TAR_MARK):
        raise UnknownFormat.at("file", "a tar archive packed by gzip", "the scan in it, or a zip of the scan's files")
    return inner
