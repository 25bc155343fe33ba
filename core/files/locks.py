"""Locks that the processes of several machines share, by files on a common file system."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which is there no longer than it is held. A process that ends gives it up.

    Raises BlockingIOError where another holds it. On Windows, and on a file system that has no locks, all get it.
    """
    if sys.platform == "win32":
        yield
        return
    file = _open_locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _open_locked(path: Path) -> BinaryIO:
    """The file, locked. One that was deleted between its opening and its locking is no lock: others do not see it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("ab")
        try:
            _lock(file)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _lock(file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # the file system has no locks
        pass
