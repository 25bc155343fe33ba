"""Checkpoints of one slice: objects `SLICE.STEP.SHA256.pt` of its job, of which the last two are kept."""

import hashlib
import io
import json
import logging
import pickle
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import torch

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage, StorageUnavailable, is_full

log = logging.getLogger(__name__)
KEPT = 2


def fingerprint(**inputs: Any) -> str:
    """Hash of everything that must be equal for a run to continue from a checkpoint."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one slice of a job. One is stored only if `may_write` says so."""

    def __init__(
        self, storage: Storage, job_id: uuid.UUID, slice_: int, made_by: str, may_write: Callable[[], bool]
    ) -> None:
        self._storage, self._prefix = storage, keys.checkpoints(job_id)
        self._slice, self._made_by, self._may_write = slice_, made_by, may_write
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._write: Future[float] | None = None
        self._making_seconds = 0.0

    @property
    def busy(self) -> bool:
        """Whether the last one is still being written."""
        return self._write is not None and not self._write.done()

    @property
    def seconds(self) -> float:
        """CPU seconds that the last one took, once it is written."""
        return self._making_seconds + (self._write.result() if self._write is not None else 0.0)

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Copy the content (tensors, numbers, text, lists and dicts of them) and write it in the background."""
        self.wait()
        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save({"made_by": self._made_by, "slice": self._slice, **content}, buffer)
        self._making_seconds = time.monotonic() - began
        self._write = self._writer.submit(copy_context().run, self._write_file, step, buffer.getbuffer())

    def wait(self) -> None:
        """Wait until the last one is on the disk, unless that is full. Raises OSError when it could not be written."""
        if self._write is not None:
            self._write.result()

    def _write_file(self, step: int, content: memoryview) -> float:
        """Seconds of the processor that it took."""
        began = time.thread_time()
        name = f"{self._slice}.{step:09d}.{hashlib.sha256(content).hexdigest()}.pt"
        if not self._may_write():
            return 0.0
        try:
            self._storage.put(f"{self._prefix}/{name}", content)
            if not self._may_write():  # it may have taken long
                self._storage.delete(f"{self._prefix}/{name}")
                return 0.0
            for old in self._keys()[KEPT:]:
                self._storage.delete(old)
        except OSError as error:
            # A later one may find room, or a storage that answers; the slice itself can do without.
            if not is_full(error) and not isinstance(error, StorageUnavailable):
                raise
            log.warning("checkpoint.write_failed", extra={"step": step})
            return 0.0
        log.info("checkpoint.saved", extra={"step": step})
        return time.thread_time() - began

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The latest whole one of this slice, made by the same parameters, seed, prior and software; None: begin anew.

        Those refused go: a later step than that of a fresh start would otherwise push its checkpoints out. Raises
        OSError when there are some of which none can be read: the disk may be better at the next try.
        """
        unread: OSError | None = None
        for key in self._keys():
            name = keys.name_of(key)
            try:
                content = self._storage.read(key)
            except OSError as error:
                log.warning("checkpoint.read_failed", extra={"file": name, "error": str(error.strerror)})
                unread = error
                continue
            except DamagedFile:
                content = b""
            kept = self._understood(name, content, device)
            if kept is not None:
                return kept
            self._storage.delete(key)
        if unread is not None:
            raise unread
        return None

    def _understood(self, name: str, content: bytes, device: torch.device) -> dict[str, Any] | None:
        if name.split(".")[2] != hashlib.sha256(content).hexdigest():
            log.warning("checkpoint.damaged", extra={"file": name})
            return None
        try:
            kept: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError):
            log.warning("checkpoint.decode_failed", extra={"file": name})
            return None
        # Those of older versions name no slice.
        if kept.pop("made_by", None) != self._made_by or kept.pop("slice", self._slice) != self._slice:
            log.warning("checkpoint.incompatible", extra={"file": name})
            return None
        return kept

    def clear(self) -> None:
        """Remove all checkpoints, after the last one is written."""
        self._writer.shutdown()
        for key in self._keys():
            self._storage.delete(key)

    def _keys(self) -> list[str]:
        """The latest first."""
        begin = f"{self._prefix}/{self._slice}."
        found = (each.key for each in self._storage.list(self._prefix))
        return sorted((key for key in found if key.startswith(begin)), reverse=True)
