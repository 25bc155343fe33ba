"""Copies of a whole storage to another one, as from a folder to a bucket: every object is read back and compared.

A copy that was cut off goes on: what is in the target and equal stays. The id that belongs to the database is copied
last, so that no process takes half a copy for the storage of its service.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage

BLOCK_BYTES = 4 << 20


class CopyDiffers(Exception):
    """An object of the target is not what was copied, though it was written just now."""


@dataclass
class Copied:
    """What a copy did so far."""

    objects: int = 0  # copied
    bytes: int = 0
    kept: int = 0  # were there already
    gone: int = 0  # were deleted from the source meanwhile


def copy_objects(
    source: Storage, target: Storage, tell: Callable[[str], object] = lambda _: None, *, trust_sizes: bool = False
) -> Copied:
    """Copy all objects but previews of running slices. `tell` hears of each key that is in the target then.

    With `trust_sizes`, objects of the target that have the right size are not read again. Objects that the source has
    not any more stay in the target, where the orphan cleanup removes them. Raises CopyDiffers.
    """
    copied = Copied()
    for key in _keys_of(source, target):
        try:
            _copy(source, target, key, copied, trust_sizes=trust_sizes)
        except FileNotFoundError:
            copied.gone += 1
        else:
            tell(key)
    return copied


def _keys_of(source: Storage, target: Storage) -> Iterator[str]:
    for collection in (keys.SCANS, keys.PREPARED, keys.IDENTITIES):
        for each in source.list(collection):
            yield each.key
    for group in source.groups_with_keys():
        target.create_group(group.name)
        yield from (key for key in group.keys if key.split("/")[2] != "previews")
    yield keys.IDENTITY


def _copy(source: Storage, target: Storage, key: str, copied: Copied, *, trust_sizes: bool) -> None:
    size = source.info(key).size
    try:
        same = target.info(key).size == size
    except (FileNotFoundError, DamagedFile):
        same = False
    with source.local(key) as path:
        with path.open("rb") as file:
            sha256 = None if same and trust_sizes else _digest(file)
        if same and (sha256 is None or _digest_of(target, key) == sha256):
            copied.kept += 1
            return
        with target.writing(key) as part:
            shutil.copyfile(path, part)
    if _digest_of(target, key) != sha256:
        raise CopyDiffers(f"{key} is not in {target.location} as it was written there")
    copied.objects += 1
    copied.bytes += size


def _digest_of(storage: Storage, key: str) -> str:
    with storage.open(key, bypass_cache=True) as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
