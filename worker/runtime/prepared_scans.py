"""What a worker reads of scans: their prepared form alone, made anew in the sandbox where none is there or whole."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import update

from udig_recon.core.acquisition import Acquisition
from udig_recon.core.errors import DamagedScan
from udig_recon.core.files.atomic import DamagedFile, Digest
from udig_recon.core.formats import Limits
from udig_recon.core.formats.prepared import READING, PreparedScan, open_prepared
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.storage import integrity, keys
from udig_recon.worker.storage.base import Storage

log = logging.getLogger(__name__)


def read_slice(process: WorkerProcess, claim: Claim) -> Acquisition:
    """The claim's slice of its scan.

    A prepared form that is missing, damaged or older than this version's reading is made anew from the scan's bytes,
    once their SHA-256 is seen to be what it was. Raises DamagedFile where it is not, FileNotFoundError without a scan,
    and what readers raise.
    """
    key = keys.prepared_scan(claim.scan_sha256, claim.tenant)
    try:
        if (found := _read_current(process, claim, key)) is not None:
            return found
    except FileNotFoundError:
        pass
    except DamagedScan:
        with process.sessions.begin() as session:
            integrity.count(session, "prepared", scan_sha256=claim.scan_sha256)
    _prepare(process, claim)
    try:
        with process.storage.local(key) as path, open_prepared(path) as scan:
            return scan.read([claim.slice])
    except DamagedScan as error:
        raise DamagedFile(f"{keys.name_of(key)} was damaged as soon as it was prepared") from error


def _read_current(process: WorkerProcess, claim: Claim, key: str) -> Acquisition | None:
    """The slice; None: the prepared form is of another scan or an older reading. Raises DamagedScan."""
    while True:
        try:
            with process.storage.local(key) as path, open_prepared(path) as scan:
                return scan.read([claim.slice]) if _is_of(scan, claim) and scan.reading >= READING else None
        except DamagedScan:
            if not process.storage.drop_copy(key):
                raise


def _is_of(scan: PreparedScan, claim: Claim) -> bool:
    return scan.source_sha256 == claim.scan_sha256 and claim.slice < scan.header.slices


@contextmanager
def _verified(storage: Storage, key: str, sha256: str) -> Iterator[Path]:
    """A local file with the scan's bytes, compared with their digest: the very file that is read afterwards.

    Raises DamagedFile.
    """
    with ExitStack() as opened:
        path = opened.enter_context(storage.local(key))
        if Digest.of(path).sha256 != sha256:
            if not storage.drop_copy(key):
                raise DamagedFile(f"{keys.name_of(key)} is not what was written")
            path = opened.enter_context(storage.local(key))
            if Digest.of(path).sha256 != sha256:
                raise DamagedFile(f"{keys.name_of(key)} is not what was written")
        yield path


def _prepare(process: WorkerProcess, claim: Claim) -> None:
    storage, settings = process.storage, process.settings
    key = keys.scan(claim.scan_sha256, claim.tenant)
    with storage.scratch() as scratch, _verified(storage, key, claim.scan_sha256) as source:
        room = storage.free_bytes() - settings.disk_reserve_bytes
        # The settings may have been wider when it came.
        limits = Limits(**dict.fromkeys(asdict(Limits()), 10**6))
        process.prober.prepare_scan(source, scratch.file.fileno(), claim.scan_sha256, limits, room_bytes=room)
        size = scratch.path.stat().st_size
        storage.commit(scratch.path, keys.prepared_scan(claim.scan_sha256, claim.tenant))
    mine = (Scan.tenant == claim.tenant) & (Scan.sha256 == claim.scan_sha256)
    with process.sessions.begin() as session:
        session.execute(update(Scan).where(mine).values(prepared_bytes=size))
    log.info("scan.prepared")
