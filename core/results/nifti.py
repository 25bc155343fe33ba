"""Output format `nifti`: the reconstruction as a gzipped NIfTI-1 volume, with voxel sizes and the scan's warnings."""

import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice

_HEADER_BYTES = 348  # before the four bytes that say whether an extension follows
_COMPRESSION = 4


class NiftiWriter:
    """Writes the header with the first slice, whose size it takes for all."""

    def __init__(self, file: BinaryIO, info: ResultInfo) -> None:
        self._file, self._info = file, info
        self._started = False

    def add(self, result: ResultSlice) -> None:
        """Append the image: (z, y, x) in C order is NIfTI's (x, y, z) in Fortran order."""
        info = self._info
        if not self._started:
            height, width = result.image.shape
            shape = (info.count, height, width)
            self._file.write(nifti_header(shape, info.pixel_spacing_mm, info.slice_spacing_mm, info.warnings))
            self._started = True
        self._file.write(np.asarray(result.image, "<f4").tobytes())


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[NiftiWriter]:
    """A writer of a .nii.gz file; the same images give the same bytes."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as compressed,
    ):
        yield NiftiWriter(cast("BinaryIO", compressed), info)


def nifti_header(
    shape: tuple[int, int, int], spacing_mm: Sequence[float], slice_spacing_mm: float | None, warnings: Sequence[str]
) -> bytes:
    """NIfTI-1 header of a volume (slices, y, x) of float32, with `warnings` in a comment extension (code 6).

    `spacing_mm` is (y, x). Without a `slice_spacing_mm` the header assumes 1 mm and says so.

    A scan file does not tell how the patient lay: the header assumes axial slices seen from the feet. Columns run to
    the patient's left, rows to the back, slices to the head (L, P, S), as radiologists view them.
    """
    import nibabel  # here: it takes half a second, and only this format needs it
    from nibabel.nifti1 import Nifti1Extension

    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape[::-1])
    across = 1.0 if slice_spacing_mm is None else slice_spacing_mm
    header.set_zooms((spacing_mm[1], spacing_mm[0], across))
    header.set_sform(np.diag([-spacing_mm[1], -spacing_mm[0], across, 1.0]), code="aligned")
    header.set_xyzt_units("mm")
    extension = b"\0\0\0\0"
    if warnings:
        stream = io.BytesIO()
        Nifti1Extension("comment", "\n".join(warnings).encode()).write_to(stream, False)
        extension = b"\1\0\0\0" + stream.getvalue()
    header.set_data_offset(_HEADER_BYTES + len(extension))
    assumed = ", slice spacing 1 mm" if slice_spacing_mm is None else ""
    header["descrip"] = f"uDiG Recon; patient orientation assumed axial{assumed}".encode()
    return bytes(header.binaryblock) + extension


FORMAT = OutputFormat("nifti", ".nii.gz", "application/gzip", "the images as a gzipped NIfTI volume", open_writer, 6)
