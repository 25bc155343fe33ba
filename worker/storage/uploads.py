"""Resumable uploads: the files of those that go on, and the rows that say how much of each is on the disk.

The row is the truth: of a file, the first `offset_bytes` are on the disk, whatever its length is. Bytes are written
and synced before the row counts them, so that a process may be killed at any moment: what it wrote last is sent again.
A length could not tell that. After a power failure a file may have its length and not its bytes, and bytes of a
request whose checksum is wrong must not count either.

Writers of one upload exclude each other block by block, by a lock of the file that ends with its process, and each
writes only where the row still has the offset that it started from. A connection that is silent holds no lock: who
comes back after a cut need not wait for it.
"""

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from udig_recon.core.files import atomic
from udig_recon.worker.access.quotas import is_unfinished
from udig_recon.worker.database.tables import ResumableUpload
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.scratch import Scratch, make_private_folder

BLOCK_BYTES = 1 << 20
LINK = ".scan"  # suffix of the second name of a file that is about to become a scan


class UploadBusy(Exception):
    """Another process or thread writes to the upload's file."""


class UploadMoved(Exception):
    """The upload is no longer at the offset that the writer started from, or it is gone."""


class Progress(NamedTuple):
    """How far an upload is, and until when it is kept."""

    offset_bytes: int
    expires_at: datetime


def path_of(storage: Storage, upload_id: uuid.UUID) -> Path:
    """The file of an upload."""
    return storage.uploads_folder() / str(upload_id)


def create_file(storage: Storage, upload_id: uuid.UUID) -> None:
    """Make the empty file of an upload; its name is on the disk before a row counts on it."""
    folder = storage.uploads_folder()
    make_private_folder(folder)
    os.close(os.open(path_of(storage, upload_id), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    atomic.sync_folder(folder)


def delete_file(storage: Storage, upload_id: uuid.UUID) -> None:
    """Delete the file of an upload, if it is there."""
    path = path_of(storage, upload_id)
    path.unlink(missing_ok=True)
    _link(path).unlink(missing_ok=True)


def leftovers(storage: Storage, before: float) -> Iterator[uuid.UUID]:
    """Ids of the uploads whose files were last changed before that time."""
    folder = storage.uploads_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.stat().st_mtime < before:
                yield uuid.UUID(path.name.removesuffix(LINK))
        except (FileNotFoundError, ValueError):
            continue


def open_file(path: Path, least_bytes: int) -> FileIO:
    """The file of an upload. Raises FileNotFoundError where it has not so many bytes any more, though a row says so."""
    file = FileIO(os.open(path, os.O_RDWR), "r+")
    if os.fstat(file.fileno()).st_size < least_bytes:
        file.close()
        raise FileNotFoundError(path.name)
    return file


class UploadFile:
    """The file of an upload, open for writing. Raises FileNotFoundError where it has not so many bytes any more."""

    def __init__(self, path: Path, least_bytes: int) -> None:
        self._file = open_file(path, least_bytes)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out. Raises UploadBusy where one is within."""
        _lock(self._file)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def write(self, block: bytes | bytearray, offset: int) -> None:
        """Write at this offset; a write may take a part only."""
        left = memoryview(block)
        while left:
            written = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[written:], offset + written

    def sync(self) -> None:
        """Put on the disk what was written."""
        os.fsync(self._file.fileno())

    def digest(self, algorithm: str, start: int, end: int) -> bytes:
        """The digest of the bytes from `start` to before `end`."""
        found = hashlib.new(algorithm, usedforsecurity=False)
        while start < end and (block := os.pread(self._file.fileno(), min(BLOCK_BYTES, end - start), start)):
            found.update(block)
            start += len(block)
        return found.digest()

    def close(self) -> None:
        """Close it."""
        self._file.close()


class CompleteUpload(Scratch):
    """The bytes of a complete upload as a scratch file: a second name of its file, or a copy where there are no links.

    Nobody else writes there until it is closed. The upload keeps its own name and its bytes, whatever becomes of these.
    Raises UploadBusy, or FileNotFoundError where the file has not all bytes any more.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = _link(path)
        self.file = open_file(path, size_bytes)
        try:
            _lock(self.file)
            self.path.unlink(missing_ok=True)  # of a process that was killed
            try:
                self.path.hardlink_to(path)
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                shutil.copyfile(path, self.path)
                with self.path.open("rb+") as copy:
                    os.fsync(copy.fileno())
        except BaseException:
            self.file.close()
            raise


def _link(path: Path) -> Path:
    return path.with_name(path.name + LINK)


def _lock(file: FileIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UploadBusy from None


def offset_of(session: Session, upload_id: uuid.UUID) -> int | None:
    """How many bytes of an unfinished upload are on the disk; None: it is not there any more."""
    query = select(ResumableUpload.offset_bytes).where(ResumableUpload.id == upload_id, is_unfinished())
    return session.scalar(query)


def advance(session: Session, upload_id: uuid.UUID, start: int, end: int, keep: timedelta) -> Progress:
    """Count the bytes from `start` to `end`, which are on the disk, and put off the expiry. Raises UploadMoved."""
    row = session.execute(
        update(ResumableUpload)
        .where(ResumableUpload.id == upload_id, ResumableUpload.offset_bytes == start, is_unfinished())
        .values(offset_bytes=end, expires_at=func.now() + keep)
        .returning(ResumableUpload.offset_bytes, ResumableUpload.expires_at)
    ).one_or_none()
    if row is None:
        raise UploadMoved
    return Progress(*row)


def release(session: Session, upload_id: uuid.UUID) -> None:
    """Count the bytes of an upload no more: they become a scan in this transaction. Raises UploadMoved.

    Names stand in the scan's row alone.
    """
    unfinished = (ResumableUpload.id == upload_id) & is_unfinished()
    values = {"stored_at": func.now(), "filename": "", "sha256": None}
    query = update(ResumableUpload).where(unfinished).values(values).returning(ResumableUpload.id)
    if session.scalar(query) is None:
        raise UploadMoved


def set_scan(session: Session, upload_id: uuid.UUID, scan_id: uuid.UUID) -> None:
    """Note which scan an upload has become."""
    session.execute(update(ResumableUpload).where(ResumableUpload.id == upload_id).values(scan_id=scan_id))


def without_row(session: Session, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the uploads whose files nobody needs: they have no row, became scans, or have expired."""
    asked = set(ids)
    query = select(ResumableUpload.id).where(ResumableUpload.id.in_(asked), is_unfinished())
    return asked - set(session.scalars(query))
