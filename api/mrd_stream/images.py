"""Images of a result as messages of the MRD stream, with geometry in patient coordinates and attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Frame, frames_of
from udig_recon.core.formats.readouts.mrd_protocol import MESSAGE_ID, MessageId
from udig_recon.core.results.mrd import attributes_xml, image_head


def image_message(
    image: NDArray[np.floating[Any]], number: int, place: int, header: Mapping[str, Any], attributes: Mapping[str, str]
) -> bytes:
    """An IMAGE message of one slice, (y, x), the magnitude as float32.

    `number` is the slice's in the scan, `place` its place in the result; `header` is the scan's.
    """
    frame = frames_of(header)[number] if header.get("frames") else Frame(slice=number)
    told = attributes_xml(attributes).encode()
    head = image_head(image.shape, frame, place, header, len(told))
    pixels = np.ascontiguousarray(image, "<f4").tobytes()
    return MESSAGE_ID.pack(MessageId.IMAGE) + head.tobytes() + len(told).to_bytes(8, "little") + told + pixels
