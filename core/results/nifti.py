"""The header of a NIfTI-1 file: voxels and axes of a volume, and what to know of it."""

import io
from collections.abc import Sequence

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Extension

_NIFTI_HEADER = 348  # bytes, before those that say whether an extension follows


def nifti_header(
    shape: tuple[int, int, int], spacing_mm: Sequence[float], slice_spacing_mm: float | None, warnings: Sequence[str]
) -> bytes:
    """Header of a volume (slices, y, x) of float32, with `warnings` as a comment behind it, code 6 of the extensions.

    `spacing_mm` is (y, x); without a `slice_spacing_mm` 1 mm is assumed, and said.

    A scan file does not say how the patient lay: slices are taken for axial ones seen from the feet.

    Columns run to the patient's left, rows to the back, slices to the head (L, P, S), as radiologists are shown them.
    """
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape[::-1])
    across = 1.0 if slice_spacing_mm is None else slice_spacing_mm
    header.set_zooms((spacing_mm[1], spacing_mm[0], across))
    header.set_sform(np.diag([-spacing_mm[1], -spacing_mm[0], across, 1.0]), code="aligned")
    header.set_xyzt_units("mm")
    comment = "\n".join(warnings).encode()
    extension = Nifti1Extension("comment", comment) if comment else None
    behind = b"\0\0\0\0" if extension is None else b"\1\0\0\0" + _packed(extension)
    header.set_data_offset(_NIFTI_HEADER + len(behind))
    assumed = ", slice spacing 1 mm" if slice_spacing_mm is None else ""
    header["descrip"] = f"uDiG Recon; patient orientation assumed axial{assumed}".encode()
    return bytes(header.binaryblock) + behind


def _packed(extension: Nifti1Extension) -> bytes:
    stream = io.BytesIO()
    extension.write_to(stream, False)
    return stream.getvalue()
