"""Output formats `dicom` and `dicom_maps`; pydicom and highdicom are imported when a file is written."""

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultWriter


def _open_images(path: Path, info: ResultInfo) -> AbstractContextManager[ResultWriter]:
    from udig_recon.core.results.dicom.writer import open_writer

    return open_writer(path, info)


def _open_maps(path: Path, info: ResultInfo) -> AbstractContextManager[ResultWriter]:
    from udig_recon.core.results.dicom.maps import open_writer

    return open_writer(path, info)


DICOM = OutputFormat(
    "dicom",
    ".dicom.zip",
    "application/zip",
    "DICOM images, maps and comparison pictures, a zip of one folder a series",
    _open_images,
    12,
)
MAPS = OutputFormat(
    "dicom_maps",
    ".dicom_maps.zip",
    "application/zip",
    "DICOM Parametric Maps of float32 values (extra `dicom`)",
    _open_maps,
    13,
    on_demand=True,
)
FORMATS = (DICOM, MAPS) if find_spec("highdicom") else (DICOM,)
"""Those that can be written: Parametric Maps need highdicom, of the extra `dicom`."""
