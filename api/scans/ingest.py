"""Ingest of a scan: receive the body, probe it in the sandbox, store it; otherwise leave nothing behind."""

import logging
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CancelScope
from fastapi import Request
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller
from udig_recon.api.database.async_queries import AsyncQuery
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.multipart import Part, PartReader
from udig_recon.api.http.problems import Gone, Invalid, TooLarge
from udig_recon.api.scans.upload import StorageAllowance, Upload, base_name, check_length, open_upload
from udig_recon.core.errors import DamagedScan, UnknownFormat
from udig_recon.core.formats.prepared import READING, open_prepared
from udig_recon.core.formats.unsupported import by_file_name
from udig_recon.core.identity import TEMPLATE_BYTES, Identity
from udig_recon.worker.access import quotas
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.storage import keys, uploads
from udig_recon.worker.storage.base import Storage, StorageUnavailable
from udig_recon.worker.storage.scans import Brought, forget, keep
from udig_recon.worker.storage.uploads import UploadMoved
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
_KNOWN = AsyncQuery(select(Scan.header).where(Scan.tenant == bindparam("tenant"), Scan.sha256 == bindparam("sha256")))
FIELD_BYTES = 1 << 20  # most that each form field beside the file may hold
HEADER = "header"
"""Part of a form that goes with the file: a file that belongs to it, such as BART's .hdr to a .cfl."""
TEMPLATE = "template"
"""Part of a form: a DICOM file of the study that exported images are to belong to."""
MOST_TEMPLATE_BYTES = 64 << 20


@dataclass
class ReceivedScan:
    """A file on the disk, whole but not kept yet, with the form field that came beside it."""

    upload: Upload
    header: dict[str, Any]  # udig_recon.core.acquisition.ScanHeader as JSON
    text: bytes | None = None
    prepared: Path | None = None  # the scan's prepared form; None where that lies in its place, whole
    resumable_id: uuid.UUID | None = None  # the resumable upload whose bytes these are
    identity: Identity | None = None  # of the template that came beside


def is_form(request: Request) -> bool:
    """Whether the body is a form rather than the file itself."""
    return request.headers.get("content-type", "").lower().startswith("multipart/")


@asynccontextmanager
async def receive_scan(
    context: Context,
    caller: Caller,
    request: Request,
    filename: str | None = None,
    *,
    file: str = "file",
    text: str | None = None,
) -> AsyncIterator[ReceivedScan]:
    """Receive the body: the file itself, or a form with the part `file` and, if named, the field `text`.

    The part `header`, which a form may have, is stored before or behind the file, as it came. Of the part `template`
    the identity is kept alone.
    """
    declared = request.headers.get("content-length")
    least = (
        0 if declared is None else int(declared) - (3 * FIELD_BYTES + MOST_TEMPLATE_BYTES if is_form(request) else 0)
    )
    async with begin_upload(context, caller, client_of(request), least, int(declared or 0)) as upload:
        body = check_length(request.stream(), declared)
        field = template = None
        if is_form(request):
            field, template = await _receive_form(
                PartReader(request.headers["content-type"]).events(body), upload, file, text
            )
        else:
            async for chunk in body:
                await upload.write(chunk)
        upload.filename = base_name(filename or _header_text(request, "x-filename") or upload.filename)
        if not is_form(request):
            upload.digest = request.headers.get("repr-digest")
        await upload.finish()
        identity = None
        if template is not None:
            read = partial(context.prober.read_template, template)
            sharing = sharing_of(caller, client_of(request))
            identity = await context.probe_queue.run(sharing, len(template), read)
        async with examine(context, caller, client_of(request), upload, field) as scan:
            scan.identity = identity
            yield scan


@asynccontextmanager
async def begin_upload(
    context: Context, caller: Caller, client: str, least: int = 0, most: int = 0
) -> AsyncIterator[Upload]:
    """A new upload of `least` to `most` bytes (0: unknown), in one of the client's places and within its quota."""
    with context.concurrency.uploads.slot(client, caller.limits(context.settings).max_uploads):
        async with open_upload(context) as upload:
            if least > context.settings.max_upload_bytes:  # which a database may not even have a number for
                upload.check(least)
            room = await run_in_threadpool(_room, context, caller, least, most)
            if room is not None:
                upload.keep_within(room)
            await context.file_threads.run(upload.check, max(least, 0))
            yield upload


