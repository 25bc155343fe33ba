"""Members of zip archives with the same bytes whenever they are written."""

import zipfile

_TIME = (1980, 1, 1, 0, 0, 0)
_COMPRESSION = 1


def new_member(name: str) -> zipfile.ZipInfo:
    """A compressed member without a date."""
    member = zipfile.ZipInfo(name, _TIME)
    member.compress_type, member.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
    return member


def add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file to an archive."""
    archive.writestr(new_member(name), content, compresslevel=_COMPRESSION)
