"""Direct uploads: a client sends a large file straight to the bucket, part by part, by signed requests.

A part is an object `parts/ID/NUMBER` of its own, so that no multipart upload of the store is left open, and each store
that signs a PUT will do. The row says how large the whole file and a part are; which parts are there the bucket says.
Once all are, they are put together in a scratch file, where the bytes are counted, hashed and looked into as of any
other upload. A signed request cannot bound what is sent by it: parts of another size are refused then.
"""

import shutil
import uuid
from typing import NamedTuple

from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.scratch import Scratch

LEAST_PART_BYTES = 64 << 20
MOST_PARTS = 1000
COPY_BYTES = 4 << 20


class Part(NamedTuple):
    """A part of a file."""

    number: int  # from 1
    offset: int
    size_bytes: int


class IncompleteParts(Exception):
    """Parts are missing or have another size; `numbers` says which."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(f"parts {', '.join(map(str, numbers[:10]))}")
        self.numbers = numbers


def part_bytes_of(size_bytes: int) -> int:
    """How large a part of such a file is; the last one may be smaller."""
    return max(LEAST_PART_BYTES, -(-size_bytes // MOST_PARTS))


def parts_of(size_bytes: int, part_bytes: int) -> list[Part]:
    """All parts of a file."""
    starts = range(0, size_bytes, part_bytes)
    return [Part(number, start, min(part_bytes, size_bytes - start)) for number, start in enumerate(starts, 1)]


def missing_parts(storage: Storage, upload_id: uuid.UUID, parts: list[Part]) -> list[Part]:
    """Parts that are not there, or not of their size."""
    sizes = {each.key: each.size for each in storage.list(keys.parts(upload_id))}
    return [part for part in parts if sizes.get(keys.part(upload_id, part.number)) != part.size_bytes]


def join(storage: Storage, upload_id: uuid.UUID, parts: list[Part]) -> Scratch:
    """The whole file as a scratch file. Raises IncompleteParts, and OSError (ENOSPC) where it has no room."""
    if missing := missing_parts(storage, upload_id, parts):
        raise IncompleteParts([part.number for part in missing])
    storage.require(sum(part.size_bytes for part in parts))
    scratch = storage.scratch()
    try:
        for part in parts:
            before = scratch.file.tell()
            with storage.open(keys.part(upload_id, part.number), bypass_cache=True) as file:
                shutil.copyfileobj(file, scratch.file, COPY_BYTES)
            if scratch.file.tell() - before != part.size_bytes:
                raise IncompleteParts([part.number])
    except FileNotFoundError:
        scratch.close()
        raise IncompleteParts([part.number for part in missing_parts(storage, upload_id, parts)]) from None
    except BaseException:
        scratch.close()
        raise
    return scratch


def delete(storage: Storage, upload_id: uuid.UUID) -> None:
    """Delete the parts of an upload. One that is sent later by a request which was signed before is an orphan."""
    storage.delete_prefix(keys.parts(upload_id))
