"""Previews in the sandbox: the child reads a slice of a prepared scan and writes its image as plain numbers."""

import os

import numpy as np

from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.preview import PREVIEWS, preview_image


def write_preview(scan: PreparedScan, index: int, output: int) -> tuple[int, int] | None:
    """Write the preview (y, x) of a slice, little-endian float32 in C order; its size, None where its kind has none."""
    if scan.kind not in PREVIEWS:  # of an extension, whose module is not loaded here
        return None
    image = preview_image(scan.read([index]))
    left = np.ascontiguousarray(image, "<f4").reshape(-1).view(np.uint8).data
    while left:
        left = left[os.write(output, left) :]
    height, width = image.shape
    return height, width
