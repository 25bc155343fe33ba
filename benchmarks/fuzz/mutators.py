"""Base of all mutators: a valid file to corrupt, and canaries outside the data folder that a file may try to reach."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.data.tiny_scans import mri, write_hdf5

CANARY = b"canary-9d41c7: these bytes lie outside"
LONG_AGO = 1_000_000_000  # a time of last access older than that of the last change, which any reading renews


class Traps:
    """Files beside the data folder that nobody may open, and one that appears when a pickle is run."""

    def __init__(self, folder: Path) -> None:
        self.scan, self.raw, self.pickle_ran = (folder / name for name in ("canary.h5", "canary.bin", "pickle-ran"))
        write_hdf5(self.scan, **mri(), note=CANARY.decode())
        # As float32 it is a plausible scan, so whoever reads it takes it.
        self.raw.write_bytes(CANARY + bytes(2) + np.full(1 << 16, 1.5, np.float32).tobytes())
        self.set()

    def set(self) -> None:
        """Make any later reading visible."""
        for path in (self.scan, self.raw):
            os.utime(path, (LONG_AGO, path.stat().st_mtime))

    def sprung(self) -> list[str]:
        """What has been read or run since."""
        read = [path.name for path in (self.scan, self.raw) if path.stat().st_atime != LONG_AGO]
        return [f"{name} was read" for name in read] + ["a pickle was run"] * self.pickle_ran.exists()


@dataclass(frozen=True)
class Draft:
    """A good file at `path`, to be spoilt in place."""

    path: Path
    rng: np.random.Generator
    traps: Traps

    def target(self, path: Path) -> str:
        """A trap as a file may spell it: absolute, or as seen from a folder of the data folder."""
        return str(self.rng.choice([str(path), f"../../{path.name}", f"../{path.name}", f"./../../{path.name}"]))


class Mutator(NamedTuple):
    """One way to spoil a file."""

    name: str
    kind: str  # "any", "hdf5", "mrd", "npy", "npz", "gzip", "matlab5", "bart", "bruker", "twix", "ct_pd" ...
    must_be_refused: bool
    mutate: Callable[[Draft], None]


MUTATORS: list[Mutator] = []


def registered(kind: str, must_be_refused: bool, name: str, mutate: Callable[[Draft], None]) -> None:
    """Add a mutator to the list, under a name that tells its kind."""
    MUTATORS.append(Mutator(f"{kind}: {name.replace('_', ' ')}", kind, must_be_refused, mutate))


def spoilt_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values that are no measurement, in an array of floats, where something was measured: elsewhere they may be."""
    values = array.copy()
    if values.dtype.kind not in "fc":
        values = values.astype(np.float32)
    measured = np.flatnonzero(values)
    where = rng.choice(measured) if measured.size else rng.integers(values.size)
    values[np.unravel_index(int(where), values.shape)] = rng.choice([np.nan, np.inf, -np.inf])
    return values
