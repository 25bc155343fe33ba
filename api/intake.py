"""From the body of a request to a stored scan: receive, look into, keep; or leave nothing behind."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import Request
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from api.access import Caller
from api.context import Context
from api.multipart import Part, PartReader
from api.problems import Invalid, TooLarge
from api.reads import Read
from api.shares import client_of
from api.uploads import Upload, base_name, counted, uploading
from worker import quotas, tracing
from worker.database import AWAY
from worker.models import Key, Scan
from worker.scans import Brought, forget, keep

log = logging.getLogger(__name__)
SCAN_BROUGHT = "scan.brought"
_KNOWN = Read(select(Scan.header).where(Scan.tenant == bindparam("tenant"), Scan.sha256 == bindparam("sha256")))
FIELD_BYTES = 1 << 20  # most that the form field beside the file may hold


@dataclass
class Received:
    """A file on the disk, whole but not kept yet, with the form field that came beside it."""

    upload: Upload
    header: dict[str, Any]  # core.acquisition.ScanHeader as JSON
    text: bytes | None = None


def is_form(request: Request) -> bool:
    """Whether the body is a form rather than the file itself."""
    return request.headers.get("content-type", "").lower().startswith("multipart/")


@asynccontextmanager
async def received(
    context: Context,
    caller: Caller,
    request: Request,
    filename: str | None = None,
    *,
    file: str = "file",
    text: str | None = None,
) -> AsyncIterator[Received]:
    """Receive the body: the file itself, or a form with the part `file` and, if named, the field `text`."""
    async with AsyncExitStack() as stack:
        stack.enter_context(context.room.uploads.taken(client_of(request)))
        upload = await stack.enter_async_context(uploading(context))
        declared = request.headers.get("content-length")
        if declared is not None:
            around = 2 * FIELD_BYTES if is_form(request) else 0
            await context.files.run(upload.check, int(declared) - around)
        if caller.key is not None:
            await context.files.run(_check_quota, context, caller.key)
        body = counted(request.stream(), declared)
        field = None
        if is_form(request):
            field = await _receive_form(PartReader(request.headers["content-type"]).events(body), upload, file, text)
        else:
            async for chunk in body:
                await upload.write(chunk)
        upload.filename = base_name(filename or _header_text(request, "x-filename") or upload.filename)
        if not is_form(request):
            upload.digest = request.headers.get("repr-digest")
        await upload.finish()
        yield Received(upload, await _look(context, caller, upload), field)


def _header_text(request: Request, name: str) -> str:
    """A header that clients may have sent in UTF-8."""
    return request.headers.get(name, "").encode("latin-1").decode("utf-8", "replace")


async def _receive_form(
    events: AsyncIterator[Part | bytes | None], upload: Upload, file: str, text: str | None
) -> bytes | None:
    seen: set[str] = set()
    wanted = {file} | ({text} if text else set())
    field, name = bytearray(), ""
    async for event in events:
        if isinstance(event, Part):
            name = event.name
            if name not in wanted - seen:
                problem = "comes twice" if name in seen else "is not known"
                raise Invalid.at(name, f"the form's part {name!r} {problem}", found=name, expected=" and ".join(wanted))
            seen.add(name)
            if name == file:
                upload.filename, upload.digest = event.filename or "", event.headers.get("repr-digest")
        elif event and name == file:
            await upload.write(event)
        elif event:
            field += event
            if len(field) > FIELD_BYTES:
                expected = f"at most {FIELD_BYTES} bytes"
                raise TooLarge.at(name, f"the part {name} is too large", found="more", expected=expected)
    if missing := wanted - seen:
        lost = " and ".join(sorted(missing))
        raise Invalid.at(lost, f"the form has no part {lost}", found="nothing", expected=f"a part named {lost}")
    return bytes(field) if text else None


async def _look(context: Context, caller: Caller, upload: Upload) -> dict[str, Any]:
    """The header of the scan: of the stored one where the tenant has these bytes, else by a probe in a process."""
    known = await context.reads.one(_KNOWN, tenant=caller.tenant, sha256=upload.sha256)
    if known is not None:
        header: dict[str, Any] = known.header
        return header
    with tracing.span("probe"):
        probed = await context.probes.run(context.prober.probe, upload.path, context.limits)
    return asdict(probed)


def _check_quota(context: Context, key: Key) -> None:
    """Raises QuotaReached where not one byte more may be stored."""
    with context.sessions() as session:
        quotas.check_bytes(session, key, 0)


@contextmanager
def keeping(context: Context, caller: Caller, file: Received) -> Iterator[tuple[Session, Scan, bool]]:
    """A session with the caller's scan of these bytes, and whether it is new; without a commit nothing is kept."""
    upload, retention_days = file.upload, caller.retention_days(context)
    brought = Brought(upload.path, upload.sha256, upload.size_bytes, upload.filename, file.header)
    with context.sessions() as session:
        try:
            scan, created = keep(
                session, context.storage, caller.tenant, brought, key=caller.key, retention_days=retention_days
            )
            yield session, scan, created
        finally:
            _forget_unkept(session, context, caller, upload)


def _forget_unkept(session: Session, context: Context, caller: Caller, upload: Upload) -> None:
    """Remove the file unless its row was committed. What cannot be asked now is left to the workers' tidying."""
    try:
        session.rollback()
        forget(session, context.storage, caller.tenant, upload.sha256)
    except AWAY as error:
        log.warning("database.away", extra={"error": type(error).__name__})
