"""Previews of scans: zero-filled or back-projected pictures of slices, made in the sandbox and remembered.

To make one takes about as long as to read its slice. So they are kept in memory alone: nothing is stored that would
count for a tenant or outlive the scan.
"""

import threading
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from udig_recon.api.http.problems import Conflict, NotFound
from udig_recon.core.formats.sandbox.client import NoPreview
from udig_recon.core.results import png
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.storage import keys

if TYPE_CHECKING:
    from udig_recon.api.access.authentication import Caller
    from udig_recon.api.dependencies import Context

MOST_BYTES = 64 << 20


class PreviewKey(NamedTuple):
    """A slice of a tenant's scan."""

    tenant: str
    sha256: str
    slice: int


class RememberedPreviews:
    """PNG pictures of slices, MOST_BYTES of them: those that were asked for last. Threads may share it."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._pictures: OrderedDict[PreviewKey, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: PreviewKey) -> bytes | None:
        """The picture, if it is remembered."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def add(self, key: PreviewKey, picture: bytes) -> None:
        """Remember a picture, and forget others for it."""
        with self._lock:
            self._bytes += len(picture) - len(self._pictures.pop(key, b""))
            self._pictures[key] = picture
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._pictures.popitem(last=False)[1])

    def forget(self, tenant: str, sha256: str) -> None:
        """Forget the pictures of a scan."""
        with self._lock:
            for key in [key for key in self._pictures if (key.tenant, key.sha256) == (tenant, sha256)]:
                self._bytes -= len(self._pictures.pop(key))


async def scan_preview(context: "Context", caller: "Caller", client: str, scan: Scan, slice_: int) -> bytes:
    """The preview of a slice of the caller's scan, as a PNG.

    Raises Conflict where the scan is not prepared, and NotFound where the slice has no preview.
    """
    key = PreviewKey(caller.tenant, scan.sha256, slice_)
    if (known := context.previews.get(key)) is not None:
        return known
    sharing = client if caller.key is None else caller.tenant
    size = (scan.prepared_bytes or scan.size_bytes) // int(scan.header["slices"])
    make = partial(context.probe_queue.run, sharing, size, partial(_make, context, scan, key))
    picture = await context.single_flight.share(("preview of a scan", key), make)
    context.previews.add(key, picture)
    return picture


def _make(context: "Context", scan: Scan, key: PreviewKey) -> bytes:
    storage = context.storage
    try:
        with storage.scratch() as scratch, storage.local(keys.prepared_scan(key.sha256, key.tenant)) as path:
            image = context.prober.preview(path, scratch.path, key.slice)
    except FileNotFoundError:
        raise Conflict(
            "the scan is not prepared yet; its first job prepares it, and so does posting it again"
        ) from None
    except NoPreview as error:
        raise NotFound(f"slice {key.slice} of this scan has no preview: {error}") from None
    return png.magnitude_png(image, spacing_mm=scan.header["pixel_spacing_mm"])
