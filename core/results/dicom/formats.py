"""Output formats `dicom` and `dicom_maps`; pydicom and highdicom are imported when a file is written."""

from contextlib import AbstractContextManager
from pathlib import Path

from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultWriter


def _open_images(path: Path, info: ResultInfo) -> AbstractContextManager[ResultWriter]:
    from udig_recon.core.results.dicom.writer import open_writer

    return open_writer(path, info)


DICOM = OutputFormat(
    "dicom",
    ".dicom.zip",
    "application/zip",
    "DICOM images, maps and comparison pictures, a zip of one folder a series",
    _open_images,
    12,
)
