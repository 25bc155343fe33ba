"""The lines of a connection as an MRD file (HDF5), written in blocks while they come."""

from pathlib import Path

import numpy as np

from udig_recon.api.mrd_stream.messages import Line
from udig_recon.core.files.hdf5_sink import Hdf5Sink
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.readouts.mrd_head import HEAD

BLOCK_LINES = 64  # in a chunk of the file: a chunk for each line would cost more than the lines
BLOCK_BYTES = 8 << 20  # that wait for a block to be full
GROUP = "dataset"

_FLOATS = h5py.vlen_dtype(np.dtype("<f4"))
_ROW = np.dtype([("head", HEAD), ("traj", _FLOATS), ("data", _FLOATS)])


class Recording:
    """An MRD file that grows by blocks of lines. Its methods run in threads, one after the other."""

    def __init__(self, path: Path) -> None:
        self._sink = Hdf5Sink(path, "r+")
        self._hdf5 = h5py.File(self._sink, "w")
        self._lines = self._hdf5.create_dataset(f"{GROUP}/data", (0,), _ROW, maxshape=(None,), chunks=(BLOCK_LINES,))

    def add_header(self, xml: bytes) -> None:
        """Write the XML header."""
        self._hdf5[GROUP].create_dataset("xml", data=np.array([xml], object), dtype=h5py.string_dtype())

    def add_lines(self, lines: list[Line]) -> None:
        """Append lines. Raises OSError where the disk takes no more."""
        rows = np.empty(len(lines), _ROW)
        rows["head"] = np.frombuffer(b"".join(line.head for line in lines), HEAD)
        for index, line in enumerate(lines):
            rows["traj"][index] = np.frombuffer(line.trajectory, "<f4")
            rows["data"][index] = np.frombuffer(line.data, "<f4")
        count = len(self._lines)
        self._lines.resize((count + len(rows),))
        self._lines[count:] = rows
        self._raise_failure()

    def close(self) -> None:
        """Write what HDF5 holds back; the file is whole then. Raises OSError. Harmless the second time."""
        try:
            self._hdf5.close()
        finally:
            self._sink.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._sink.failure is not None:
            raise self._sink.failure
