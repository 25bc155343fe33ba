"""Checks of the stored chunks of HDF5 datasets: each must decompress to its full size.

HDF5 accepts a chunk that decompresses to fewer bytes, and fills it with whatever lay in memory.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.hdf5_library import h5py

GZIP, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {GZIP: "gzip", SHUFFLE: "shuffle", FLETCHER32: "fletcher32", LZF: "lzf"}

_MOST_CHUNK_BYTES = 256 << 20
_LEAST_CHUNK_BYTES = 4096
_MOST_SMALL_CHUNKS = 1024
_CHECKSUM_BYTES = 4
_MOST_OVERHEAD_BYTES = 1024  # of packing what cannot be packed
_TEXT_PLACE_BYTES = 16


def check_layout(name: str, dataset: h5py.Dataset) -> None:
    """Raise UnreadableScan for filters that are not built in, and for chunks too large or too many to be read in parts.

    Chunks are unpacked whole, and to read many at once takes some 2 KiB of memory for each.
    """
    unknown = [code for code in read_filters(dataset) if code not in FILTERS]
    if unknown:
        raise UnreadableScan.at(
            name, f"filter {unknown[0]}", f"one of {', '.join(FILTERS.values())}, or none (h5repack -f GZIP=4)"
        )
    if dataset.chunks is None:
        return
    size = _chunk_bytes(dataset)
    if size > _MOST_CHUNK_BYTES:
        raise UnreadableScan.at(name, f"chunks of {size} bytes", f"chunks of at most {_MOST_CHUNK_BYTES} bytes")
    count = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if size < _LEAST_CHUNK_BYTES and count > _MOST_SMALL_CHUNKS:
        raise UnreadableScan.at(
            name,
            f"{count} chunks of {size} bytes",
            f"chunks of at least {_LEAST_CHUNK_BYTES} bytes (h5repack -l {name}:CONTI)",
        )


def check_stored(name: str, dataset: h5py.Dataset) -> None:
    """Raise UnreadableScan where fewer bytes are stored than are needed; what is not stored at all has a fill value."""
    if dataset.chunks is None:
        stored, needed = dataset.id.get_storage_size(), math.prod(dataset.shape) * _item_bytes(dataset)
        if stored not in (0, needed):
            raise UnreadableScan.at(name, f"{stored} stored bytes", f"{needed} bytes")
        return
    codes, needed = read_filters(dataset), _chunk_bytes(dataset)
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        if chunk.size > needed + needed // 64 + _MOST_OVERHEAD_BYTES:
            raise UnreadableScan.at(
                name, f"{chunk.size} bytes for a chunk of {needed}", "no more than an unpacked chunk has"
            )
        skipped, content = dataset.id.read_direct_chunk(chunk.chunk_offset)
        applied = [code for bit, code in enumerate(codes) if not skipped >> bit & 1]
        length = _unpacked_bytes(name, content, applied, needed)
        if length != needed:
            raise UnreadableScan.at(
                name, f"a chunk of {length} bytes at {chunk.chunk_offset}", f"chunks of {needed} bytes"
            )


def read_filters(dataset: h5py.Dataset) -> list[int]:
    """Codes in the order in which they were applied."""
    creation = dataset.id.get_create_plist()
    return [creation.get_filter(index)[0] for index in range(creation.get_nfilters())]


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    sides: tuple[int, ...] = dataset.chunks
    return math.prod(sides) * _item_bytes(dataset)


def _item_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of one value as it is stored; of a text of any length, the place where it lies."""
    kind = dataset.id.get_type()
    if isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str():
        return _TEXT_PLACE_BYTES
    return int(kind.get_size())


def _unpacked_bytes(name: str, content: bytes, codes: Sequence[int], needed: int) -> int:
    """Length of a chunk after all filters are undone, as far as it matters whether that is what is needed."""
    packers = [code for code in codes if code in (GZIP, LZF)]
    if len(packers) > 1:
        raise UnreadableScan.at(name, "a chunk packed twice", "one of gzip and lzf, or none")
    if not packers:
        return len(content) - _CHECKSUM_BYTES * codes.count(FLETCHER32)
    at = codes.index(packers[0])
    before, after = (_CHECKSUM_BYTES * part.count(FLETCHER32) for part in (codes[:at], codes[at + 1 :]))
    packed = memoryview(content)[: len(content) - after]
    most = needed + before + 1
    length = len(zlib.decompressobj().decompress(packed, most)) if packers[0] == GZIP else lzf_length(packed)
    return length - before


def lzf_length(packed: memoryview) -> int:
    """Bytes that an LZF stream unpacks to: runs of up to 32 literal bytes, and copies of 3 to 264 earlier ones."""
    at = length = 0
    end = len(packed)
    while at < end:
        control = packed[at]
        if control < 32:
            at += control + 2
            length += control + 1
        elif control < 224:
            at += 2
            length += (control >> 5) + 2
        else:
            if at + 1 == end:
                return -1
            length += packed[at + 1] + 9
            at += 3
    return length if at == end else -1
