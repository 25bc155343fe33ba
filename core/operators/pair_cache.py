"""Folder of projectors that were built before: files of sparse matrices, mapped read-only so that processes share them.

16 bytes    MAGIC, which holds the version of the layout
8 bytes     length of the header, little-endian
header      JSON: for each array its dtype, length and offset from the file's start, and the SHA-256 of all arrays
arrays      little-endian, each at a multiple of 64 bytes
"""

import hashlib
import json
import mmap
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.files.atomic import DamagedFile, atomic_write, open_stored
from udig_recon.core.scan_geometry import Geometry

MAGIC = b"udig-projector/1"
VERSION = 1
"""Version of the matrices. It grows when the same geometry gets other entries."""
SUFFIX = ".pair"
STALE_SECONDS = 3600.0
"""A file that is being written is as old as this only if its writer is gone."""

_ALIGNMENT = 64
_FIRST = 1 << 12
"""Where the first array begins, behind room for the header."""
_DTYPES = {"<i4": torch.int32, "<f4": torch.float32}

Arrays = dict[str, NDArray[Any]]


Report = Callable[[str, str, str], None]
"""Takes what happened (`projector.damaged`, `projector.unreadable`, `projector.not_stored`), to which file, and why."""


class _Cache(NamedTuple):
    folder: Path
    most_bytes: int
    report: Report


_cache: _Cache | None = None


def use_projector_cache(folder: Path | None, most_bytes: int, report: Report = lambda *_: None) -> None:
    """Keep projectors in a folder from now on, those used last and of at most so many bytes together; None: nowhere.

    `report` is told of files that are damaged, or cannot be read or written.
    """
    global _cache
    _cache = None if folder is None or most_bytes <= 0 else _Cache(folder, most_bytes, report)


def stored_arrays(geometry: Geometry, build: Callable[[], Arrays]) -> dict[str, Tensor]:
    """The arrays (int32 and float32) of a geometry's projector: those of the folder, else built and stored there.

    A folder that cannot be read or written is done without; a damaged file is removed and built anew.
    """
    cache = _cache
    if cache is None:
        return _tensors(build())
    path = cache.folder / f"{_key(geometry)}{SUFFIX}"
    try:
        return _mapped(path)
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        cache.report("projector.damaged", path.name, str(error))
        with suppress(OSError):
            path.unlink(missing_ok=True)
    except OSError as error:
        cache.report("projector.unreadable", path.name, str(error.strerror))
    arrays = build()
    try:
        if not _make_room(cache, sum(array.nbytes for array in arrays.values())):
            return _tensors(arrays)
        _write(path, arrays)
    except OSError as error:
        cache.report("projector.not_stored", path.name, str(error.strerror))
        return _tensors(arrays)
    # What was built is let go before the file, which other processes share, takes its place in memory.
    del arrays
    try:
        return _mapped(path)
    except (OSError, DamagedFile):
        return _tensors(build())


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _key(geometry: Geometry) -> str:
    return hashlib.sha256(json.dumps([VERSION, *geometry]).encode()).hexdigest()


def _mapped(path: Path) -> dict[str, Tensor]:
    """The arrays of a file, checked against their digest. Raises OSError, and DamagedFile."""
    with open_stored(path) as file:
        if os.fstat(file.fileno()).st_size <= len(MAGIC) + 8:
            raise DamagedFile("too short")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with suppress(OSError):
            os.utime(path)  # used last
    start = len(MAGIC) + 8
    length = int.from_bytes(mapped[len(MAGIC) : start], "little")
    if mapped[: len(MAGIC)] != MAGIC or not 0 < length <= min(_FIRST, len(mapped)) - start:
        raise DamagedFile("another layout")
    try:
        header = json.loads(mapped[start : start + length])
        places = {
            str(name): (str(dtype), int(count), int(offset))
            for name, (dtype, count, offset) in header["arrays"].items()
        }
        digest = str(header["sha256"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFile("a header that makes no sense") from error
    view = memoryview(mapped)
    if any(
        dtype not in _DTYPES or count < 1 or offset < _FIRST or offset % _ALIGNMENT or offset + 4 * count > len(mapped)
        for dtype, count, offset in places.values()
    ):
        raise DamagedFile("an array outside the file")
    found = hashlib.sha256()
    for _, count, offset in places.values():
        found.update(view[offset : offset + 4 * count])
    if found.hexdigest() != digest:
        raise DamagedFile("other bytes than were written")
    with warnings.catch_warnings():
        # It is not written to: the mapping would not let it.
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return {
            name: torch.frombuffer(mapped, dtype=_DTYPES[dtype], count=count, offset=offset)
            for name, (dtype, count, offset) in places.items()
        }


def _write(path: Path, arrays: Arrays) -> None:
    """Write a file aside and give it its name when it is whole. Raises OSError."""
    views = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    digest = hashlib.sha256()
    places: dict[str, tuple[str, int, int]] = {}
    offset = _FIRST
    for name, array in views.items():
        digest.update(array.data)
        places[name] = (array.dtype.str, array.size, offset)
        offset += array.nbytes + -array.nbytes % _ALIGNMENT
    header = json.dumps({"arrays": places, "sha256": digest.hexdigest()}).encode()
    with (
        atomic_write(path, synced=False) as part,
        open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file,
    ):
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for name, array in views.items():
            file.seek(places[name][2])
            file.write(array.data)
        file.truncate(max(file.tell(), 1))


def _make_room(cache: _Cache, wanted: int) -> bool:
    """Remove the files that were used longest ago until `wanted` bytes fit; False where they never do."""
    if wanted > cache.most_bytes:
        return False
    cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = []
    for path in cache.folder.iterdir():
        with suppress(FileNotFoundError):
            found = path.stat()
            if path.suffix == ".part" and time.time() - found.st_mtime > STALE_SECONDS:
                path.unlink()
            elif path.suffix == SUFFIX:
                files.append((found.st_mtime, found.st_size, path))
    held = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if held + wanted <= cache.most_bytes:
            break
        path.unlink(missing_ok=True)
        held -= size
    return True
