"""Options of preprocessing, as a job or a call asks for them. Torch-free."""

from dataclasses import dataclass
from typing import Literal

from udig_recon.core.errors import UnsupportedScan

RotationCenter = Literal["file", "auto"] | float
"""Where the axis of rotation falls: as the file says, found in the sinogram, or a detector index."""

COIL_ENERGY = 0.9999
"""Share of the energy that compressed coils keep where a job does not say, of more than FEW_COILS coils.

Measured by `benchmarks.accuracy.coil_compression`: at most 0.1 dB are lost."""
FEW_COILS = 8
"""So few are not compressed unless a job asks for it: nothing would be gained."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to a scan's measurements before they are reconstructed; by default nothing."""

    coil_energy: float | None = 1.0  # MRI: share of the energy that compressed coils keep; 1: all; None: by default
    rotation_center: RotationCenter = "file"  # CT
    ring_correction: bool = False  # CT


def check_rotation_center(center: object, detectors: int) -> None:
    """Raise UnsupportedScan for a detector index outside a detector of this many elements."""
    if isinstance(center, float) and not 0 <= center <= detectors - 1:
        raise UnsupportedScan(
            f"rotation_center {center:g} lies outside the detector; the axis must fall on it",
            field="parameters.rotation_center",
            found=f"{center:g}",
            expected=f"0 to {detectors - 1}, file or auto",
        )
