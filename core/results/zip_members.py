"""Zip archives with the same bytes whenever they are written."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

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


class ArchiveWriter(Protocol):
    """Writes the members of an archive once it has all slices."""

    def finish(self) -> None:
        """Write all members."""
        ...

    def close(self) -> None:
        """Delete the temporary file."""
        ...


Writer = TypeVar("Writer", bound=ArchiveWriter)


@contextmanager
def open_archive(path: Path, make_writer: Callable[[zipfile.ZipFile], Writer]) -> Iterator[Writer]:
    """A writer of an archive, which finishes where the context ends without an error and closes in any case."""
    with zipfile.ZipFile(path, "w") as archive:
        writer = make_writer(archive)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
