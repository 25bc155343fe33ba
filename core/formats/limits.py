"""Limits of the size of a scan, and errors of damaged files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from struct import error as StructError
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from udig_recon.core.errors import UnreadableScan, UnsupportedScan

LEAST_SIDE = 8  # SSIM needs 7 pixels
PEAKS = (1e-15, 1e15)  # largest magnitude of an array: float32 must hold its square summed over an image

# All that h5py, zipfile and numpy were seen to raise for damaged bytes.
_BROKEN = (
    ArithmeticError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StructError,
    SyntaxError,
    SystemError,
    TypeError,
    ValueError,
    ZlibError,
)


@dataclass(frozen=True)
class Limits:
    """The largest scan that is taken."""

    max_slices: int = 4096
    max_coils: int = 256
    max_matrix: int = 1024  # side of an image or of k-space
    max_views: int = 4096
    max_detectors: int = 4096

    def check(self, field: str, what: str, found: int, most: int, least: int = 1, *, remedy: str = "") -> None:
        """Raise UnsupportedScan unless least <= found <= most; `remedy` is what to do about too many."""
        if not least <= found <= most:
            expected = f"at most {most}" if found > most else f"at least {least}"
            advice = f"; {remedy}" if remedy and found > most else ""
            raise UnsupportedScan.at(field, f"{found} {what}", f"{expected} {what}{advice}")


DEFAULT_LIMITS = Limits()


def quote_safely(value: float | str | None, *known: str) -> str:
    """A value of a scan file for a message. Of texts only the known words: others may name a patient."""
    if not isinstance(value, str) or value in known:
        return str(value)
    return f"a text of {len(value)} characters"


def dtype_name(dtype: np.dtype[Any]) -> str:
    """A type of numbers for a message; the names of a record's fields stay out of it."""
    return f"{dtype}" if dtype.kind in "biufc" else f"no numbers (kind {dtype.kind})"


@contextmanager
def damage_as_unreadable(kind: str) -> Iterator[None]:
    """Turn what the libraries raise for damaged bytes into UnreadableScan."""
    try:
        yield
    except _BROKEN as error:
        # Not what the library says: it may quote the file.
        found = f"damaged content ({type(error).__name__})"
        raise UnreadableScan.at("file", found, f"a whole {kind} file") from error
