"""Seconds and memory to probe and prepare a large scan: `python -m benchmarks.speed.preparing [MiB] [format ...]`.

Each scan is read once, in the sandbox, as the service reads it when it is uploaded. The seconds are of the clock, from
the order to the header, and of the processor; the memory is the reading process's own at its largest. Prints a
Markdown row for each format.
"""

import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from benchmarks.data.tiny_scans import fft, header, phantom
from udig_recon.core.formats.prepared import open_prepared
from udig_recon.core.formats.sandbox.client import Prober

COILS, ROWS, COLUMNS = 16, 640, 368
MEBIBYTE = 1 << 20
_SLICE_BYTES = COILS * ROWS * COLUMNS * 8


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    wanted = sys.argv[2:] or list(WRITERS)
    print("| format | MiB | seconds | CPU seconds | MiB of memory | prepared MiB |")
    print("|---|---|---|---|---|---|")
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="udig-preparing-", dir=os.environ.get("PREPARING_FOLDER")) as folder:
            path = WRITERS[name](Path(folder) / "scan", max(1, size * MEBIBYTE // _SLICE_BYTES))
            print(row(name, path, Path(folder) / "prepared"), flush=True)


def row(name: str, path: Path, prepared: Path) -> str:
    """One scan's row of the table."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    prober = Prober()
    prober.prepare(1)
    prober.missing_parts()
    before, began = _of_children(), time.monotonic()
    with prepared.open("w+b") as output:
        header = prober.prepare_scan(path, output.fileno(), sha256)
    seconds = time.monotonic() - began
    prober.close()
    after = _of_children()
    with open_prepared(prepared) as scan:
        assert scan.header == header
    cells = [
        name,
        f"{path.stat().st_size / MEBIBYTE:.0f}",
        f"{seconds:.1f}",
        f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.1f}",
        f"{after.ru_maxrss / 1024:.0f}",
        f"{prepared.stat().st_size / MEBIBYTE:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _of_children() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def slices(count: int) -> Iterator[NDArray[np.complex64]]:
    """k-space (coils, ky, kx) of slices, four times undersampled along kx, each with noise of its own."""
    rng = np.random.default_rng(0)
    image = phantom(1, COLUMNS)[0]
    rows = (ROWS - COLUMNS) // 2
    object_ = np.pad(image, ((rows, ROWS - COLUMNS - rows), (0, 0)))
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    turns = np.arange(COILS) * 2 * np.pi / COILS
    maps = np.exp(-((x - np.cos(turns)[:, None, None]) ** 2) - (y - np.sin(turns)[:, None, None]) ** 2)
    clean = fft(maps * object_).astype(np.complex64)
    measured = np.zeros(COLUMNS, bool)
    measured[::4] = measured[COLUMNS // 2 - 12 : COLUMNS // 2 + 12] = True
    noise = rng.standard_normal((2, *clean.shape), np.float32)
    noisy = clean + np.float32(1e-3 * np.abs(clean).max() ** 0.5) * (noise[0] + 1j * noise[1])
    for index in range(count):
        yield np.roll(noisy, index, 0) * np.float32(1 + index / count) * measured


def write_hdf5(path: Path, count: int) -> Path:
    """FastMRI's layout, not packed, as fastMRI distributes it."""
    with h5py.File(path, "w") as file:
        kspace = file.create_dataset("kspace", (count, COILS, ROWS, COLUMNS), np.complex64)
        for index, each in enumerate(slices(count)):
            kspace[index] = each
        file["ismrmrd_header"] = header(np.empty((1, ROWS, COLUMNS)), ROWS // 2, COLUMNS)
    return path


def write_npy(path: Path, count: int) -> Path:
    """One array."""
    kspace = open_memmap(path, "w+", np.complex64, (count, COILS, ROWS, COLUMNS))  # type: ignore[no-untyped-call]
    for index, each in enumerate(slices(count)):
        kspace[index] = each
    return path


WRITERS: Mapping[str, Callable[[Path, int], Path]] = {"fastMRI HDF5": write_hdf5, "npy": write_npy}


if __name__ == "__main__":
    main()
