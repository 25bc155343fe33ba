"""BART's .cfl and .hdr made by the tests."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

NAMES = {"read": 0, "phase_1": 1, "phase_2": 2, "coil": 3, "maps": 4, "te": 5, "time": 10, "slice": 13, "average": 14}


def in_bart_order(array: np.ndarray, axes: str) -> np.ndarray:
    """An array whose axes are named, such as "slice coil phase_1 read", with BART's 16 dimensions."""
    places = [NAMES[axis] for axis in axes.split()]
    order = np.argsort(places)
    shape = np.ones(16, int)
    shape[np.sort(places)] = np.array(array.shape)[order]
    return array.transpose(order).reshape(shape)


def cfl(array: np.ndarray) -> bytes:
    """Values of an array of 16 dimensions."""
    return array.astype("<c8").tobytes(order="F")


def hdr(array: np.ndarray) -> bytes:
    """Its header, as BART writes it."""
    return f"# Dimensions\n{' '.join(map(str, array.shape))} \n# Command\nphantom\n# Creator\nBART v0.8.00\n".encode()


def write_zip(path: Path, arrays: Mapping[str, np.ndarray], *, packed: bool = True, folder: str = "") -> Path:
    """A zip of arrays of 16 dimensions, by their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{folder}{name}.hdr", hdr(array))
            archive.writestr(f"{folder}{name}.cfl", cfl(array))
    return path
