"""The storage protocol: the verbs that a backend for stored objects implements.

Everything that reads or writes scans, checkpoints, slices, previews and results does so through a `Storage`, by key
(`udig_recon.worker.storage.keys`). A backend is a subclass; `udig_recon.worker.storage.backends` chooses one.

Every backend promises:

- An object is whole whenever it has its key: readers see the old object, the new one or none.
- A write that has returned survives a crash of the machine.
- Objects of a group (`keys.group_of`) can be written only while the group exists. Where a storage cannot forbid that
  (a bucket), the writer removes what it has just written to a group that went meanwhile; of one that was killed then,
  the orphan cleanup removes it.
- A missing object, or a write into a missing group, raises FileNotFoundError. A full storage raises OSError with
  ENOSPC or EDQUOT. A storage that does not answer raises StorageUnavailable: the same may succeed later. Other OSErrors
  are failures of the storage.

No write may depend on a condition of the storage (If-None-Match, compare and swap): some ignore them in silence. Names
hold the attempt, rows decide.
"""

import errno
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.storage.scratch import Scratch


class StorageUnavailable(OSError):
    """The storage does not answer, or refuses the service's credentials; `reason` tells without names or URLs."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, f"the storage does not answer ({reason})")
        self.reason = reason


class SignedRequest(NamedTuple):
    """A request that whoever has it may send to the storage itself, for a while."""

    method: str
    url: str  # as good as a password until it expires: never logged
    headers: dict[str, str]


class Group(NamedTuple):
    """A group and what lies in it."""

    name: str
    modified: float  # when it was last changed
    keys: Sequence[str]


class StoredObject(NamedTuple):
    """What a storage knows of an object without reading it."""

    key: str
    size: int  # bytes
    modified: float  # seconds since the epoch, by the storage's clock
    version: Hashable  # another one whenever anybody has written to the object or replaced it


class Storage(ABC):
    """Objects by key. `reserve_bytes` of its space are to stay free."""

    location: str  # for messages: where the objects lie, without credentials
    keeps_previews: bool = True  # whether objects may be replaced every few seconds, as previews are
    local_scratch: bool = False  # whether scratch files, copies and uploads lie on each machine rather than beside it

    def __init__(self, reserve_bytes: int = 0) -> None:
        self.reserve_bytes = reserve_bytes

    @abstractmethod
    def info(self, key: str) -> StoredObject:
        """Size, date and version of an object. Raises FileNotFoundError, or DamagedFile where it is no file."""

    @abstractmethod
    def open(self, key: str, *, bypass_cache: bool = False) -> BinaryIO:
        """An object, opened for reading and seeking. Raises FileNotFoundError, or DamagedFile where it is no file.

        With `bypass_cache` the bytes come from the medium itself, not from the memory of this machine.
        """

    @abstractmethod
    def local(self, key: str, *, bypass_cache: bool = False) -> AbstractContextManager[Path]:
        """A local file with the object's bytes, for libraries that want a path; read-only, valid inside the block.

        With `bypass_cache` the bytes come from the medium itself.
        """

    @abstractmethod
    def put(self, key: str, content: bytes | memoryview) -> None:
        """Store bytes under a key, where another object may lie."""

    @abstractmethod
    def writing(self, key: str) -> AbstractContextManager[Path]:
        """A local path to write a file to; it becomes the object when the block ends without an exception."""

    @abstractmethod
    def scratch(self) -> Scratch:
        """A new local file that no key names yet, for bytes that are checked before they are kept (`commit`)."""

    @abstractmethod
    def commit(self, scratch: Path, key: str) -> None:
        """Store a scratch file under a key, where another object may lie. The caller has put its bytes on the disk."""

    @abstractmethod
    def uploads_folder(self) -> Path:
        """The local folder of unfinished uploads, which all API processes share; best where `commit` moves by renaming.

        It may not be there yet. `udig_recon.worker.storage.uploads` alone writes there.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose keys begin with `prefix` and a "/", in no order; some may be deleted meanwhile."""

    @abstractmethod
    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below a prefix, and the group of that name: from then on nothing can be written there."""

    @abstractmethod
    def create_group(self, group: str) -> None:
        """Make a group, unless it is there: objects of it can be written from now on."""

    @abstractmethod
    def groups(self) -> Iterator[tuple[str, float]]:
        """Every group and when it was last changed (seconds since the epoch, by the storage's clock)."""

    @abstractmethod
    def remove_leftovers(self, before: float) -> int:
        """Remove the rests of writes and deletions that were cut off before that time; gives how many."""

    @abstractmethod
    def now(self) -> float:
        """The time by the clock that dates the objects, which may differ from this machine's."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Bytes that still fit."""

    def groups_with_keys(self) -> Iterator[Group]:
        """Every group and the keys of its objects."""
        for name, modified in self.groups():
            yield Group(name, modified, [each.key for each in self.list(name)])

    def stage(self, path: Path, key: str) -> None:  # noqa: B027
        """Bring a file's bytes where `commit` of it under this key takes no time; without that nothing refers to them.

        For transactions, which must be short. What is staged and never committed is an orphan like any other.
        """

    def drop_copy(self, key: str) -> bool:  # noqa: ARG002
        """Forget local copies of an object, which may have spoilt; whether the next reading may find other bytes."""
        return False

    def sign(self, method: str, key: str, seconds: float) -> SignedRequest | None:  # noqa: ARG002
        """A request for an object by those who have no other access; None: this storage cannot give any."""
        return None

    def read(self, key: str) -> bytes:
        """All bytes of an object. Raises FileNotFoundError."""
        with self.open(key) as file:
            return file.read()

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        try:
            self.info(key)
        except (FileNotFoundError, DamagedFile):
            return False
        return True

    def has_group(self, group: str) -> bool:
        """Whether there is a group of this name."""
        return any(name == group for name, _ in self.groups())

    def size(self, prefix: str) -> int:
        """Bytes of all objects below a prefix."""
        return sum(each.size for each in self.list(prefix))

    def require(self, size_bytes: int) -> None:
        """Raise OSError (ENOSPC) where an object of this size would leave less free than the reserve."""
        if self.free_bytes() - size_bytes < self.reserve_bytes:
            raise OSError(errno.ENOSPC, f"{size_bytes} bytes more would touch the reserve of {self.reserve_bytes}")


def is_full(error: Exception) -> bool:
    """Whether the storage, or this user's quota of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
