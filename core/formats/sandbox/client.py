"""Reads scans in a sandbox of their own, where they may crash, hang or swell without harm."""

import errno
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits
from udig_recon.core.formats.sandbox.isolation import MissingParts
from udig_recon.core.formats.sandbox.messages import Nonsense, unpack, unpack_identity
from udig_recon.core.formats.sandbox.pool import Order, ReaderPool
from udig_recon.core.identity import TEMPLATE_EXPECTED, Identity

_SLOWEST_BYTES_PER_SECOND = 8 << 20
_SLOWEST_PREPARED = 2  # times as long: the file is read twice and written once
_ALWAYS_PREPARED_BYTES = 1 << 30
_MOST_PREPARED_RATIO = 400  # bytes written for each of the file: a bomb's limit, and numbers of one byte become four
_PREVIEW_BYTES = 64 << 20


class NoPreview(Exception):
    """A slice of a prepared scan has no preview; the message says why."""


class Prober:
    """`probe` and `prepare` in a sandbox, in one new process for each file; several threads may share it."""

    def __init__(self, pool: ReaderPool | None = None) -> None:
        self._pool = ReaderPool() if pool is None else pool
        self.known_missing_parts: MissingParts | None = None  # the answer of `missing_parts`, once it was asked

    def probe(self, path: Path, limits: Limits = DEFAULT_LIMITS, seconds: float = 8) -> ScanHeader:
        """`probe` in a sandbox. A crash or a hang raises UnreadableScan; ReaderLost says nothing of the file.

        It gets `seconds`, and one more for every 8 MiB of the file.
        """
        with path.open("rb") as file:
            allowed = seconds + path.stat().st_size / _SLOWEST_BYTES_PER_SECOND
            return self._header({"limits": asdict(limits), "seconds": allowed, "most_bytes": 0}, [file.fileno()])

    def prepare_scan(
        self,
        path: Path,
        output: int,
        sha256: str,
        limits: Limits = DEFAULT_LIMITS,
        *,
        seconds: float = 8,
        room_bytes: int | None = None,
    ) -> ScanHeader:
        """`prepare` in a sandbox: write the scan's prepared form to the descriptor `output`, and return its header.

        `sha256` is the file's. Raises as `probe` does, and OSError where the disk does not take it; `room_bytes` is all
        that it may take.
        """
        with path.open("rb") as file:
            size = path.stat().st_size
            allowed = seconds + _SLOWEST_PREPARED * size / _SLOWEST_BYTES_PER_SECOND
            most = _ALWAYS_PREPARED_BYTES + _MOST_PREPARED_RATIO * size
            room = most if room_bytes is None else max(0, min(most, room_bytes))
            order = {"limits": asdict(limits), "seconds": allowed, "most_bytes": room, "sha256": sha256}
            try:
                return self._header(order, [file.fileno(), output])
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                if room < most:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
                found = f"arrays of more than {most} bytes"
                raise UnreadableScan.at("file", found, "a scan, not a bomb") from None

    def preview(self, path: Path, output: Path, index: int, seconds: float = 30) -> NDArray[np.float32]:
        """The preview (y, x) of a slice of the prepared scan at `path`, made in a sandbox by way of the file `output`.

        Raises NoPreview, and OSError where there is no such scan.
        """
        with path.open("rb") as file, output.open("wb") as picture:
            order: Order = {"preview": index, "seconds": seconds, "most_bytes": _PREVIEW_BYTES}
            answer = self._pool.run(order, [file.fileno(), picture.fileno()])
        if answer.said is None:
            raise NoPreview(f"it takes longer than {seconds:.0f} s")
        with suppress(ValueError, KeyError, TypeError):
            size = json.loads(answer.said)["preview"] if answer.status == 0 else "damaged"
            if size is None:
                raise NoPreview("measurements of this kind have none")
            height, width = map(int, size)
            if min(height, width) > 0 and output.stat().st_size == 4 * height * width:
                image = np.fromfile(output, "<f4").reshape(height, width)
                finite: NDArray[np.float32] = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0)
                return finite
        raise NoPreview("its prepared form cannot be read; a job prepares it anew, and so does posting it again")

    def read_template(self, content: bytes, seconds: float = 8) -> Identity:
        """The identity in a template DICOM, of which `content` is the beginning or all. Raises UnreadableScan."""
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            order = {"template": True, "seconds": seconds, "most_bytes": 0}
            answer = self._pool.run(order, [file.fileno()])
        if answer.said is None:
            found = f"content that took longer than {seconds:g} s to examine"
            raise UnreadableScan.at("template", found, TEMPLATE_EXPECTED)
        if answer.status == 0:
            with suppress(Nonsense):
                return unpack_identity(answer.said)
        raise UnreadableScan.at("template", "a damaged DICOM file", TEMPLATE_EXPECTED)

    def _header(self, order: Order, descriptors: list[int]) -> ScanHeader:
        answer = self._pool.run(order, descriptors)
        if answer.said is None:
            found = f"content that took longer than {order['seconds']:.0f} s to examine"
            raise UnreadableScan.at("file", found, "a scan")
        if answer.status == 0:
            with suppress(ValueError, KeyError, TypeError):
                if number := json.loads(answer.said).get("unwritten"):
                    raise OSError(int(number), os.strerror(int(number)))
            with suppress(Nonsense):
                header = unpack(answer.said)
                if header.slices <= order["limits"]["max_slices"]:
                    return header
            raise UnreadableScan.at("file", "damaged content (the reader gave an invalid answer)", "a scan")
        found = f"damaged content (the reader ended with status {answer.status})"
        raise UnreadableScan.at("file", found, "a scan")

    def missing_parts(self) -> MissingParts:
        """Parts of the sandbox that this machine does not give, each with the reason; empty where nothing is amiss.

        Raises ReaderLost.
        """
        self.known_missing_parts = self._pool.missing_parts()
        return self.known_missing_parts

    def prepare(self, servers: int) -> None:
        """Start so many fork servers ahead."""
        self._pool.prepare(servers)

    def close(self) -> None:
        """End the fork servers."""
        self._pool.close()
