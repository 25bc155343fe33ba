"""Whether stored bytes are those that were written, and what is written down where they are not."""

import hashlib
import logging
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.core.files.atomic import DamagedFile, Digest, open_stored
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Job, Scan

log = logging.getLogger(__name__)
BLOCK = 1 << 20
REMEMBERED = 256  # files whose verification a process remembers
DAMAGE = "damage"  # kind of the counter
KINDS = ("scan", "prepared", "slice", "preview", "result", "converted")


class Stamp(NamedTuple):
    """What changes when anybody writes to a file or puts another in its place."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> "Stamp":
        """The stamp of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Verified:
    """A file that was read once and had the digest it should have.

    `blocks` are the digests of its parts of BLOCK bytes: what is read of it later is compared with them, for a disk
    may rot under a file that nobody writes to.
    """

    path: Path
    sha256: str
    stamp: Stamp
    blocks: tuple[bytes, ...]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Its bytes from `start` to before `end`, block by block. Raises DamagedFile before it gives a wrong one."""
        with open_stored(self.path) as file:
            first = start // BLOCK
            file.seek(first * BLOCK)
            for number in range(first, -(-end // BLOCK)):
                block = file.read(BLOCK)
                if number >= len(self.blocks) or hashlib.sha256(block).digest() != self.blocks[number]:
                    raise DamagedFile(f"{self.path.name} is no longer what was written")
                offset = number * BLOCK
                yield block[max(start - offset, 0) : end - offset]


class Verifier:
    """Compares files with their digests, each once as long as nobody touches it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Path, str], Verified] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, path: Path, sha256: str) -> Verified:
        """The file, found to have this digest. Raises DamagedFile, or FileNotFoundError where there is none."""
        with open_stored(path) as file:
            stamp = Stamp.of(file.fileno())
            with self._lock:
                known = self._known.get((path, sha256))
            if known is not None and known.stamp == stamp:
                return known
            whole, blocks = hashlib.sha256(), []
            while block := file.read(BLOCK):
                whole.update(block)
                blocks.append(hashlib.sha256(block).digest())
        if whole.hexdigest() != sha256:
            raise DamagedFile(f"{path.name} is not what was written")
        found = Verified(path, sha256, stamp, tuple(blocks))
        with self._lock:
            self._known[path, sha256] = found
            self._known.move_to_end((path, sha256))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def forget(self, path: Path) -> None:
        """Compare the file anew the next time."""
        with self._lock:
            for key in [key for key in self._known if key[0] == path]:
                del self._known[key]


def entry(digest: Digest) -> dict[str, Any]:
    """A digest as `Job.result_files` has it."""
    return digest._asdict()


def add_file(session: Session, job_id: uuid.UUID, name: str, digest: Digest) -> None:
    """Write down the digest of a result file that was made, or first looked at, after the job's end."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).first()
    if job is not None:
        job.result_files = {**(job.result_files or {}), name: entry(digest)}


def note_scan(session: Session, tenant: str, sha256: str) -> None:
    """Mark the tenant's scan as damaged, and count it unless it was known."""
    scan = session.scalars(select(Scan).where(Scan.tenant == tenant, Scan.sha256 == sha256).with_for_update()).first()
    if scan is not None and scan.damaged_at is None:
        scan.damaged_at = func.now()
        count(session, "scan", scan_id=str(scan.id))


def note_job(session: Session, job_id: uuid.UUID, name: str, kind: str) -> None:
    """Mark a file of the job as damaged, and count it unless it was known."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).first()
    if job is not None and name not in (job.damaged or {}):
        job.damaged = {**(job.damaged or {}), name: datetime.now(UTC).isoformat(timespec="seconds")}
        count(session, kind, job_id=str(job_id), file=name)


def count(session: Session, kind: str, **what: object) -> None:
    """Count a damaged file, and log which."""
    counters.add(session, DAMAGE, kind)
    log.error("file.damaged", extra={"kind": kind, **what})


def warnings_of(damaged: Mapping[str, str] | None) -> list[str]:
    """What a job tells of its damaged files."""
    # Slices are computed anew.
    lost = {name: at for name, at in (damaged or {}).items() if not name.startswith("slices/")}
    return [f"{name} was found damaged on the disk at {at}; post the job again" for name, at in lost.items()]
