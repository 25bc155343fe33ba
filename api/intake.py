"""From the body of a request to a stored scan: receive, look into, keep; or leave nothing behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import anyio.to_thread
from fastapi import Request
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.context import Context
from api.multipart import Part, PartReader
from api.problems import Invalid, TooLarge
from api.uploads import Upload, base_name, counted, uploading
from core.formats import probe_in_child
from worker.models import Scan
from worker.storage import Storage
from worker.tidying import lock_content

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
    context: Context, request: Request, filename: str | None = None, *, file: str = "file", text: str | None = None
) -> AsyncIterator[Received]:
    """Receive the body: the file itself, or a form with the part `file` and, if named, the field `text`."""
    async with uploading(context.storage, context.settings) as upload:
        declared = request.headers.get("content-length")
        if declared is not None:
            around = 2 * FIELD_BYTES if is_form(request) else 0
            await run_in_threadpool(upload.check, int(declared) - around)
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
        yield Received(upload, await _look(context, upload), field)


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


async def _look(context: Context, upload: Upload) -> dict[str, Any]:
    """The header of the scan: of the stored one where these bytes are known, else by a probe in its own process."""
    known = await run_in_threadpool(_known_header, context, upload.sha256)
    if known is not None:
        return known
    probed = await anyio.to_thread.run_sync(probe_in_child, upload.path, context.limits, limiter=context.probes)
    return asdict(probed)


def _known_header(context: Context, sha256: str) -> dict[str, Any] | None:
    with context.sessions() as session:
        return session.scalar(select(Scan.header).where(Scan.sha256 == sha256))


def keep(session: Session, storage: Storage, file: Received) -> tuple[Scan, bool]:
    """The scan with these bytes and whether it is new. Commits nothing: after a rollback call `forget_scan`."""
    upload = file.upload
    lock_content(session, upload.sha256)
    scan = session.scalar(select(Scan).where(Scan.sha256 == upload.sha256))
    created = scan is None
    if scan is None:
        scan = Scan(sha256=upload.sha256, filename=upload.filename, size_bytes=upload.size_bytes, header=file.header)
        session.add(scan)
        session.flush()
    if created or not storage.scan(upload.sha256).is_file():
        storage.keep_scan(upload.path, upload.sha256)
    return scan, created
