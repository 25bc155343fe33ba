"""A complete upload becomes a scan: its file is looked into where it lies and moved to its place, never copied."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from anyio import CancelScope
from fastapi import Request

from udig_recon.api.access.authentication import Caller
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.problems import Conflict, Gone, Invalid, UnknownMedia
from udig_recon.api.scans.ingest import ReceivedScan, examine, sharing_of
from udig_recon.api.scans.upload import Upload, open_upload
from udig_recon.api.uploads.lifecycle import busy, delete_bytes, delete_upload, find_upload, lost
from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.worker.storage import direct_uploads, uploads
from udig_recon.worker.storage.direct_uploads import IncompleteParts
from udig_recon.worker.storage.scratch import Scratch
from udig_recon.worker.storage.uploads import CompleteUpload, UploadBusy

REFUSED = (UnknownFormat, UnreadableScan, UnsupportedScan, UnknownMedia, Invalid)
"""Problems of the bytes themselves: they would be the same the next time."""


@asynccontextmanager
async def receive_uploaded(
    context: Context, caller: Caller, request: Request, upload_id: uuid.UUID
) -> AsyncIterator[ReceivedScan | uuid.UUID]:
    """The file of a complete upload, looked into; or the id of the scan that the upload has become before.

    An upload whose bytes are refused is deleted with them; after any other problem the same may be asked again.
    Raises NotFound, Gone, Conflict, Locked, and as `examine` does.
    """
    row = await find_upload(context, caller, upload_id)
    if row.stored_at is not None:
        if row.scan_id is None:
            raise Gone("the scan that this upload became was deleted; upload it again")
        yield row.scan_id
        return
    if row.part_bytes is None and row.offset_bytes < row.size_bytes:
        detail = f"{row.offset_bytes} of {row.size_bytes} bytes of this upload came; send the rest first"
        raise Conflict(detail, headers={"Upload-Offset": str(row.offset_bytes)}, offset_bytes=row.offset_bytes)
    client = client_of(request)
    async with AsyncExitStack() as opened:
        opened.enter_context(context.concurrency.uploads.slot(client, caller.limits(context.settings).max_uploads))
        upload = await _open(opened, context, row)
        try:
            await context.probe_queue.run(sharing_of(caller, client), row.size_bytes, upload.finish_file)
            _check_digest(row, upload)
            scan = await opened.enter_async_context(examine(context, caller, client, upload))
        except REFUSED:
            with CancelScope(shield=True):
                await context.file_threads.run(delete_upload, context, caller.who, upload_id)
            raise
        scan.resumable_id = upload_id
        yield scan
    with CancelScope(shield=True):
        await context.file_threads.run(delete_bytes, context, upload_id, row.part_bytes)


async def _open(opened: AsyncExitStack, context: Context, row: Any) -> Upload:
    """Raises Locked, Gone, and Conflict where parts are missing in the bucket."""
    if row.part_bytes is None:
        file: Callable[[], Scratch] = partial(CompleteUpload, uploads.path_of(context.storage, row.id), row.size_bytes)
    else:
        parts = direct_uploads.parts_of(row.size_bytes, row.part_bytes)
        file = partial(direct_uploads.join, context.storage, row.id, parts)
    try:
        upload = await opened.enter_async_context(open_upload(context, file))
    except IncompleteParts as error:
        detail = f"{error} of this upload are not in the bucket, or not of their size; send them, then ask again"
        raise Conflict(detail, missing=error.numbers) from None
    except UploadBusy:
        raise busy() from None
    except FileNotFoundError:
        raise lost(context.storage) from None
    upload.filename = row.filename
    return upload


def _check_digest(row: Any, upload: Upload) -> None:
    if row.sha256 not in (None, upload.sha256):
        detail = "the bytes that came are not those whose sha256 was announced; upload them again"
        raise Invalid.at("Upload-Metadata", detail, found=f"sha256 {row.sha256}", expected=f"sha256 {upload.sha256}")
