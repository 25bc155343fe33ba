"""Output format `npy`: the reconstruction as one numpy array (slices, y, x) of float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice


class NpyWriter:
    """Writes the header with the first slice, whose size it takes for all."""

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file, self._count = file, count
        self._started = False

    def add(self, result: ResultSlice) -> None:
        """Append the image."""
        if not self._started:
            shape = (self._count, *result.image.shape)
            npy_format.write_array_header_1_0(self._file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            self._started = True
        self._file.write(np.asarray(result.image, "<f4").tobytes())


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[NpyWriter]:
    """A writer of a .npy file."""
    with path.open("wb") as file:
        yield NpyWriter(file, info.count)


# A copy of what the HDF5 result holds: it is written only where it is wanted.
FORMAT = OutputFormat("npy", ".npy", "application/octet-stream", "the images as a numpy array", open_writer, 8, True)
