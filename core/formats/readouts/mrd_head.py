"""Header of an ISMRMRD acquisition (a readout) as files and streams of scanners carry it: 340 bytes, little-endian."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.readouts.readouts import READOUT

MOST_READOUTS = 250_000
"""Of a measurement: HDF5's index takes 2 KiB of memory for each that is a chunk of its own."""

MOST_COILS = 1024
"""Of a readout, before those are compressed or refused that are more than a scan may have."""

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
_NAMES = {"samples": "number_of_samples", "coils": "active_channels", "encoding": "encoding_space_ref"}


def readouts_of(heads: NDArray[Any]) -> NDArray[Any]:
    """What heads of acquisitions tell of readouts, as READOUT, whatever order and types of numbers their members have.

    Raises UnreadableScan where a member is missing, or a number is out of range.
    """
    lines = np.zeros(len(heads), READOUT)
    counters = _member(heads, "idx")
    for name in READOUT.names or ():
        source = counters if name in (_COUNTERS.names or ()) else heads
        lines[name] = _values(source, _NAMES.get(name, name), READOUT[name])
    return lines


def _member(rows: NDArray[Any], name: str) -> NDArray[Any]:
    if rows.dtype.names is None or name not in rows.dtype.names:
        raise UnreadableScan.at("data", f"a head without {name}", "the members of an ISMRMRD acquisition header")
    member: NDArray[Any] = rows[name]
    return member


def _values(rows: NDArray[Any], name: str, wanted: np.dtype[Any]) -> NDArray[Any]:
    values = _member(rows, name)
    if values.dtype.kind not in "iuf" or values.shape[1:] != wanted.shape:
        raise UnreadableScan.at("data", f"{name} of another type", f"{wanted.base} of shape {wanted.shape}")
    if wanted.base.kind == "u":
        with np.errstate(invalid="ignore"):
            converted = values.astype(wanted.base)
        if (converted != values).any():
            raise UnreadableScan.at("data", f"{name} out of range", f"{wanted.base}")
        return converted
    return values