@asynccontextmanager
async def examine(
    context: Context, caller: Caller, client: str, upload: Upload, field: bytes | None = None
) -> AsyncIterator[ReceivedScan]:
    """Look into a file that is there whole, or find that it is known. Raises UnreadableScan and UnsupportedScan."""
    sharing = sharing_of(caller, client)
    known = await _find_scan(context, caller, sharing, upload)
    if known is not None:
        yield ReceivedScan(upload, known, field)
        return
    async with _part(context) as (path, descriptor):
        header = await _look(context, sharing, upload, descriptor)
        await context.file_threads.run(os.fsync, descriptor)
        yield ReceivedScan(upload, header, field, path)


def sharing_of(caller: Caller, client: str) -> str:
    """Among whom the readers are shared: tenants, or addresses where there are no keys."""
    return client if caller.key is None else caller.tenant


def _header_text(request: Request, name: str) -> str:
    """A header that clients may have sent in UTF-8."""
    return request.headers.get(name, "").encode("latin-1").decode("utf-8", "replace")


async def _receive_form(
    events: AsyncIterator[Part | bytes | None], upload: Upload, file: str, text: str | None
) -> tuple[bytes | None, bytes | None]:
    """The field `text`, and the beginning of the template; None where there is none."""
    seen: set[str] = set()
    needed = {file} | ({text} if text else set())
    wanted = needed | {HEADER, TEMPLATE}
    field, template, header_bytes, template_bytes, name = bytearray(), bytearray(), 0, 0, ""
    async for event in events:
        if isinstance(event, Part):
            name = event.name
            if name not in wanted - seen:
                problem = "comes twice" if name in seen else "is not known"
                raise Invalid.at(
                    name, f"the form's part {name!r} {problem}", found=name, expected=" and ".join(sorted(wanted))
                )
            seen.add(name)
            if name == file:
                upload.filename, upload.digest = event.filename or "", event.headers.get("repr-digest")
        elif event and name == file:
            await upload.write(event)
        elif event and name == TEMPLATE:
            template_bytes += len(event)
            template += event[: TEMPLATE_BYTES - len(template)]
            if template_bytes > MOST_TEMPLATE_BYTES:
                expected = f"at most {MOST_TEMPLATE_BYTES} bytes: an image of the study will do"
                raise TooLarge.at(name, "the template is too large", found="more", expected=expected)
        elif event:
            if name == HEADER:
                header_bytes += len(event)
            else:
                field += event
            if max(len(field), header_bytes) > FIELD_BYTES:
                expected = f"at most {FIELD_BYTES} bytes"
                raise TooLarge.at(name, f"the part {name} is too large", found="more", expected=expected)
            if name == HEADER:
                await upload.write(event)
    if header_bytes and upload.digest is not None:
        problem = "a file with a header beside it is stored with that: send no digest"
        raise Invalid.at("Repr-Digest", problem, found=upload.digest, expected="nothing")
    if missing := needed - seen:
        lost = " and ".join(sorted(missing))
        raise Invalid.at(lost, f"the form has no part {lost}", found="nothing", expected=f"a part named {lost}")
    return bytes(field) if text else None, bytes(template) if TEMPLATE in seen else None


async def _find_scan(context: Context, caller: Caller, sharing: str, upload: Upload) -> dict[str, Any] | None:
    """The header of the tenant's scan with these bytes, if its prepared form is there, whole and of today's reading."""
    known = await context.queries.one(_KNOWN, tenant=caller.tenant, sha256=upload.sha256)
    if known is None:
        return None
    is_whole = partial(_is_whole, context.storage, keys.prepared_scan(upload.sha256, caller.tenant), upload.sha256)
    whole = await context.probe_queue.run(sharing, upload.size_bytes, is_whole)
    header: dict[str, Any] | None = known.header if whole else None
    return header


