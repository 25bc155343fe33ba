"""Rows and files of scans, which come and go together. A tenant's scans meet no other tenant's: not even equal ones."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from udig_recon.core.errors import DamagedScan, UnreadableScan
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.formats.prepared import open_prepared
from udig_recon.core.identity import Identity
from udig_recon.worker.access import quotas
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.database import locks
from udig_recon.worker.database.tables import OPEN, Job, Key, Scan
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage


class UnknownIdentity(Exception):
    """Whether and whom a scan's files tell of cannot be said: one of them is damaged or not there."""


@dataclass(frozen=True)
class Brought:
    """A file that was received whole and found to be a scan."""

    path: Path
    sha256: str
    size_bytes: int
    filename: str
    header: dict[str, Any]  # udig_recon.core.acquisition.ScanHeader as JSON
    prepared: Path | None = None  # its prepared form; None where that lies in its place, whole
    identity: Identity | None = None  # of a template that came with it; None: that of before stays


def keep(
    session: Session,
    storage: Storage,
    tenant: str,
    file: Brought,
    *,
    key: Key | None,
    retention_days: int | None,
    limits: TenantLimits | None = None,
) -> tuple[Scan, bool]:
    """The tenant's scan with these bytes, and whether it is new. Commits nothing: after a rollback call `forget`.

    Raises QuotaReached.
    """
    locks.acquire_content(session, tenant, file.sha256)
    scan = session.scalar(select(Scan).where(Scan.tenant == tenant, Scan.sha256 == file.sha256))
    created = scan is None
    if scan is None:
        size = file.size_bytes + (0 if file.prepared is None else file.prepared.stat().st_size)
        if key is not None:
            quotas.check_bytes(session, key, size)
        if limits is not None:
            quotas.check_tenant_bytes(session, tenant, limits, size)
        scan = Scan(
            tenant=tenant,
            key_id=None if key is None else key.id,
            sha256=file.sha256,
            filename=file.filename,
            size_bytes=file.size_bytes,
            header=file.header,
            expires_at=end_of(retention_days),
        )
        session.add(scan)
    elif scan.expires_at is not None:
        # Whoever brings it again may count on it as long as for a new one.
        scan.expires_at = None if (end := end_of(retention_days)) is None else func.greatest(Scan.expires_at, end)
    if file.prepared is not None:
        scan.prepared_bytes, scan.header = file.prepared.stat().st_size, file.header
        storage.commit(file.prepared, keys.prepared_scan(file.sha256, tenant))
    if file.identity is not None:
        storage.put(keys.identity_of_scan(file.sha256, tenant), file.identity.to_json().encode())
    session.flush()
    session.refresh(scan)
    # Also in the place of what lies there: it may be damaged, these bytes are not.
    storage.commit(file.path, keys.scan(file.sha256, tenant))
    scan.damaged_at = None
    return scan, created


def forget(session: Session, storage: Storage, tenant: str, sha256: str) -> bool:
    """Remove the file of a scan that has no row, and tell whether. Nobody can store the same bytes meanwhile."""
    locks.acquire_content(session, tenant, sha256)
    if session.scalar(select(Scan.id).where(Scan.tenant == tenant, Scan.sha256 == sha256)) is not None:
        return False
    storage.delete(keys.scan(sha256, tenant))
    storage.delete(keys.prepared_scan(sha256, tenant))
    storage.delete(keys.identity_of_scan(sha256, tenant))
    return True


def identity_of(storage: Storage, tenant: str, sha256: str) -> Identity | None:
    """Who was scanned: by the template that came with a scan, or else by the scan's own header.

    None where neither tells. Only what a destination with `identifiers = true` is sent may hold it. Raises
    UnknownIdentity where a file that would tell is damaged or not there.
    """
    try:
        return Identity.from_json(storage.read(keys.identity_of_scan(sha256, tenant))) or None
    except FileNotFoundError:
        pass
    except (UnreadableScan, DamagedFile):
        raise UnknownIdentity from None
    try:
        with storage.local(keys.prepared_scan(sha256, tenant)) as path, open_prepared(path) as scan:
            return scan.identity or None
    except (FileNotFoundError, DamagedFile, DamagedScan):
        raise UnknownIdentity from None


def end_of(retention_days: int | None) -> ColumnElement[Any] | None:
    """When what is made now is to be deleted; None: never by itself."""
    return None if retention_days is None else func.now() + timedelta(days=retention_days)


def is_in_use(scan: Scan) -> ColumnElement[bool]:
    """Whether a job waits for the scan or runs on it, as a condition on jobs."""
    return (Job.scan_id == scan.id) & Job.status.in_(OPEN)
