"""Check of an HDF5 file's global heap: the collections of objects that values of variable length point to.

HDF5 goes through all objects of a collection, from each to the next by its size, before it gives out one: a size that
damage has turned to zero keeps it there for ever.
"""

import struct
from functools import lru_cache
from typing import IO

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.scan_file import ScanFile

_COLLECTION = struct.Struct("<4sB3xQ")  # signature, version, size of all
_OBJECT = struct.Struct("<HH4xQ")  # index, references, size; an index of 0 is free space, its size that of all
_BEGINNING = b"GCOL\x01"
_LEAST_BLOCK, _LARGEST_BLOCK = 1 << 12, 1 << 20
_MOST_OBJECTS = 1 << 22


@lru_cache(maxsize=1)  # several formats open one file to look at it
def check_global_heap(file: ScanFile) -> None:
    """Raise UnreadableScan where a collection's objects do not lead from its beginning to its end.

    Collections are found by their signature; nothing else is read of them than where each object begins.
    """
    with file.stream() as stream:
        left = _MOST_OBJECTS
        start = _next_collection(stream, 0)
        while start is not None:
            stream.seek(start)
            _, _, size = _COLLECTION.unpack(stream.read(_COLLECTION.size))
            # One of such a size is not read by HDF5: these bytes are other content, or damage that it notices.
            is_whole = _COLLECTION.size <= size <= file.size - start
            end = start + size if is_whole else start + len(_BEGINNING)
            if is_whole:
                left -= _count_objects(stream, start + _COLLECTION.size, end, left)
            start = _next_collection(stream, end)


def _next_collection(stream: IO[bytes], place: int) -> int | None:
    """Where the next collection begins from a place on; None: there is none."""
    length = _LEAST_BLOCK  # collections mostly follow each other
    while True:
        stream.seek(place)
        block = stream.read(length)
        found = block.find(_BEGINNING)
        if 0 <= found <= len(block) - _COLLECTION.size:
            return place + found
        if len(block) < length:
            return None
        place += length - _COLLECTION.size if found < 0 else found
        length = min(2 * length, _LARGEST_BLOCK)


def _count_objects(stream: IO[bytes], place: int, end: int, most: int) -> int:
    """Number of a collection's objects. Raises UnreadableScan."""
    count = 0
    # Where less is left than an object's beginning takes, it is free.
    while end - place >= _OBJECT.size:
        stream.seek(place)
        index, _, size = _OBJECT.unpack(stream.read(_OBJECT.size))
        # Sizes are padded to multiples of 8.
        taken = size if index == 0 else _OBJECT.size + (size + 7) // 8 * 8
        if not _OBJECT.size <= taken <= end - place:
            found = f"damaged content (an object of {size} bytes in the global heap, at byte {place})"
            raise UnreadableScan.at("file", found, "a whole HDF5 file")
        count += 1
        if count > most:
            raise UnreadableScan.at("file", "millions of values of variable length", f"at most {_MOST_OBJECTS}")
        place += taken
    return count
