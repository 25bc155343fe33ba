"""Scratch files: private local files for bytes on their way in, locked by the process that writes them."""

import fcntl
import os
import uuid
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

OWNER_ONLY = 0o700


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, unless it is there."""
    folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)


class Scratch:
    """A new file in `folder`; it is deleted when closed, unless it was moved away."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.part"
        self.file = FileIO(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "r+")
        # The lock ends with the process: a file without one is left over.
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Close the file, and delete it where it still lies."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def remove_abandoned(folder: Path, before: float, suffix: str = "") -> int:
    """Delete scratch files that no living process holds and that were last changed before that time."""
    removed = 0
    for path in folder.glob(f"*{suffix}"):
        try:
            if path.stat().st_mtime < before:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                removed += 1
        except OSError:  # locked, or gone
            continue
    return removed