@asynccontextmanager
async def _part(context: Context) -> AsyncIterator[tuple[Path, int]]:
    """A new file beside the upload and its descriptor; gone at the end, unless it was moved."""
    scratch = await context.file_threads.run(context.storage.scratch)
    try:
        yield scratch.path, scratch.file.fileno()
    finally:
        with CancelScope(shield=True):
            await context.file_threads.run(scratch.close)


def _is_whole(storage: Storage, key: str, sha256: str) -> bool:
    try:
        with storage.local(key) as path, open_prepared(path) as scan:
            scan.verify()
            return scan.source_sha256 == sha256 and scan.reading >= READING
    except StorageUnavailable:
        raise
    except (DamagedScan, OSError):
        storage.drop_copy(key)
        return False


async def _look(context: Context, sharing: str, upload: Upload, output: int) -> dict[str, Any]:
    """The header of the scan, by a process that writes its prepared form to a descriptor."""
    room = context.storage.free_bytes() - context.settings.disk_reserve_bytes
    work = partial(
        context.prober.prepare_scan, upload.path, output, upload.sha256, context.limits, room_bytes=max(0, room)
    )
    with tracing.span("probe"):
        try:
            return asdict(await context.probe_queue.run(sharing, upload.size_bytes, work))
        except UnknownFormat as error:
            raise by_file_name(error, upload.filename) from None


def _room(context: Context, caller: Caller, least: int, most: int) -> StorageAllowance | None:
    """What the caller may store yet; None: as much as the service takes. Raises QuotaReached where that is nothing.

    A file that may be, by its size, one that the tenant has already is let in: it would take no room.
    """
    with context.sessions() as session:
        known = select(Scan.id).where(Scan.tenant == caller.tenant, Scan.size_bytes.between(least, most))
        if most and session.scalar(select(known.exists())):
            return None
        limits = limits_of(session, caller.tenant, context.settings)
        left = quotas.bytes_left(session, caller.tenant, limits, caller.key)
    if left == 0:
        raise quotas.QuotaReached(
            "not one byte more may be kept (max_stored_bytes); delete some scans or jobs", quotas.BYTES_RETRY_SECONDS
        )
    return None if left is None else StorageAllowance(caller.tenant, left)


@contextmanager
def store_scan(context: Context, caller: Caller, file: ReceivedScan) -> Iterator[tuple[Session, Scan, bool]]:
    """A session with the caller's scan of these bytes, and whether it is new; without a commit nothing is kept."""
    upload, retention_days = file.upload, caller.retention_days(context)
    brought = Brought(
        upload.path, upload.sha256, upload.size_bytes, upload.filename, file.header, file.prepared, file.identity
    )
    # Before the transaction: to bring gigabytes to a bucket takes longer than one may last.
    for path, key in (
        (file.prepared, keys.prepared_scan(upload.sha256, caller.tenant)),
        (upload.path, keys.scan(upload.sha256, caller.tenant)),
    ):
        if path is not None:
            context.storage.stage(path, key)
    with context.sessions() as session:
        try:
            if file.resumable_id is not None:
                _release(session, file.resumable_id)
            scan, created = keep(
                session,
                context.storage,
                caller.tenant,
                brought,
                key=caller.key,
                retention_days=retention_days,
                limits=limits_of(session, caller.tenant, context.settings),
            )
            if file.resumable_id is not None:
                uploads.set_scan(session, file.resumable_id, scan.id)
            yield session, scan, created
        finally:
            _forget_unkept(session, context, caller, upload)


def _release(session: Session, upload_id: uuid.UUID) -> None:
    """Count the bytes of an upload no more: from now on they are the scan's."""
    try:
        uploads.release(session, upload_id)
    except UploadMoved:
        raise Gone("this upload was deleted while it was looked into") from None


def _forget_unkept(session: Session, context: Context, caller: Caller, upload: Upload) -> None:
    """Remove the file unless its row was committed. What cannot be asked now is left to the workers' tidying."""
    try:
        session.rollback()
        forget(session, context.storage, caller.tenant, upload.sha256)
    except (*AWAY, StorageUnavailable) as error:
        log.warning("scan.left_to_cleanup", extra={"error": type(error).__name__})
