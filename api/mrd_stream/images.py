"""Images of a result as messages of the MRD stream, with geometry in patient coordinates and attributes."""

import math
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from udig_recon.api.mrd_stream.messages import VERSION
from udig_recon.core.formats.readouts.mrd_protocol import IMAGE_HEAD, MESSAGE_ID, MessageId

FLOAT, MAGNITUDE = 5, 1  # data type and image type
SERIES = 1
NOTICE = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"


def image_message(
    image: NDArray[np.floating[Any]], number: int, place: int, header: Mapping[str, Any], attributes: Mapping[str, str]
) -> bytes:
    """An IMAGE message of one slice, (y, x), the magnitude as float32.

    `number` is the slice's in the scan, `place` its place in the result; `header` is the scan's. Columns run along
    `read_dir`, rows along `phase_dir`, and `position` is the centre of the pixel n // 2, in mm (L, P, S).
    """
    rows, columns = image.shape
    head = np.zeros((), IMAGE_HEAD)
    head["version"], head["data_type"], head["channels"] = VERSION, FLOAT, 1
    head["matrix_size"] = columns, rows, 1
    head["image_type"], head["image_index"], head["image_series_index"] = MAGNITUDE, place + 1, SERIES
    frame = header["frames"][number] if header.get("frames") else {"slice": number}
    for name, counter in frame.items():
        head[name] = counter
    spacing_y, spacing_x = header["pixel_spacing_mm"]
    spacing_z = header.get("slice_spacing_mm") or 0.0
    if header.get("affine") is not None:
        affine = np.asarray(header["affine"], float)
        steps = affine[:3, :3]
        lengths = [math.hypot(*steps[:, axis]) for axis in range(3)]
        for axis, name in enumerate(("read_dir", "phase_dir", "slice_dir")):
            head[name] = steps[:, axis] / lengths[axis]
        spacing_x, spacing_y, spacing_z = lengths
        head["position"] = (affine @ [columns // 2, rows // 2, frame["slice"], 1])[:3]
    head["field_of_view"] = columns * spacing_x, rows * spacing_y, spacing_z
    told = attributes_xml(attributes).encode()
    head["attribute_string_len"] = len(told)
    pixels = np.ascontiguousarray(image, "<f4").tobytes()
    return MESSAGE_ID.pack(MessageId.IMAGE) + head.tobytes() + len(told).to_bytes(8, "little") + told + pixels


def attributes_xml(attributes: Mapping[str, str]) -> str:
    """Attributes as ISMRMRD has them: an XML of names and values."""
    each = "".join(
        f"<meta><name>{escape(name)}</name><value>{escape(value)}</value></meta>" for name, value in attributes.items()
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ismrmrdMeta>{each}</ismrmrdMeta>'
