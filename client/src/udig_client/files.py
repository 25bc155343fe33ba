"""Files of scans and results: formats by suffix, hashes, and files that appear whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO

from udig_client.errors import DamagedDownload, DamagedUpload

BLOCK_BYTES = 1 << 20
SUFFIXES = {
    ".h5": "h5",
    ".npy": "npy",
    ".nii.gz": "nifti",
    ".png": "png",
    ".dicom.zip": "dicom",
    ".dicom_maps.zip": "dicom_maps",
    ".cfl.zip": "cfl",
    ".mrd": "mrd",
}
"""Output formats by the suffix of a file."""
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


def format_of(path: str | os.PathLike[str]) -> str:
    """The output format that the suffix of a name stands for. Raises ValueError."""
    name = os.fspath(path).lower()
    for suffix, format_ in SUFFIXES.items():
        if name.endswith(suffix):
            return format_
    raise ValueError(f"{os.fspath(path)!r} ends in none of {', '.join(SUFFIXES)}: name a format")


def digest_header(sha256: bytes) -> str:
    """A SHA-256 as `Repr-Digest` (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def sha256_of_headers(headers: Mapping[str, str]) -> str | None:
    """The hex SHA-256 that an answer says its whole file has; None: it does not say."""
    if (match := _DIGEST.search(headers.get("repr-digest", ""))) is not None:
        return base64.b64decode(match[1]).hex()
    return None


class UploadedFile:
    """A file that is being sent: read from any offset, hashed once along the way."""

    def __init__(self, path: Path, filename: str | None = None) -> None:
        self.path, self.filename = path, filename or path.name
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self._hash, self._hashed = hashlib.sha256(), 0

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the whole file."""
        self.hash_to(self.size)
        return self._hash.digest()

    def hash_to(self, offset: int) -> None:
        """Hash what lies before the offset, which another process may have sent."""
        while self._hashed < offset:
            self.read(self._hashed, min(BLOCK_BYTES, offset - self._hashed))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from an offset on. Raises DamagedUpload where the file has become shorter."""
        if self._hashed < offset:
            self.hash_to(offset)
        self._file.seek(offset)
        block = self._file.read(length)
        if len(block) < length:
            raise DamagedUpload(f"{self.path} became shorter while it was uploaded")
        if offset <= self._hashed < offset + length:
            self._hash.update(block[self._hashed - offset :])
            self._hashed = offset + length
        return block

    def __enter__(self) -> UploadedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Download:
    """Bytes of a download and their hash, in memory or in a file that takes its name only when it is whole."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.size = 0
        self.etag: str | None = None
        self.sha256: str | None = None
        """What the service says the hash is."""
        self._redirected = False
        self._part = None if path is None else path.with_name(f".{path.name}.{os.getpid()}-{id(self):x}.part")
        self._file: IO[bytes] = BytesIO() if self._part is None else self._part.open("xb")
        self._hash = hashlib.sha256()

    def begin(self, status: int, headers: Mapping[str, str]) -> int | None:
        """Take the head of an answer: go on where the last one ended, or start again; gives the size of the whole.

        Raises DamagedDownload where the rest that came is not the rest that was asked for.
        """
        if status == 206:
            start, total = _content_range(headers)
            if start != self.size or (headers.get("etag") != self.etag and not self._redirected):
                raise DamagedDownload(f"bytes from {start} on came, those from {self.size} on were asked for")
            return total
        self.restart()
        if not self._redirected:
            self.etag, self.sha256 = headers.get("etag"), sha256_of_headers(headers)
        length = headers.get("content-length", "")
        return int(length) if length.isdecimal() else None

    def redirected(self, headers: Mapping[str, str]) -> None:
        """Take tag and hash of an answer that leads elsewhere; what came of another file is forgotten."""
        if headers.get("etag") != self.etag:
            self.restart()
        self.etag, self.sha256, self._redirected = headers.get("etag"), sha256_of_headers(headers), True

    def range_headers(self, *, conditional: bool = True) -> dict[str, str]:
        """Headers that ask for what is missing, if the file is still the same (not `conditional`: it is)."""
        plain = {"Accept-Encoding": "identity"}
        if not self.size or self.etag is None or self.etag.startswith("W/"):
            return plain
        if not conditional:
            return {**plain, "Range": f"bytes={self.size}-"}
        return {**plain, "Range": f"bytes={self.size}-", "If-Range": self.etag}

    def write(self, block: bytes) -> None:
        """Append."""
        self._file.write(block)
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Forget what came."""
        self._file.seek(0)
        self._file.truncate()
        self._hash, self.size = hashlib.sha256(), 0

    @property
    def whole(self) -> bool:
        """Whether the hash is the one that the service says; true where it says none."""
        return self.sha256 is None or self._hash.hexdigest() == self.sha256

    def finish(self) -> bytes:
        """Give the file its name, or give the bytes of a download to memory."""
        if self.path is None or self._part is None:
            assert isinstance(self._file, BytesIO)  # noqa: S101  # for the type checker
            return self._file.getvalue()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self.path)
        return b""

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def _content_range(headers: Mapping[str, str]) -> tuple[int, int | None]:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("content-range", ""))
    if match is None:
        raise DamagedDownload(f"Content-Range is {headers.get('content-range')!r}")
    return int(match[1]), None if match[2] == "*" else int(match[2])
