"""Integrity of stored bytes: verification by SHA-256, and the record of damaged files."""

import hashlib
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.core.files.atomic import DamagedFile, Digest
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Job, Scan
from udig_recon.worker.storage.base import Storage, StoredObject
from udig_recon.worker.storage.keys import name_of

log = logging.getLogger(__name__)
BLOCK = 1 << 20
REMEMBERED = 256  # objects whose verification a process remembers
DAMAGE = "damage"  # kind of the counter
KINDS = ("scan", "prepared", "slice", "preview", "result", "converted")


@dataclass(frozen=True)
class Verified:
    """An object that was read once and had the digest that its row names.

    `blocks` are the SHA-256 of its blocks of BLOCK bytes. Later reads are compared with them: a disk may rot under an
    object that nobody writes to.
    """

    storage: Storage
    info: StoredObject
    sha256: str
    blocks: tuple[bytes, ...]

    @property
    def key(self) -> str:
        """Where it lies."""
        return self.info.key

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Its bytes from `start` to before `end`, block by block. Raises DamagedFile before it gives a wrong one."""
        try:
            yield from self._read(start, end)
        except _WrongBlock as wrong:
            # A local copy may have spoilt while the object has not.
            if not self.storage.drop_copy(self.key):
                raise self._damage() from None
            try:
                yield from self._read(max(start, wrong.number * BLOCK), end)
            except _WrongBlock:
                raise self._damage() from None

    def _read(self, start: int, end: int) -> Iterator[bytes]:
        with self.storage.open(self.key) as file:
            first = start // BLOCK
            file.seek(first * BLOCK)
            for number in range(first, -(-end // BLOCK)):
                block = file.read(BLOCK)
                if number >= len(self.blocks) or hashlib.sha256(block).digest() != self.blocks[number]:
                    raise _WrongBlock(number)
                offset = number * BLOCK
                yield block[max(start - offset, 0) : end - offset]

    def _damage(self) -> DamagedFile:
        return DamagedFile(f"{name_of(self.key)} is no longer what was written")


class _WrongBlock(Exception):
    """A block has another digest than it had; `number` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Verifier:
    """Compares objects with their digests, each once as long as its version stays the same."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Verified] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, storage: Storage, key: str, sha256: str) -> Verified:
        """The object, once it is found to have this digest. Raises DamagedFile, or FileNotFoundError without it."""
        # The version of before the reading: a write during it makes another one, which is compared the next time.
        info = storage.info(key)
        with self._lock:
            known = self._known.get((key, sha256))
        if known is not None and known.info.version == info.version:
            return known
        found, blocks = _digests(storage, key)
        if found != sha256 and storage.drop_copy(key):
            found, blocks = _digests(storage, key)
        if found != sha256:
            raise DamagedFile(f"{name_of(key)} is not what was written")
        verified = Verified(storage, info, sha256, tuple(blocks))
        with self._lock:
            self._known[key, sha256] = verified
            self._known.move_to_end((key, sha256))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return verified

    def forget(self, key: str) -> None:
        """Compare the object anew the next time."""
        with self._lock:
            for known in [known for known in self._known if known[0] == key]:
                del self._known[known]


def _digests(storage: Storage, key: str) -> tuple[str, list[bytes]]:
    """The digest of an object, and those of its blocks."""
    whole, blocks = hashlib.sha256(), []
    with storage.open(key) as file:
        while block := file.read(BLOCK):
            whole.update(block)
            blocks.append(hashlib.sha256(block).digest())
    return whole.hexdigest(), blocks


def digest_of(storage: Storage, key: str) -> Digest:
    """The digest of an object's bytes as they are now. Raises FileNotFoundError and DamagedFile."""
    digest, size = hashlib.sha256(), 0
    with storage.open(key) as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return Digest(digest.hexdigest(), size)


def entry(digest: Digest) -> dict[str, Any]:
    """A digest as `Job.result_files` has it."""
    return digest._asdict()


def add_file(session: Session, job_id: uuid.UUID, name: str, digest: Digest) -> None:
    """Record the digest of a result file that was made, or first read, after the job's end."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).first()
    if job is not None:
        job.result_files = {**(job.result_files or {}), name: entry(digest)}


def note_scan(session: Session, tenant: str, sha256: str) -> None:
    """Mark the tenant's scan as damaged, and count it unless it was marked."""
    scan = session.scalars(select(Scan).where(Scan.tenant == tenant, Scan.sha256 == sha256).with_for_update()).first()
    if scan is not None and scan.damaged_at is None:
        scan.damaged_at = func.now()
        count(session, "scan", scan_id=str(scan.id))


def note_job(session: Session, job_id: uuid.UUID, name: str, kind: str) -> None:
    """Mark a file of the job as damaged, and count it unless it was marked."""
    job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).first()
    if job is not None and name not in (job.damaged or {}):
        job.damaged = {**(job.damaged or {}), name: datetime.now(UTC).isoformat(timespec="seconds")}
        count(session, kind, job_id=str(job_id), file=name)


def count(session: Session, kind: str, **which: object) -> None:
    """Count a damaged file and log which one it is."""
    counters.add(session, DAMAGE, kind)
    log.error("file.damaged", extra={"kind": kind, **which})


def warnings_of(damaged: Mapping[str, str] | None) -> list[str]:
    """Warnings of a job about its damaged files, but for slices: they are computed anew."""
    lost = {name: at for name, at in (damaged or {}).items() if not name.startswith("slices/")}
    return [f"{name} was found damaged on the disk at {at}; post the job again" for name, at in lost.items()]
