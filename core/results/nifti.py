"""Output format `nifti`: the reconstruction as a gzipped NIfTI-1 volume, with voxel sizes and the scan's warnings."""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from udig_recon.core.acquisition import frame_labels, volume_labels
from udig_recon.core.interruption import check_interruption
from udig_recon.core.results.output_format import Image, OutputFormat, ResultInfo, ResultSlice
from udig_recon.core.results.spool import SpooledImages

_HEADER_BYTES = 348  # before the four bytes that say whether an extension follows
_COMPRESSION = 4


class NiftiWriter:
    """Writes the header with the first slice, whose size it takes for all, and volume after volume."""

    def __init__(self, file: BinaryIO, info: ResultInfo, folder: Path) -> None:
        self._file, self._info = file, info
        order = info.stack.order
        self._started = False
        self._waiting = None if order == tuple(range(info.count)) else SpooledImages(folder)

    def add(self, result: ResultSlice) -> None:
        """Append the image: (z, y, x) in C order is NIfTI's (x, y, z) in Fortran order."""
        if not self._started:
            self._file.write(nifti_header(self._info, result.image.shape))
            self._started = True
        if self._waiting is None:
            self._write(result.image)
        else:
            self._waiting.append(result.image)

    def finish(self) -> None:
        """Write the images that came in another order than the file's."""
        if self._waiting is not None:
            for index in self._info.stack.order:
                check_interruption()
                self._write(self._waiting[index])

    def close(self) -> None:
        """Delete the temporary file."""
        if self._waiting is not None:
            self._waiting.close()

    def _write(self, image: Image) -> None:
        self._file.write(np.asarray(image, "<f4").tobytes())


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[NiftiWriter]:
    """A writer of a .nii.gz file; the same images give the same bytes."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=_COMPRESSION, fileobj=file, mtime=0) as compressed,
    ):
        writer = NiftiWriter(cast("BinaryIO", compressed), info, path.parent)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def nifti_header(info: ResultInfo, image_shape: tuple[int, ...]) -> bytes:
    """NIfTI-1 header of a result's float32 images (y, x), with its notes in a comment extension (code 6).

    Slices of several frames make a fourth axis: contrast, phase, repetition and set in this order. With the scan's
    affine, qform and sform say where the patient lay (code 1, scanner). Without it, or where slices are not evenly
    spaced, the header assumes axial slices seen from the feet. Columns then run to the patient's left, rows to the
    back, slices to the head (L, P, S), as radiologists view them. Without a spacing of slices it assumes 1 mm and says
    so. Where the scan tells the attenuation of water, slope and intercept make Hounsfield units of the images.
    """
    import nibabel  # here: it takes half a second, and only this format needs it
    from nibabel.nifti1 import Nifti1Extension

    stack, affine = info.stack, info.affine
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.float32)
    volumes = (len(stack.volumes),) if len(stack.volumes) > 1 else ()
    header.set_data_shape((*image_shape[::-1], len(stack.positions), *volumes))
    told = ""
    if affine is None:
        down, right = info.pixel_spacing_mm
        across = 1.0 if info.slice_spacing_mm is None else info.slice_spacing_mm
        header.set_zooms((right, down, across, 1.0)[: 3 + len(volumes)])
        header.set_sform(np.diag([-right, -down, across, 1.0]), code="aligned")
        told = "; patient orientation assumed axial" + (", slice spacing 1 mm" if info.slice_spacing_mm is None else "")
    else:
        to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine)
        header.set_qform(to_ras, code="scanner")
        header.set_sform(to_ras, code="scanner")
    header.set_xyzt_units("mm")
    if water := info.attributes.get("water_attenuation_per_mm"):
        # Stored values stay attenuation in 1/mm; readers scale them.
        header.set_slope_inter(1000 / float(water), -1000)
    extension = b"\0\0\0\0"
    if notes := _notes(info):
        stream = io.BytesIO()
        Nifti1Extension("comment", "\n".join(notes).encode()).write_to(stream, False)
        extension = b"\1\0\0\0" + stream.getvalue()
    header.set_data_offset(_HEADER_BYTES + len(extension))
    header["descrip"] = f"uDiG Recon{told}".encode()
    return bytes(header.binaryblock) + extension


def lost_orientation(info: ResultInfo) -> str | None:
    """That NIfTI cannot tell where the slices of a scan with an affine lie, in words; None where it can."""
    if info.affine is not None or info.attributes.get("affine") is None:
        return None
    numbers = ", ".join(map(str, info.slice_numbers))
    return (
        f"slices {numbers} are not evenly spaced, which NIfTI cannot tell: their orientation and position are left out"
    )


def _notes(info: ResultInfo) -> list[str]:
    """What the header cannot hold: corrections, warnings, what the volumes are."""
    notes = [*info.corrections, *info.warnings]
    if water := info.attributes.get("water_attenuation_per_mm"):
        notes.append(f"values with slope and intercept are Hounsfield units, by {water:g}/mm of water")
    if (lost := lost_orientation(info)) is not None:
        notes.append(lost)
    stack = info.stack
    if len(stack.volumes) > 1:
        notes += [f"volume {index}: {label}" for index, label in enumerate(volume_labels(stack.volumes))]
    elif not stack.volumes:
        notes += [f"slice {index}: {label}" for index, label in enumerate(frame_labels(info.frames))]
    return notes


FORMAT = OutputFormat("nifti", ".nii.gz", "application/gzip", "the images as a gzipped NIfTI volume", open_writer, 6)
