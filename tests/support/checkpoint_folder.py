"""Checkpoints of one job in a folder of their own."""

import uuid
from collections.abc import Callable
from pathlib import Path

from udig_recon.worker.runtime.checkpoints import Checkpoints
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

JOB = uuid.UUID(int=1)


def checkpoints_in(
    folder: Path, slice_: int = 0, made_by: str = "this run", may_write: Callable[[], bool] = lambda: True
) -> Checkpoints:
    """The checkpoints of a slice, stored below the folder."""
    storage = LocalStorage(folder)
    storage.create_group(keys.job(JOB))
    return Checkpoints(storage, JOB, slice_, made_by, may_write)


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of all checkpoints below the folder, and whatever lies beside them, in order."""
    return sorted((folder / keys.checkpoints(JOB)).glob("*"))
