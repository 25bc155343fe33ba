"""Messages of the MRD streaming protocol (ISMRMRD), in a file or on a connection: their numbers and layouts.

Everything is little-endian. A message begins with a uint16, its kind; what follows depends on the kind:

    1     CONFIG_FILE   a name, padded with zeros to 1024 bytes
    2     CONFIG_TEXT   uint32 length, text
    3     HEADER        uint32 length, ISMRMRD header as XML
    4     CLOSE
    5     TEXT          uint32 length, text
    1008  ACQUISITION   `mrd_head.HEAD`, trajectory (float32), samples (complex64)
    1022  IMAGE         `IMAGE_HEAD`, uint64 length, XML of attributes, pixels
    1026  WAVEFORM      `WAVEFORM`, samples (uint32)
"""

from enum import IntEnum
from struct import Struct

import numpy as np

MESSAGE_ID = Struct("<H")
TEXT_LENGTH = Struct("<I")
CONFIG_FILE_BYTES = 1024
MOST_TEXT_BYTES = 1 << 20  # of a configuration, and of the XML header
_POINT = ("<f4", (3,))
IMAGE_HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", *_POINT),
        ("channels", "<u2"),
        *((name, *_POINT) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
        *((name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        *((name, "<u2") for name in ("image_type", "image_index", "image_series_index")),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
assert IMAGE_HEAD.itemsize == 198  # noqa: S101 - the layout's own figure
WAVEFORM = Struct("<H6xQIIIHHfH2x")  # version, flags, uid, counter, time, samples, channels, microseconds, kind
assert WAVEFORM.size == 40  # noqa: S101 - the layout's own figure


class MessageId(IntEnum):
    """Kinds of messages."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


def waveform_bytes(head: bytes) -> int:
    """Bytes of a waveform's samples behind its header."""
    *_, samples, channels, _, _ = WAVEFORM.unpack(head)
    return int(4 * samples * channels)
