"""BART on arrays: the peer of MRI reconstructions and coil maps. Needs `bart` on the PATH."""

import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def bart(*command: str, **inputs: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], float]:
    """Result of `bart COMMAND INPUTS...` and its seconds, reading and writing its small files included.

    Inputs and result are (coils, ky, kx) or (coils, y, x), one coil for an image.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, array in inputs.items():
            write(Path(folder, name), array)
        started = time.perf_counter()
        subprocess.run(["bart", *command, *inputs, "result"], cwd=folder, check=True, capture_output=True)
        return read(Path(folder, "result")), time.perf_counter() - started


def write(path: Path, coils: NDArray[np.complex64]) -> None:
    """A .cfl and .hdr pair: the first axis runs fastest, coils are the fourth."""
    array = coils.transpose(1, 2, 0)[:, :, None]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read(path: Path) -> NDArray[np.complex64]:
    """The array of `write`."""
    sizes = [int(size) for size in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    rows, columns, _, coils = (*sizes, 1, 1, 1, 1)[:4]
    flat = np.fromfile(path.with_suffix(".cfl"), np.complex64)
    return flat.reshape((rows, columns, coils), order="F").transpose(2, 0, 1)
