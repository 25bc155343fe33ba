"""Saved states of interrupted runs on disk, each for the state of the engine that wrote it."""

import hashlib
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.files.checksummed_arrays import ARCHIVE_ERRORS
from udig_recon.core.iterates import State

SAVE_SECONDS = 60.0
"""Seconds from one saved state of a run to the next."""

ENGINE = Path(__file__).parent


@lru_cache
def engine() -> str:
    """Digest of the sources of `core`, which tells one state of the engine from another."""
    digest = hashlib.sha256()
    for path in sorted(ENGINE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def save_state(path: Path, state: State) -> None:
    """Write the state of a run. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part, torch.no_grad():
        torch.save({"engine": engine(), "state": state}, part)


def load_state(path: Path, device: torch.device) -> State | None:
    """The state that this very engine saved; None where there is none, or its file is damaged."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        return content["state"] if content["engine"] == engine() else None
    except (*ARCHIVE_ERRORS, pickle.UnpicklingError):
        return None
