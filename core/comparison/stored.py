"""Cache of measurements on disk: each is computed once, and read when it is there already."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core import metrics
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.saved_state import engine

Image = NDArray[np.float32]
Made = tuple[Image | None, dict[str, Any]]


class Measurement(NamedTuple):
    """A measurement on a case; its result depends on `key`, the case and the engine only."""

    label: str
    key: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of its files without their suffix."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True, default=str).encode()).hexdigest()
        return f"{re.sub(r'[^-+.,=_0-9A-Za-z]', '-', self.label)[:80]}-{digest[:8]}"


class Result(NamedTuple):
    """Result: `seconds`, `cpu_seconds`, with a reference `psnr` (dB) and `ssim`, and further fields."""

    label: str
    path: Path  # of the image, .npy
    fields: Mapping[str, Any]

    @property
    def psnr(self) -> float:
        """PSNR in dB."""
        return float(self.fields["psnr"])

    @property
    def image(self) -> Image:
        """The image (y, x)."""
        return np.asarray(np.load(self.path, allow_pickle=False), np.float32)


def read_result(folder: Path, wanted: Measurement) -> Result | None:
    """The stored result of a measurement in the folder of its case; None: it is not there yet."""
    path = folder / f"{wanted.name}.json"
    if not path.is_file():
        return None
    fields = metrics.with_current_names(json.loads(path.read_text()))
    if "curves" in fields:
        fields["curves"] = metrics.with_current_names(fields["curves"])
    return Result(wanted.label, path.with_suffix(".npy"), fields)


def measure_once(folder: Path, wanted: Measurement, make: Callable[[], Made], reference: Image | None = None) -> Result:
    """The result of a measurement, computed by `make` if it is not stored yet.

    Fields that `make` returns take precedence over the times and metrics measured here.
    """
    known = read_result(folder, wanted)
    if known is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), cpu_seconds()
    image, own_fields = make()
    fields = {
        "label": wanted.label,
        "key": wanted.key,
        "engine": engine(),
        "load": round(os.getloadavg()[0], 1),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": cpu_seconds() - cpu,
    }
    if image is not None:
        with atomic_write(folder / f"{wanted.name}.npy") as part, part.open("wb") as file:
            np.save(file, image.astype(np.float32))
        if reference is not None:
            fields |= {"psnr": metrics.psnr(image, reference), "ssim": metrics.ssim(image, reference)}
    fields |= own_fields
    with atomic_write(folder / f"{wanted.name}.json") as part:
        part.write_text(json.dumps(fields, indent=1, default=str) + "\n")
    return Result(wanted.label, folder / f"{wanted.name}.npy", fields)


def cpu_seconds() -> float:
    """CPU seconds of this process and of child processes that it waited for, all threads together."""
    used = os.times()
    return time.process_time() + used.children_user + used.children_system
