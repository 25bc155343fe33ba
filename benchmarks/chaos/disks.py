"""Small disks that can be filled: mounted for this process and its children only, or simulated."""

import ctypes
import errno
import os
from pathlib import Path
from typing import Protocol

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Disk(Protocol):
    """Can be full for a while."""

    def fill(self) -> None:
        """Leave no room."""

    def clear(self) -> None:
        """Give the room back."""

    def remove(self) -> None:
        """Be gone, with all that was on it."""


class SmallDisk:
    """A tmpfs. Filling it is writing a file until nothing more goes in."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir(mode=0o700)
        _checked(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size_bytes},mode=0700".encode()))
        self._folder, self._ballast = folder, folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def clear(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        _checked(_libc.umount2(os.fsencode(self._folder), MNT_DETACH))


class PretendedDisk:
    """A file that has the processes of `entry` refuse to open others for writing."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def fill(self) -> None:
        self.flag.touch()

    def clear(self) -> None:
        self.flag.unlink(missing_ok=True)

    def remove(self) -> None:
        self.clear()


def can_mount() -> bool:
    """Whether this process may mount; from then on it has its own mounts, which end with it and its children."""
    if _libc.unshare(CLONE_NEWNS) != 0:
        return False
    return _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0  # type: ignore[no-any-return]


def _checked(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
