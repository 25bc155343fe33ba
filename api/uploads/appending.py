"""Append the body of a request to a resumable upload, block by block."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from anyio import CancelScope
from fastapi import Request
from starlette.requests import ClientDisconnect

from udig_recon.api.access.authentication import Caller
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.problems import ChecksumMismatch, DiskFull, Problem, TooLarge
from udig_recon.api.uploads.lifecycle import busy, kept_for, lost, moved
from udig_recon.api.uploads.protocol import Checksum
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.storage import uploads
from udig_recon.worker.storage.uploads import Progress, UploadBusy, UploadFile, UploadMoved

Done = TypeVar("Done")
BLOCK_BYTES = 1 << 20  # written at once, under the file's lock
SYNC_BYTES = 4 << 20  # put on the disk and counted at once: as much is sent again after a process was killed
LOCK_SECONDS = 2.0  # that a block waits for another request, which needs a moment for its own
LOCK_PAUSE_SECONDS = 0.05


class Appender:
    """Writes bytes to the file of an upload from an offset on.

    What was synced counts, whatever becomes of the connection; with a checksum all of the request counts or nothing.
    """

    def __init__(
        self, context: Context, upload_id: uuid.UUID, offset: int, size_bytes: int, checksum: Checksum | None
    ) -> None:
        self._context, self._id, self._size, self._checksum = context, upload_id, size_bytes, checksum
        self._counted = self._synced = self._written = offset
        self._block = bytearray()
        try:
            self._file = UploadFile(uploads.path_of(context.storage, upload_id), offset)
        except FileNotFoundError:
            raise lost(context.storage) from None

    async def write(self, data: bytes) -> None:
        """Append. Raises TooLarge, Conflict, Gone, Locked or DiskFull."""
        if self._written + len(self._block) + len(data) > self._size:
            raise too_large(self._size)
        self._block += data
        if len(self._block) >= BLOCK_BYTES:
            await self._with_block(self._append)

    async def finish(self) -> Progress:
        """Put all of it on the disk, compare it with its checksum, and count it."""
        return await self._with_block(self._append_last)

    async def keep_cut(self) -> None:
        """Count what came of a body that was cut off; of one with a checksum that is nothing."""
        if self._checksum is None:
            with suppress(Problem, OSError, *AWAY):
                await self._with_block(self._append_last)

    async def close(self) -> None:
        """Close the file."""
        await self._context.file_threads.run(self._file.close)

    async def _with_block(self, step: Callable[[bytearray], Done]) -> Done:
        """Run a step on what came since the last one, when no other request is within one."""
        block, self._block = self._block, bytearray()
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return await self._context.file_threads.run(step, block)
            except UploadBusy:
                if time.monotonic() > deadline:
                    raise busy() from None
            await asyncio.sleep(LOCK_PAUSE_SECONDS)

    def _append(self, block: bytearray) -> None:
        with self._file.locked():
            self._write(block)
            if self._written - self._synced >= SYNC_BYTES:
                self._sync()
                if self._checksum is None:
                    self._count()

    def _append_last(self, block: bytearray) -> Progress:
        with self._file.locked():
            self._write(block)
            self._sync()
            if self._checksum is not None:
                self._check(self._checksum)
            return self._count()

    def _write(self, block: bytearray) -> None:
        with self._context.sessions() as session:
            stands = uploads.offset_of(session, self._id)
        if stands != self._counted:
            raise moved(stands)
        reserve = self._context.settings.disk_reserve_bytes
        if block and self._context.storage.free_bytes() - len(block) < reserve:
            raise DiskFull(f"less than the reserve of {reserve} bytes would stay free (DISK_RESERVE_BYTES)")
        self._file.write(block, self._written)
        self._written += len(block)

    def _sync(self) -> None:
        self._file.sync()
        self._synced = self._written

    def _check(self, checksum: Checksum) -> None:
        # Of what lies in the file: another request with a checksum may have written there too.
        found = checksum._replace(digest=self._file.digest(checksum.algorithm, self._counted, self._written))
        if found != checksum:
            detail = "the bytes that came are not those of the checksum; send them again"
            raise ChecksumMismatch.at("Upload-Checksum", detail, found=str(checksum), expected=str(found))

    def _count(self) -> Progress:
        keep = kept_for(self._context.settings)
        try:
            with self._context.sessions.begin() as session:
                progress = uploads.advance(session, self._id, self._counted, self._written, keep)
        except UploadMoved:
            raise moved(None) from None
        self._counted = progress.offset_bytes
        return progress


def too_large(size_bytes: int) -> TooLarge:
    """The problem of bytes beyond the end of an upload."""
    return TooLarge.at(
        "body", "more bytes came than the upload has left", found="more", expected=f"{size_bytes} bytes in all"
    )


@asynccontextmanager
async def _appender(
    context: Context, upload_id: uuid.UUID, offset: int, size_bytes: int, checksum: Checksum | None
) -> AsyncIterator[Appender]:
    appender = await context.file_threads.run(Appender, context, upload_id, offset, size_bytes, checksum)
    try:
        yield appender
    finally:
        with CancelScope(shield=True):
            await appender.close()


async def append_body(
    context: Context,
    caller: Caller,
    request: Request,
    upload_id: uuid.UUID,
    *,
    offset: int,
    size_bytes: int,
    checksum: Checksum | None,
) -> Progress:
    """Append the body of the request to an upload that stands at `offset`, in one of the client's places."""
    declared = int(request.headers.get("content-length", 0))
    if offset + declared > size_bytes:
        raise too_large(size_bytes)
    with context.concurrency.uploads.slot(client_of(request), caller.limits(context.settings).max_uploads):
        async with _appender(context, upload_id, offset, size_bytes, checksum) as appender:
            try:
                async for chunk in request.stream():
                    await appender.write(chunk)
            except (ClientDisconnect, asyncio.CancelledError):
                with CancelScope(shield=True):
                    await appender.keep_cut()
                raise
            return await appender.finish()
