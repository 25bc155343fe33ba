"""Upload of a file: streamed to storage, counted and hashed, deleted unless it is kept."""

import base64
import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from anyio import CancelScope

from udig_recon.api.http.problems import BadRequest, DiskFull, Invalid, TooLarge, UnknownMedia
from udig_recon.worker.access.quotas import BYTES_RETRY_SECONDS, QuotaReached
from udig_recon.worker.storage.scratch import Scratch

if TYPE_CHECKING:
    from udig_recon.api.dependencies import Context

BLOCK_BYTES = 1 << 20  # written, hashed and checked against the limits at once
SYNC_BYTES = 4 << 20  # put on the disk at once: all of it at the end would keep this client and others waiting
LONGEST_NAME = 255
_SHA256_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")


class UploadReservations:
    """Bytes that are on their way in for each tenant, in this process: none may pass what the tenant has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()

    def change(self, tenant: str, more: int) -> int:
        """So many more or, below 0, less; gives what there is then."""
        with self._lock:
            self._bytes[tenant] += more
            if not (now := self._bytes[tenant]):
                del self._bytes[tenant]
            return now


class StorageAllowance(NamedTuple):
    """What a tenant, or the key that asks, may store yet."""

    tenant: str
    bytes: int


class Upload:
    """A scratch file that receives a scan, and what is known of it so far."""

    _room: StorageAllowance | None

    def __init__(self, context: "Context", scratch: Callable[[], Scratch] | None = None) -> None:
        self.filename = ""
        self.digest: str | None = None  # Repr-Digest that was sent
        self.size_bytes = 0
        self._storage, self._settings, self._threads = context.storage, context.settings, context.file_threads
        self._incoming, self._room, self._reserved = context.upload_reservations, None, 0
        self._hash = hashlib.sha256()
        self._block = bytearray()
        self._unsynced = 0
        self._scratch = (scratch or context.storage.scratch)()
        self.path = self._scratch.path

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of what was written."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append. Raises TooLarge or DiskFull when a limit is passed."""
        self._block += data
        if len(self._block) >= BLOCK_BYTES:
            await self._threads.run(self._flush)

    async def finish(self) -> None:
        """Put all of it on the disk and check it against the hash that was announced."""
        await self._threads.run(self._flush, True)
        if not self.size_bytes:
            raise UnknownMedia.at("file", "the file is empty", found="0 bytes", expected="a scan")
        if self.digest is not None:
            self._check_digest(self.digest)

    def finish_file(self) -> None:
        """Count, hash and put on the disk what another writer has put into the file at `path`, in a thread."""
        self.size_bytes = os.fstat(self._scratch.file.fileno()).st_size
        self.check(self.size_bytes, self.size_bytes)
        self._scratch.file.seek(0)
        while block := self._scratch.file.read(BLOCK_BYTES):
            self._hash.update(block)
        os.fsync(self._scratch.file.fileno())

    def _flush(self, last: bool = False) -> None:
        block, self._block = self._block, bytearray()
        self.size_bytes += len(block)
        self.check(self.size_bytes, self.size_bytes - len(block))
        self._hash.update(block)
        # An unbuffered write may take a part only.
        left = memoryview(block)
        while left:
            left = left[self._scratch.file.write(left) or 0 :]
        self._unsynced += len(block)
        if last or self._unsynced >= SYNC_BYTES:
            os.fsync(self._scratch.file.fileno())
            self._unsynced = 0

    def keep_within(self, room: StorageAllowance) -> None:
        """Let no more come than the tenant has left, all its uploads taken together."""
        self._room = room

    def check(self, size_bytes: int, written: int = 0) -> None:
        """Raise TooLarge, QuotaReached or DiskFull when a file of this size, partly written, may not be stored."""
        most, reserve = self._settings.max_upload_bytes, self._settings.disk_reserve_bytes
        if size_bytes > most:
            detail = f"the file has more than {most} bytes, the limit of this service (MAX_UPLOAD_BYTES)"
            raise TooLarge.at("file", detail, found=f"{size_bytes} bytes or more", expected=f"at most {most} bytes")
        self._reserve(size_bytes)
        if self._storage.free_bytes() - (size_bytes - written) < reserve:
            raise DiskFull(f"less than the reserve of {reserve} bytes would stay free (DISK_RESERVE_BYTES)")

    def _reserve(self, size_bytes: int) -> None:
        if (room := self._room) is None or (more := size_bytes - self._reserved) <= 0:
            return
        self._reserved = size_bytes
        if (all_of_them := self._incoming.change(room.tenant, more)) > room.bytes:
            others = f", beside {all_of_them - size_bytes} on their way" if all_of_them > size_bytes else ""
            kept = f"{room.bytes} bytes more may be kept (max_stored_bytes), and this file has {size_bytes} or more"
            raise QuotaReached(f"{kept}{others}; delete some scans or jobs", BYTES_RETRY_SECONDS)

    def _check_digest(self, header: str) -> None:
        match = _SHA256_DIGEST.search(header)
        actual = base64.b64encode(self._hash.digest()).decode()
        if "sha-256" in header and (match is None or match[1] != actual):
            detail = "the bytes that came are not those that were hashed; send them again"
            raise Invalid.at("Repr-Digest", detail, found=header, expected=f"sha-256=:{actual}:")

    def close(self) -> None:
        """Remove what was not kept."""
        if self._room is not None:
            self._incoming.change(self._room.tenant, -self._reserved)
            self._room = None
        self._scratch.close()


@asynccontextmanager
async def open_upload(context: "Context", scratch: Callable[[], Scratch] | None = None) -> AsyncIterator[Upload]:
    """A file, new or that of `scratch`, which is gone at the end, unless it was moved to where it belongs."""
    upload = await context.file_threads.run(Upload, context, scratch)
    try:
        yield upload
    finally:
        # Even of a client that went away; to remove a large file takes long.
        with CancelScope(shield=True):
            await context.file_threads.run(upload.close)


def base_name(name: str) -> str:
    """The last part of what a client calls its file, without what a terminal or a page could trip over."""
    shown = "".join(c for c in re.split(r"[/\\]", name)[-1] if c.isprintable() and c not in '<>"')
    return shown.lstrip(".")[:LONGEST_NAME]


async def check_length(stream: AsyncIterator[bytes], declared: str | None) -> AsyncIterator[bytes]:
    """The body, whose length must be the one that was declared."""
    size = 0
    async for chunk in stream:
        size += len(chunk)
        yield chunk
    if declared is not None and declared.isdecimal() and int(declared) != size:
        raise BadRequest.at(
            "Content-Length", f"{size} bytes came", found=f"{declared} bytes declared", expected=f"{size}"
        )
