"""Checkpoints of one slice: files `<slice>.<step>.<sha256>.pt`, of which the last two are kept."""

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worker.storage import replacing

log = logging.getLogger(__name__)
KEPT = 2


def fingerprint(**what: Any) -> str:
    """Hash of all that must be equal for a checkpoint to be gone on with."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one slice in a job's folder."""

    def __init__(self, folder: Path, slice_: int, made_by: str) -> None:
        self._folder, self._slice, self._made_by = folder, slice_, made_by

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Put the content (tensors, numbers, text, lists and dicts of them) on the disk."""
        part = self._folder / f".{self._slice}.{step}.part"
        torch.save({"made_by": self._made_by, **content}, part)
        try:
            target = self._folder / f"{self._slice}.{step:09d}.{_sha256(part)}.pt"
            with replacing(target) as name:
                part.rename(name)
        finally:
            part.unlink(missing_ok=True)
        for old in self._files()[KEPT:]:
            old.unlink(missing_ok=True)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The latest that is whole and was made by the same parameters, seed, prior and software; None: begin anew."""
        for path in self._files():
            if path.name.split(".")[2] != _sha256(path):
                log.warning("checkpoint.broken", extra={"file": path.name})
                continue
            try:
                content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, pickle.UnpicklingError):
                log.warning("checkpoint.unreadable", extra={"file": path.name})
                continue
            if content.pop("made_by", None) == self._made_by:
                return content
            log.warning("checkpoint.foreign", extra={"file": path.name})
        return None

    def clear(self) -> None:
        """Remove them all."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """The latest first."""
        return sorted(self._folder.glob(f"{self._slice}.*.pt"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
