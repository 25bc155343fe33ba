"""MATLAB files made by the tests: version 7.3 by h5py, version 5 by scipy, and wrong ones of version 5 by hand."""

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def in_matlab_order(array: np.ndarray) -> np.ndarray:
    """(slices, coils, ky, kx) as MATLAB has it: (ky, kx, coils, slices)."""
    order = (*range(array.ndim - 2, array.ndim), *reversed(range(array.ndim - 2)))
    return array.transpose(order)


def write_matlab73(path: Path, order: str = "<", group: str = "", **parts: Any) -> Path:
    """Arrays as MATLAB keeps them: pairs of real and imaginary part, the axes reversed; texts as characters."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, part in parts.items():
            kind = "single"
            stored = part
            if isinstance(part, str):
                stored, kind = np.array([[ord(letter)] for letter in part], np.uint16), "char"
            elif isinstance(part, int | float):
                stored, kind = np.array([[float(part)]]), "double"
            elif part.dtype.kind == "c":
                stored = np.empty(part.shape, [("real", f"{order}f4"), ("imag", f"{order}f4")])
                stored["real"], stored["imag"] = part.real, part.imag
            if isinstance(part, np.ndarray) and part.ndim > 1:
                stored = stored.swapaxes(-1, -2).copy()
            file[group + name] = stored
            file[group + name].attrs["MATLAB_class"] = np.bytes_(kind)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def write_matlab5(path: Path, *, packed: bool = True, **parts: Any) -> Path:
    """Arrays in MATLAB's order of axes, by scipy."""
    with path.open("wb") as file:
        ordered = {
            name: in_matlab_order(part) if isinstance(part, np.ndarray) and part.ndim > 1 else part
            for name, part in parts.items()
        }
        scipy.io.savemat(file, ordered, do_compression=packed)
    return path


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    """A tag with its content; `size` is what the tag says in place of the truth."""
    return struct.pack("<II", kind, len(content) if size is None else size) + content + bytes(-len(content) % 8)


def variable(
    *content: bytes,
    name: str = "kspace",
    class_: int = 7,
    flags: int = 8,
    sides: tuple[int, ...] = (8, 8, 2),
    size: int | None = None,
) -> bytes:
    """A variable; without content, complex numbers of single precision that fit its sides."""
    head = element(6, bytes((class_, flags)) + bytes(6))
    head += element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, name.encode())
    values = np.ones(int(np.prod(sides)), "<f4") if not content else None
    parts = content if values is None else [element(7, values.tobytes())] * 2
    return element(14, head + b"".join(parts), size)


def write_variables(path: Path, *variables: bytes, packed: bool = False) -> None:
    """A MATLAB 5 file of these variables."""
    if packed:
        streams = [zlib.compress(each) for each in variables]
        variables = tuple(struct.pack("<II", 15, len(each)) + each for each in streams)
    path.write_bytes(HEADER + b"".join(variables))
