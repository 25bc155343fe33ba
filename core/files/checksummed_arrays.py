"""Archives of arrays (.npz) with a checksum of their own, which detects a flipped bit."""

import hashlib
import io
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from udig_recon.core.files.atomic import DamagedFile

_SEAL = re.compile(rb"sha256:[0-9a-f]{64}")
_SEAL_BYTES = 71
ARCHIVE_ERRORS = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError, RuntimeError, zlib.error),
    *(zipfile.BadZipFile, struct.error, tokenize.TokenError, SyntaxError, OverflowError),
)
"""Errors that numpy and zipfile raise for a damaged archive."""


def seal(archive: bytes) -> bytes:
    """The archive with a comment at its end: the SHA-256 of the archive without one."""
    comment = b"sha256:" + hashlib.sha256(archive).hexdigest().encode()
    return archive[:-2] + len(comment).to_bytes(2, "little") + comment


@contextmanager
def open_archive(content: bytes, name: str, sha256: str | None) -> Iterator[Any]:
    """The arrays of an .npz archive by name, after its bytes are compared with its seal and, where given, `sha256`."""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFile(f"{name} is not what was written")
    # Those of older versions have no seal; the checksums of the archive's members must do.
    last = content[-_SEAL_BYTES:]
    if _SEAL.fullmatch(last) and seal(content[: -_SEAL_BYTES - 2] + b"\0\0") != content:
        raise DamagedFile(f"{name} is not what was sealed")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            yield stored
    except ARCHIVE_ERRORS as error:
        raise DamagedFile(f"{name} cannot be read: {type(error).__name__}") from error
