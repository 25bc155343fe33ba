"""Where bytes lie: scans by tenant and hash, and one folder for everything of a job."""

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from udig_recon.core.files import atomic as files
from udig_recon.core.results.output_format import OutputFormat
from udig_recon.worker.database.tables import DEFAULT_TENANT

OWNER_ONLY = 0o700
RESULT = "reconstruction.h5"
JOB_FOLDERS = ("checkpoints", "slices", "previews", "results")


def open_storage(root: Path, reserve_bytes: int = 0) -> "Storage":
    """The files below DATA; the process ends with one line when they cannot be used."""
    try:
        return Storage(root, reserve_bytes)
    except OSError as error:
        raise SystemExit(f"error: DATA: {root} cannot be used as a folder of our own: {error.strerror}") from None


class Storage:
    """Files below one root that only its owner may enter. A file that bears its name is whole.

    Of the disk `reserve_bytes` stay free.
    """

    def __init__(self, root: Path, reserve_bytes: int = 0) -> None:
        self.root, self.reserve_bytes = root.absolute(), reserve_bytes
        self.scans = self.root / "scans"
        self.prepared = self.root / "prepared"
        self.incoming = self.root / "incoming"
        self.jobs = self.root / "jobs"
        for folder in (self.root, self.scans, self.prepared, self.incoming, self.jobs):
            folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        if self.root.stat().st_uid == os.geteuid():
            self.root.chmod(OWNER_ONLY)

    def free_bytes(self) -> int:
        """What the disk still takes."""
        return shutil.disk_usage(self.root).free

    def require(self, size_bytes: int) -> None:
        """Raise OSError, as a full disk does, where a file of this size would leave less free than the reserve."""
        if self.free_bytes() - size_bytes < self.reserve_bytes:
            raise OSError(errno.ENOSPC, f"{size_bytes} bytes more would touch the reserve of {self.reserve_bytes}")

    def now(self) -> float:
        """The time by the clock that dates the files, whatever this process takes it for."""
        with tempfile.TemporaryFile(dir=self.incoming) as file:
            return os.fstat(file.fileno()).st_mtime

    def path(self, relative: str) -> Path:
        """The file or folder that a row names."""
        return self.root / relative

    def relative(self, path: Path) -> str:
        """How a row names a file or folder."""
        return str(path.relative_to(self.root))

    def scan(self, sha256: str, tenant: str = DEFAULT_TENANT) -> Path:
        """The tenant's scan of that hash. The default tenant's lie where they lay before there were tenants."""
        folder = self.scans if tenant == DEFAULT_TENANT else self.scans / tenant
        return folder / sha256

    def keep_scan(self, incoming: Path, sha256: str, tenant: str = DEFAULT_TENANT) -> Path:
        """Move a file that came in to its place; the same bytes may lie there already."""
        return _moved(incoming, self.scan(sha256, tenant))

    def prepared_scan(self, sha256: str, tenant: str = DEFAULT_TENANT) -> Path:
        """The prepared form of the tenant's scan of that hash: see `udig_recon.core.formats.prepared`.

        Not beside the scan: workers of earlier versions take whatever lies there for scans, and tidy up.
        """
        return self.prepared / tenant / sha256

    def keep_prepared(self, part: Path, sha256: str, tenant: str = DEFAULT_TENANT) -> Path:
        """Move a prepared scan to its place, where an earlier one may lie."""
        return _moved(part, self.prepared_scan(sha256, tenant))

    def prepared_scans(self) -> list[tuple[str, Path]]:
        """Every prepared scan that lies here, with its tenant."""
        return [(folder.name, path) for folder in self.prepared.iterdir() for path in folder.iterdir()]

    @contextmanager
    def part(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file among those that come in, held by its lock; gone at the end, unless it was moved."""
        path = self.incoming / f"{uuid.uuid4().hex}.part"
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "w+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield path, file
            finally:
                path.unlink(missing_ok=True)

    def stored_scans(self) -> list[tuple[str, Path]]:
        """Every scan that lies here, with its tenant."""
        found = []
        for path in self.scans.iterdir():
            # Folders are other tenants'; see `scan`.
            found += [(path.name, each) for each in path.iterdir()] if path.is_dir() else [(DEFAULT_TENANT, path)]
        return found

    def delete_scan(self, sha256: str, tenant: str = DEFAULT_TENANT) -> None:
        """Delete a scan and its prepared form, if they are there."""
        self.scan(sha256, tenant).unlink(missing_ok=True)
        self.prepared_scan(sha256, tenant).unlink(missing_ok=True)

    def job(self, job_id: uuid.UUID) -> Path:
        """Folder of a job."""
        return self.jobs / str(job_id)

    def prepare_job(self, job_id: uuid.UUID) -> None:
        """Make a job's folders. Whoever writes later makes none: a job that was deleted does not come back."""
        folder = self.job(job_id)
        for each in (folder, *(folder / name for name in JOB_FOLDERS)):
            each.mkdir(mode=OWNER_ONLY, exist_ok=True)

    def delete_job(self, job_id: uuid.UUID) -> None:
        """Delete everything of a job, if it is there."""
        folder, doomed = self.job(job_id), self.jobs / f".{job_id}.deleted"
        # Out of the way at once, so that a worker that still writes finds no folder.
        with suppress(FileNotFoundError):
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def finish_deletions(self) -> None:
        """Delete what a process that was killed over it has left."""
        for doomed in self.jobs.glob(".*.deleted"):
            shutil.rmtree(doomed, ignore_errors=True)

    def checkpoints(self, job_id: uuid.UUID) -> Path:
        """Folder of checkpoints, `<slice>.<step>.pt`."""
        return self.job(job_id) / "checkpoints"

    def slice_result(self, job_id: uuid.UUID, slice_: int, attempt: int) -> Path:
        """Result of one slice, as one attempt made it."""
        return self.job(job_id) / "slices" / f"{slice_}.{attempt}.npz"

    def preview(self, job_id: uuid.UUID, slice_: int) -> Path:
        """Latest image of a slice."""
        return self.job(job_id) / "previews" / f"{slice_}.npz"

    def drop_slices(self, job_id: uuid.UUID) -> None:
        """Delete the slices of a job and their previews: its result has all that is in them."""
        for name in ("slices", "previews"):
            for path in (self.job(job_id) / name).glob("*"):
                path.unlink(missing_ok=True)

    def results(self, job_id: uuid.UUID, attempt: int) -> Path:
        """Folder of the result files that one attempt assembled."""
        return self.job(job_id) / "results" / str(attempt)


def preview_owner(job_id: uuid.UUID, slice_: int) -> str:
    """What the preview of a slice says that it is of: no row has its digest."""
    return f"{job_id}/{slice_}"


def result_name(output: OutputFormat) -> str:
    """What a result in this format is called in its folder."""
    return f"reconstruction{output.suffix}"


def _moved(part: Path, target: Path) -> Path:
    target.parent.mkdir(mode=OWNER_ONLY, exist_ok=True)
    part.chmod(0o600)
    part.replace(target)
    files.sync_folder(target.parent)
    return target


def is_full(error: Exception) -> bool:
    """Whether the disk, or what this user may have of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `udig_recon.core.files.atomic.replacing`, for a file that is its owner's alone."""
    with files.replacing(path) as part:
        yield part
        part.chmod(0o600)
