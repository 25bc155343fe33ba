"""BART on arrays: the peer of MRI reconstructions and coil maps. Needs `bart` on the PATH."""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

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


def bart_along(
    *command: str,
    trajectory: NDArray[np.floating[Any]],
    kspace: NDArray[np.complex64],
    maps: NDArray[np.complex64] | None = None,
    weights: NDArray[np.floating[Any]] | None = None,
) -> tuple[NDArray[np.complex64], float]:
    """Result of `bart COMMAND` along a trajectory, (coils, y, x), and its seconds.

    Trajectory (readouts, samples, 2) of (ky, kx) in cycles per field of view, k-space (coils, readouts, samples) and
    weights (readouts, samples) go in BART's layouts; in the command `-t trajectory` and `-p weights` name them.
    """
    points = np.zeros((3, *trajectory.shape[1::-1]), np.complex64)
    points[:2] = trajectory.transpose(2, 1, 0)
    arrays = {"trajectory": points, "kspace": kspace.transpose(2, 1, 0)[None]}
    if weights is not None:
        arrays["weights"] = weights.T[None].astype(np.complex64)
    named = ["trajectory"] * (command[0] == "nufft") + ["kspace"] + ["maps"] * (maps is not None)
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays.items():
            write_dimensions(Path(folder, name), array)
        if maps is not None:
            write(Path(folder, "maps"), maps)
        started = time.perf_counter()
        subprocess.run(["bart", *command, *named, "result"], cwd=folder, check=True, capture_output=True)
        return read(Path(folder, "result")), time.perf_counter() - started


def write_dimensions(path: Path, array: NDArray[np.complex64]) -> None:
    """A .cfl and .hdr pair of an array whose axes are BART's, the first of which runs fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def write(path: Path, coils: NDArray[np.complex64]) -> None:
    """A .cfl and .hdr pair: the first axis runs fastest, coils are the fourth."""
    write_dimensions(path, coils.transpose(1, 2, 0)[:, :, None])


def read(path: Path) -> NDArray[np.complex64]:
    """The array of `write`."""
    sizes = [int(size) for size in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    rows, columns, _, coils = (*sizes, 1, 1, 1, 1)[:4]
    flat = np.fromfile(path.with_suffix(".cfl"), np.complex64)
    return flat.reshape((rows, columns, coils), order="F").transpose(2, 0, 1)
