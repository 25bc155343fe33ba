"""Results of measurements on disk, each computed once: what is there already is read, whatever stopped the last run."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core import metrics
from udig_recon.core.files.atomic import atomic_write

ENGINE = Path(__file__).parents[1]

Image = NDArray[np.float32]
Made = tuple[Image | None, dict[str, Any]]


class Measurement(NamedTuple):
    """Something to measure on a case: `key` is all that its result depends on, beside the case and the engine."""

    label: str
    key: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its files, without their suffix."""
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True, default=str).encode()).hexdigest()
        return f"{re.sub(r'[^-+.,=_0-9A-Za-z]', '-', self.label)[:80]}-{digest[:8]}"


class Result(NamedTuple):
    """What was measured: `seconds`, `cpu_seconds`, where there was a reference `psnr` (dB) and `ssim`, and more."""

    label: str
    path: Path  # of the image, .npy
    fields: Mapping[str, Any]

    @property
    def psnr(self) -> float:
        """In dB."""
        return float(self.fields["psnr"])

    @property
    def image(self) -> Image:
        """The image (y, x)."""
        return np.asarray(np.load(self.path, allow_pickle=False), np.float32)


def read_result(folder: Path, wanted: Measurement) -> Result | None:
    """The result of a measurement in the folder of its case; None if there is none yet."""
    path = folder / f"{wanted.name}.json"
    if not path.is_file():
        return None
    fields = metrics.with_current_names(json.loads(path.read_text()))
    if "curves" in fields:
        fields["curves"] = metrics.with_current_names(fields["curves"])
    return Result(wanted.label, path.with_suffix(".npy"), fields)


def measure_once(folder: Path, wanted: Measurement, make: Callable[[], Made], reference: Image | None = None) -> Result:
    """The result of a measurement, computed if it is not there yet.

    What `make` tells of its time and quality goes before what is seen here.
    """
    if (known := read_result(folder, wanted)) is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), cpu_seconds()
    image, told = make()
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
    fields |= told
    with atomic_write(folder / f"{wanted.name}.json") as part:
        part.write_text(json.dumps(fields, indent=1, default=str) + "\n")
    return Result(wanted.label, folder / f"{wanted.name}.npy", fields)


def cpu_seconds() -> float:
    """Of this process and of those that it waited for, all threads together."""
    used = os.times()
    return time.process_time() + used.children_user + used.children_system


@lru_cache
def engine() -> str:
    """What tells one state of the engine from another: of the sources of `core`."""
    digest = hashlib.sha256()
    for path in sorted(ENGINE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
