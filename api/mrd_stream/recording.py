"""The lines of a connection as an MRD file (HDF5), written in blocks while they come."""

from pathlib import Path

import numpy as np

from udig_recon.api.mrd_stream.messages import ACQUISITION_BYTES, Line
from udig_recon.core.files.hdf5_sink import Hdf5Sink
from udig_recon.core.formats.containers.hdf5_library import h5py

BLOCK_LINES = 64  # in a chunk of the file: a chunk for each line would cost more than the lines
BLOCK_BYTES = 8 << 20  # that wait for a block to be full
GROUP = "dataset"

_COUNTERS = np.dtype(
    [
        *((f"kspace_encode_step_{axis}", "<u2") for axis in (1, 2)),
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set", "segment")),
        ("user", "<u2", (8,)),
    ]
)
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        *((name, "<u4") for name in ("measurement_uid", "scan_counter", "acquisition_time_stamp")),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("number_of_samples", "available_channels", "active_channels")),
        ("channel_mask", "<u8", (16,)),
        *((name, "<u2") for name in ("discard_pre", "discard_post", "center_sample", "encoding_space_ref")),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        *((name, "<f4", (3,)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        ("idx", _COUNTERS),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
"""Header of an acquisition, in the file as on the wire."""
assert HEAD.itemsize == ACQUISITION_BYTES  # noqa: S101 - the layout's own figure
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
