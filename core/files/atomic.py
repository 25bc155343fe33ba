"""Atomic writes, so that a file with its final name is whole, and SHA-256 digests of files."""

import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple


class DamagedFile(Exception):
    """The bytes of a stored file have changed since they were written."""


def open_stored(path: Path) -> BufferedReader:
    """Open a stored file for reading. Raises OSError, and DamagedFile where the name is no regular file's.

    To read a pipe or a device in its place might never end.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise DamagedFile(f"{path.name} is no file any more") from error
        raise
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise DamagedFile(f"{path.name} is no regular file any more")


class Digest(NamedTuple):
    """SHA-256 and size of a file."""

    sha256: str  # hex
    bytes: int

    @classmethod
    def of(cls, path: Path) -> "Digest":
        """The digest of a file as it lies on the disk."""
        with open_stored(path) as file:
            return cls(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


@contextmanager
def atomic_write(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """A temporary path to write to. The file takes the name `path` only if no error occurs.

    It is `synced` to the disk before, unless it may be lost with the machine's power, as of a cache.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        if synced:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if synced:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk, which Windows does by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
