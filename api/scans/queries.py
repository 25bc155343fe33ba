"""Queries of scans: one scan, pages of scans."""

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.api.http.pagination import Page, PageRequest
from udig_recon.api.http.problems import NotFound
from udig_recon.api.scans.schemas import ScanItem, ScanOut
from udig_recon.worker.database.tables import Scan


def scan_out(scan: Scan) -> ScanOut:
    """A scan as the client sees it."""
    return ScanOut.model_validate(_shown(scan))


def _shown(scan: Scan) -> dict[str, Any]:
    kept = ("id", "filename", "size_bytes", "sha256", "created_at", "expires_at")
    stored = {name: getattr(scan, name) for name in kept}
    warnings = [*scan.header.get("warnings", []), *damage_of(scan)]
    return {**scan.header, **stored, "warnings": warnings}


def damage_of(scan: Scan) -> list[str]:
    """What to know of a scan whose stored bytes are not those that were brought."""
    at = scan.damaged_at
    return [] if at is None else [f"the stored file was found damaged at {at:%Y-%m-%dT%H:%M:%SZ}; post the scan again"]


def read_scan(session: Session, tenant: str, scan_id: uuid.UUID, *, for_change: bool = False) -> Scan:
    """The tenant's scan of that id."""
    query = select(Scan).where(Scan.tenant == tenant, Scan.id == scan_id)
    scan = session.scalars(query.with_for_update() if for_change else query).one_or_none()
    if scan is None:
        raise NotFound(f"there is no scan {scan_id}; GET /v1/scans lists those there are")
    return scan


def scan_page(session: Session, tenant: str, page: PageRequest) -> Page[ScanItem]:
    """A tenant's scans, newest first. Frames, of which a scan has hundreds, are left to `scan_out`."""
    query = page.newest_first(select(Scan).where(Scan.tenant == tenant), Scan.__table__.c.id)
    scans, next_cursor = page.split(session.scalars(query).all())
    return Page(items=[ScanItem.model_validate(_shown(scan)) for scan in scans], next_cursor=next_cursor)
