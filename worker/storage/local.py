"""The storage backend of a local or shared folder: an object is a file, its key the path below the root."""

import errno
import fnmatch
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from udig_recon.core.files import atomic
from udig_recon.core.files.atomic import DamagedFile, open_stored
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage, StoredObject
from udig_recon.worker.storage.scratch import OWNER_ONLY, Scratch, make_private_folder, remove_abandoned

PART = ".*.part"  # a file that is being written; `atomic_write` names it
DELETED = ".*.deleted"  # a folder that is being deleted


class LocalStorage(Storage):
    """Files below one root that only its owner may enter."""

    def __init__(self, root: Path, reserve_bytes: int = 0) -> None:
        super().__init__(reserve_bytes)
        self.root = root.absolute()
        self.location = str(self.root)
        self._incoming = self.root / "incoming"
        for folder in (self.root, *map(self.path, keys.COLLECTIONS), self._incoming):
            make_private_folder(folder)
        if self.root.stat().st_uid == os.geteuid():
            self.root.chmod(OWNER_ONLY)

    @classmethod
    def from_settings(cls, settings: Settings) -> "LocalStorage":
        """The folder DATA, or that of DATA_STORE=folder:PATH."""
        named = None if settings.data_store is None else settings.data_store.partition(":")[2]
        return cls(Path(named) if named else settings.data, settings.disk_reserve_bytes)

    def path(self, key: str) -> Path:
        """The file of an object, or the folder of a prefix."""
        return self.root / key

    def info(self, key: str) -> StoredObject:
        """See Storage."""
        return self._description(self.path(key))

    def open(self, key: str, *, bypass_cache: bool = False) -> BinaryIO:
        """See Storage."""
        file = open_stored(self.path(key))
        if bypass_cache:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file

    @contextmanager
    def local(self, key: str, *, bypass_cache: bool = False) -> Iterator[Path]:
        """See Storage: the object's own file."""
        if bypass_cache:
            self.open(key, bypass_cache=True).close()
        yield self.path(key)

    def put(self, key: str, content: bytes | memoryview) -> None:
        """See Storage."""
        with self.writing(key) as part:
            part.write_bytes(content)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """See Storage: a file beside the object, which takes its name once it is on the disk."""
        with replacing_privately(self._target(key)) as part:
            yield part

    def scratch(self) -> Scratch:
        """See Storage."""
        return Scratch(self._incoming)

    def commit(self, scratch: Path, key: str) -> None:
        """See Storage: the file is renamed."""
        target = self._target(key)
        scratch.chmod(0o600)
        scratch.replace(target)
        atomic.sync_folder(target.parent)

    def uploads_folder(self) -> Path:
        """See Storage."""
        return self.root / "uploads"

    def delete(self, key: str) -> None:
        """See Storage."""
        self.path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See Storage."""
        for folder, _, names in os.walk(self.path(prefix)):
            for name in names:
                if not name.startswith("."):
                    with suppress(FileNotFoundError, DamagedFile):
                        yield self._description(Path(folder) / name)

    def delete_prefix(self, prefix: str) -> None:
        """See Storage."""
        folder = self.path(prefix)
        doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.deleted")
        # Renamed first: a late writer finds no folder at once.
        with suppress(FileNotFoundError):
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def create_group(self, group: str) -> None:
        """See Storage."""
        self.path(group).mkdir(mode=OWNER_ONLY, exist_ok=True)

    def groups(self) -> Iterator[tuple[str, float]]:
        """See Storage."""
        for folder in self.path(keys.JOBS).iterdir():
            if not folder.name.startswith("."):
                with suppress(FileNotFoundError):
                    yield f"{keys.JOBS}/{folder.name}", folder.stat().st_mtime

    def has_group(self, group: str) -> bool:
        """See Storage."""
        return self.path(group).is_dir()

    def remove_leftovers(self, before: float) -> int:
        """See Storage."""
        removed = remove_abandoned(self._incoming, before)
        for collection in keys.COLLECTIONS:
            for folder, folders, names in os.walk(self.path(collection)):
                for name in fnmatch.filter(folders, DELETED):
                    folders.remove(name)
                    shutil.rmtree(Path(folder) / name, ignore_errors=True)
                for name in fnmatch.filter(names, PART):
                    removed += _remove_old(Path(folder) / name, before)
        return removed

    def now(self) -> float:
        """See Storage: a new file is dated by the file system's clock."""
        with tempfile.TemporaryFile(dir=self._incoming) as file:
            return os.fstat(file.fileno()).st_mtime

    def free_bytes(self) -> int:
        """See Storage."""
        return shutil.disk_usage(self.root).free

    def _description(self, path: Path) -> StoredObject:
        try:
            found = path.stat()
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise DamagedFile(f"{path.name} is no file any more") from error
            raise
        if not stat.S_ISREG(found.st_mode):
            raise DamagedFile(f"{path.name} is no regular file any more")
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return StoredObject(str(path.relative_to(self.root)), found.st_size, found.st_mtime, version)

    def _target(self, key: str) -> Path:
        """The file of an object that is to be written; its folders are made, but for a group's. FileNotFoundError."""
        path = self.path(key)
        group = keys.group_of(key)
        if group is None:
            path.parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        else:
            below = path.parent.relative_to(self.path(group))
            for folder in (*reversed(below.parents), below):
                if folder != Path():
                    # No parents: the group may be gone, and must not come back.
                    (self.path(group) / folder).mkdir(mode=OWNER_ONLY, exist_ok=True)
        return path


def _remove_old(path: Path, before: float) -> bool:
    try:
        if path.stat().st_mtime < before:
            path.unlink()
            return True
    except FileNotFoundError:
        pass
    return False


@contextmanager
def replacing_privately(path: Path) -> Iterator[Path]:
    """As `udig_recon.core.files.atomic.atomic_write`, for a file that only its owner may read."""
    with atomic.atomic_write(path) as part:
        yield part
        part.chmod(0o600)
