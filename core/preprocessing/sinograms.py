"""Preprocessing of sinograms: the axis of rotation where it was asked for."""

from dataclasses import replace

from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.preprocessing.options import Preprocessing


def preprocess_sinogram(scan: CTAcquisition, index: int, wanted: Preprocessing) -> CTAcquisition:  # noqa: ARG001
    """The scan as asked for. Raises UnsupportedScan for an axis of rotation outside the detector."""
    if isinstance(wanted.rotation_center, float):
        check_rotation_center(wanted.rotation_center, scan.sinogram.shape[-1])
        scan = replace(scan, rotation_center=wanted.rotation_center)
    return scan


def check_rotation_center(center: object, detectors: int) -> None:
    """Raise UnsupportedScan for a detector index outside a detector of this many elements."""
    if isinstance(center, float) and not 0 <= center <= detectors - 1:
        raise UnsupportedScan(
            f"rotation_center {center:g} lies outside the detector; the axis must fall on it",
            field="parameters.rotation_center",
            found=f"{center:g}",
            expected=f"0 to {detectors - 1}, file or auto",
        )
