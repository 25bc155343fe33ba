"""Unfinished volume on disk: its finished slices and the state of the running one, until the result is written."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from udig_recon.core.files.atomic import DamagedFile, atomic_write
from udig_recon.core.iterates import State
from udig_recon.core.reconstruct import Checkpoint
from udig_recon.core.results.store import SliceResult
from udig_recon.core.saved_state import SAVE_SECONDS, engine, load_state, save_state


class UnfinishedVolume:
    """Keeps slices in a folder (`udig_recon.core.volume.SliceStore`), so that an interrupted volume continues.

    `key` holds all that the slices depend on; what the folder has of another key, or of another state of the engine,
    is deleted.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self._folder = folder
        self._saved_at = time.monotonic()
        told, place = json.dumps({"engine": engine(), **key}, sort_keys=True), folder / "key.json"
        if not place.is_file() or place.read_text() != told:
            self.delete()
            folder.mkdir(parents=True)
            with atomic_write(place) as part:
                part.write_text(told)

    def read(self, number: int) -> SliceResult | None:
        """The slice; None: it is not finished, or its file is damaged."""
        path = self._slice(number)
        try:
            return SliceResult.from_bytes(path.read_bytes(), path.name) if path.is_file() else None
        except DamagedFile:
            return None

    def write(self, number: int, result: SliceResult) -> None:
        """Keep a finished slice; its state is no longer needed. Raises OSError."""
        with atomic_write(self._slice(number)) as part:
            part.write_bytes(result.to_bytes())
        self._state(number).unlink(missing_ok=True)

    def load_state(self, number: int, device: torch.device) -> State | None:
        """The state that was saved last; None: the slice begins."""
        return load_state(self._state(number), device)

    def offer_state(self, number: int, checkpoint: Checkpoint) -> None:
        """Save the state where the last one is SAVE_SECONDS old. Raises OSError."""
        if time.monotonic() > self._saved_at + SAVE_SECONDS:
            save_state(self._state(number), checkpoint.make_state())
            self._saved_at = time.monotonic()

    def delete(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _slice(self, number: int) -> Path:
        return self._folder / f"{number}.npz"

    def _state(self, number: int) -> Path:
        return self._folder / f"{number}.pt"
