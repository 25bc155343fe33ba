"""Zip archives of the files of one scan: their members as files that are read at any position."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.inflate import RAW, Inflated, InflatedFile
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import printable_names
from udig_recon.core.formats.limits import damage_as_unreadable

SIGNATURE = b"PK\x03\x04"

_LOCAL_HEADER = Struct("<4s22xHH")  # signature, lengths of the name and of what else precedes the content
MOST_MEMBERS = 4096
_MOST_TEXT_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class ZipMember:
    """A file in an archive."""

    path: str  # with the folders that it lies in
    size: int
    packed_bytes: int
    crc: int
    start: int  # of its packed bytes in the archive
    is_packed: bool
    archive: ScanFile

    @property
    def name(self) -> str:
        """The last part of its path, in lower case."""
        return self.path.replace("\\", "/").rpartition("/")[2].lower()

    @property
    def folder(self) -> str:
        """The folders that it lies in."""
        return self.path.replace("\\", "/").rpartition("/")[0]

    def open(self) -> ScanFile:
        """Its content."""
        if not self.is_packed:
            return self.archive.part(self.start, self.size)
        self.archive.check_part(self.start, self.packed_bytes)
        stop = self.start + self.packed_bytes
        return InflatedFile(Inflated(self.archive.stream, self.start, stop, RAW), 0, self.size)

    def text(self, most: int = _MOST_TEXT_BYTES) -> str:
        """All of a text file. Raises UnreadableScan where it is longer than `most` bytes."""
        if self.size > most:
            raise UnreadableScan.at("file", f"a text of {self.size} bytes", f"at most {most} bytes")
        return self.open().start(self.size).decode("utf-8", "replace")

    def check_crc(self) -> None:
        """Compare all bytes with the archive's checksum. Raises UnreadableScan."""
        total, left = 0, self.size
        with self.open().stream() as stream:
            while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                total = zlib.crc32(piece, total)
                left -= len(piece)
        if left or total != self.crc:
            raise UnreadableScan.at("file", "damaged content (another checksum)", "a whole zip archive")


def read_archive(file: ScanFile, most: int = MOST_MEMBERS) -> Mapping[str, ZipMember]:
    """The files of an archive by their paths. Raises UnreadableScan for members that cannot be read."""
    members: dict[str, ZipMember] = {}
    with zipfile.ZipFile(file.stream()) as archive:
        listed = [each for each in archive.infolist() if not each.is_dir() and not _is_of_macos(each.filename)]
    if len(listed) > most:
        raise UnreadableScan.at("file", f"{len(listed)} members", f"at most {most} members")
    for each in listed:
        name = printable_names([each.filename])
        if each.flag_bits & 1:
            raise UnreadableScan.at("file", f"an encrypted member ({name})", "a plain one")
        if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = f"a member of zip compression {each.compress_type} ({name})"
            raise UnreadableScan.at("file", found, "members that are stored or deflated")
        if each.filename in members:
            raise UnreadableScan.at("file", f"two members of one name ({name})", "one")
        is_packed = each.compress_type == zipfile.ZIP_DEFLATED
        if not is_packed and each.compress_size != each.file_size:
            raise UnreadableScan.at("file", f"a stored member of two sizes ({name})", "one size")
        members[each.filename] = ZipMember(
            each.filename, each.file_size, each.compress_size, each.CRC, _start(file, each), is_packed, file
        )
    return members


def _is_of_macos(path: str) -> bool:
    """Whether it is one of the files that macOS adds to an archive."""
    return path.startswith("__MACOSX/") or "/._" in f"/{path}"


def member_names(file: ScanFile) -> list[str]:
    """Last parts of the names in an archive, in lower case; none where it is no archive."""
    if file.start(len(SIGNATURE)) != SIGNATURE:
        return []
    with damage_as_unreadable("zip"), zipfile.ZipFile(file.stream()) as archive:
        names = [name for name in archive.namelist() if not _is_of_macos(name)]
        return [name.replace("\\", "/").rpartition("/")[2].lower() for name in names]


def _start(file: ScanFile, member: zipfile.ZipInfo) -> int:
    """Where the content of a member begins."""
    with file.stream() as stream:
        stream.seek(member.header_offset)
        signature, name, more = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if signature != SIGNATURE:
        raise UnreadableScan.at("file", "a member without its header", "a whole zip archive")
    return int(member.header_offset + _LOCAL_HEADER.size + name + more)
