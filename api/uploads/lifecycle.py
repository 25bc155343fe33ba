"""Resumable uploads as rows: begin, find, list, delete; and the problems of one that is not as a request expects it."""

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from anyio import CancelScope
from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Caller
from udig_recon.api.database.async_queries import AsyncQuery
from udig_recon.api.dependencies import Context
from udig_recon.api.http.pagination import Page, PageRequest
from udig_recon.api.http.problems import Conflict, DiskFull, Gone, Locked, NotFound, Problem, Unavailable
from udig_recon.api.uploads.protocol import Metadata
from udig_recon.api.uploads.schemas import UploadOut
from udig_recon.worker.access import audit, quotas
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.quotas import is_unfinished
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.tables import ResumableUpload
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import direct_uploads, uploads
from udig_recon.worker.storage.base import Storage, StorageUnavailable

log = logging.getLogger(__name__)
_UPLOAD = ResumableUpload.__table__
_IS_PAST = (_UPLOAD.c.expired | (_UPLOAD.c.stored_at.is_(None) & (_UPLOAD.c.expires_at < func.now()))).label("is_past")
_ONE = AsyncQuery(
    select(*_UPLOAD.c, _IS_PAST).where(_UPLOAD.c.tenant == bindparam("tenant"), _UPLOAD.c.id == bindparam("upload_id"))
)


async def find_upload(context: Context, caller: Caller, upload_id: uuid.UUID) -> Any:
    """The row of the caller's upload. Raises NotFound, and Gone where it has expired."""
    row = await context.queries.one(_ONE, tenant=caller.tenant, upload_id=upload_id)
    if row is None:
        raise NotFound(f"there is no upload {upload_id}; GET /v1/uploads lists those that go on")
    if row.is_past:
        raise Gone("nothing was added to this upload for long (UPLOAD_EXPIRY_HOURS), so it was deleted; begin again")
    return row


def upload_page(session: Session, tenant: str, page: PageRequest) -> Page[UploadOut]:
    """A tenant's uploads that are no scans yet, newest first."""
    unfinished = select(ResumableUpload).where(
        ResumableUpload.tenant == tenant, is_unfinished(), ResumableUpload.expires_at > func.now()
    )
    uploads, next_cursor = page.split(session.scalars(page.newest_first(unfinished, _UPLOAD.c.id)).all())
    return Page(items=[UploadOut.model_validate(upload) for upload in uploads], next_cursor=next_cursor)


def begin_upload(
    context: Context, caller: Caller, size_bytes: int, metadata: Metadata, part_bytes: int | None = None
) -> UploadOut:
    """A new upload of this size; with `part_bytes` to the bucket. Raises QuotaReached and DiskFull."""
    reserve = context.settings.disk_reserve_bytes
    if part_bytes is None and context.storage.free_bytes() - size_bytes < reserve:
        raise DiskFull(f"less than the reserve of {reserve} bytes would stay free (DISK_RESERVE_BYTES)")
    upload_id = new_id()
    try:
        with context.sessions() as session:
            limits = limits_of(session, caller.tenant, context.settings)
            quotas.check_upload(session, caller.tenant, limits, caller.key, size_bytes)
            if part_bytes is None:
                uploads.create_file(context.storage, upload_id)
            upload = ResumableUpload(
                id=upload_id,
                tenant=caller.tenant,
                key_id=None if caller.key is None else caller.key.id,
                filename=metadata.filename,
                sha256=metadata.sha256,
                size_bytes=size_bytes,
                part_bytes=part_bytes,
                expires_at=func.now() + kept_for(context.settings),
            )
            session.add(upload)
            audit.append(session, caller.who, "upload.created", upload=upload_id)
            session.flush()
            session.refresh(upload)
            begun = UploadOut.model_validate(upload)
            session.commit()
    except BaseException:
        # Where the answer to a commit was lost, a row may be left: its file is found to be lost when bytes come.
        uploads.delete_file(context.storage, upload_id)
        raise
    return begun


def delete_upload(context: Context, who: Who, upload_id: uuid.UUID) -> bool:
    """Delete an upload of a tenant, whose scan stays where it became one; whether it was there."""
    with context.sessions.begin() as session:
        upload = session.scalars(
            select(ResumableUpload)
            .where(ResumableUpload.tenant == who.tenant, ResumableUpload.id == upload_id)
            .with_for_update()
        ).one_or_none()
        if upload is None:
            return False
        part_bytes = upload.part_bytes
        session.delete(upload)
        audit.append(session, who, "upload.deleted", upload=upload_id)
    delete_bytes(context, upload_id, part_bytes)
    return True


def delete_bytes(context: Context, upload_id: uuid.UUID, part_bytes: int | None) -> None:
    """Delete the bytes of an upload that nobody needs any more, which the orphan cleanup does where this fails."""
    uploads.delete_file(context.storage, upload_id)
    if part_bytes is None:
        return
    try:
        direct_uploads.delete(context.storage, upload_id)
    except StorageUnavailable as error:
        log.warning("upload.left_to_cleanup", extra={"error": type(error).__name__})


@asynccontextmanager
async def deleted_on_failure(context: Context, who: Who, upload_id: uuid.UUID) -> AsyncIterator[None]:
    """Delete the upload where the block fails: a client without an answer does not know its address."""
    try:
        yield
    except BaseException:
        with CancelScope(shield=True):
            await context.file_threads.run(delete_upload, context, who, upload_id)
        raise


def kept_for(settings: Settings) -> timedelta:
    """How long an upload waits for more."""
    return timedelta(hours=settings.upload_expiry_hours)


def moved(offset: int | None) -> Problem:
    """The problem of a request whose offset is not the upload's, which stands at `offset`; None: it is gone."""
    if offset is None:
        return Gone("this upload was deleted, or became a scan, while bytes for it came")
    detail = f"the upload stands at {offset} bytes; HEAD tells where to go on"
    return Conflict(detail, headers={"Upload-Offset": str(offset)}, offset_bytes=offset)


def busy() -> Locked:
    """The problem of a request that found another one at work."""
    return Locked("another request works on this upload; try again")


def lost(storage: Storage) -> Problem:
    """The problem of an upload whose file has not the bytes that its row counts.

    Where each machine keeps the files of its own uploads, another one may have it.
    """
    if storage.local_scratch:
        return Unavailable("another machine of the service has the bytes of this upload; send the request to that one")
    return Gone("the bytes of this upload are lost; begin again")
