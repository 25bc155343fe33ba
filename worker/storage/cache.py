"""The cache of a bucket: local copies of its objects, bounded in bytes, which all processes of a machine share.

A copy is a file that is named by its object's key and version. Whoever reads it holds a shared lock of it, so that it
is not evicted meanwhile. One process fetches an object while others that want the same wait for it. Locks are flock's:
they end with their process. What is being fetched is a scratch file of its full size, so that it counts already.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from udig_recon.worker.storage.scratch import Scratch, make_private_folder, remove_abandoned

LOCKS = 64  # files; objects that share one are fetched one after the other
PART, LOCK = ".part", ".lock"


class Copy(NamedTuple):
    """A copy in the cache."""

    path: Path
    key: str
    version: str  # hash of the object's version
    size: int
    used_at: float


class Cache:
    """Copies of at most `most_bytes` in all; the least recently used go. `reserve_bytes` of the disk stay free.

    An object that is larger than the whole cache is fetched all the same, and removed when it was read.
    """

    def __init__(self, folder: Path, most_bytes: int, reserve_bytes: int = 0) -> None:
        self.folder, self.most_bytes, self.reserve_bytes = folder.absolute(), most_bytes, reserve_bytes
        make_private_folder(self.folder)

    @contextmanager
    def opened(
        self, key: str, version: str, size: int, fetch: Callable[[FileIO], None]
    ) -> Iterator[tuple[Path, BufferedReader]]:
        """A copy of an object, which `fetch` writes to a new file of its size where there is none yet.

        The copy stays where it is inside the block. Raises OSError (ENOSPC) where the disk has no room for it, and what
        `fetch` raises.
        """
        path = self.folder / _name(key, version)
        while (file := _hold(path)) is None:
            with _locked(self.folder / f"{zlib.crc32(key.encode()) % LOCKS}{LOCK}"):
                if not path.exists():
                    self._fetch(path, size, fetch)
        try:
            with suppress(FileNotFoundError):
                os.utime(path)
            yield path, file
        finally:
            file.close()
            if size > self.most_bytes:
                _evict(path)

    def drop(self, *keys: str) -> bool:
        """Remove every copy of these objects, though somebody reads it; whether there was one."""
        asked = set(keys)
        found = [copy for copy in self.copies() if copy.key in asked]
        for copy in found:
            copy.path.unlink(missing_ok=True)
        return bool(found)

    def copies(self) -> list[Copy]:
        """All copies, in no order."""
        copies = []
        for path in self.folder.iterdir():
            if path.name.endswith((PART, LOCK)):
                continue
            name, _, version = path.name.rpartition(".")
            with suppress(FileNotFoundError):
                found = path.stat()
                copies.append(Copy(path, unquote(name), version, found.st_size, found.st_mtime))
        return copies

    def remove_leftovers(self, before: float, version_of: Callable[[str], str | None]) -> int:
        """Remove fetches that were cut off before that time, and copies whose object is gone or has changed.

        One process of a machine does it for all: where another one has since that time, nothing is done.
        """
        swept = self.folder / f"swept{LOCK}"
        with suppress(FileNotFoundError):
            if swept.stat().st_mtime > before:
                return 0
        swept.touch(0o600)
        removed = remove_abandoned(self.folder, before, PART)
        for copy in self.copies():
            version = version_of(copy.key)
            if version is None or _hash(version) != copy.version:
                copy.path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _fetch(self, path: Path, size: int, fetch: Callable[[FileIO], None]) -> None:
        with self._room_for(size) as part:
            fetch(part.file)
            # A name outlives a power failure sooner than bytes do.
            os.fsync(part.file.fileno())
            part.path.replace(path)

    def _room_for(self, size: int) -> Scratch:
        """A scratch file of this size, once as many copies are evicted as it takes."""
        with _locked(self.folder / f"room{LOCK}"):
            copies = sorted(self.copies(), key=lambda copy: copy.used_at)
            taken = sum(copy.size for copy in copies) + self._fetching()
            while True:
                free = shutil.disk_usage(self.folder).free - self.reserve_bytes
                if taken + size <= self.most_bytes and size <= free:
                    break
                if not copies:
                    break
                copy = copies.pop(0)
                if _evict(copy.path):
                    taken -= copy.size
            if size > free:
                raise OSError(errno.ENOSPC, f"no room for a copy of {size} bytes beside the reserve")
            part = Scratch(self.folder)
            try:
                if size:
                    os.posix_fallocate(part.file.fileno(), 0, size)
            except BaseException:
                part.close()
                raise
            return part

    def _fetching(self) -> int:
        total = 0
        for path in self.folder.glob(f"*{PART}"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


def _name(key: str, version: str) -> str:
    return f"{quote(key, safe='')}.{_hash(version)}"


def _hash(version: str) -> str:
    return hashlib.sha256(version.encode()).hexdigest()[:16]


def _hold(path: Path) -> BufferedReader | None:
    """The copy, opened and kept from eviction; None where it is not there."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_nlink == 0:  # evicted between the two
        file.close()
        return None
    return file


def _evict(path: Path) -> bool:
    """Remove a copy that nobody reads; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
