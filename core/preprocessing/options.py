"""Options of preprocessing, as a job or a call asks for them. Torch-free."""

from dataclasses import dataclass
from typing import Literal

RotationCenter = Literal["file", "auto"] | float
"""Where the axis of rotation falls: as the file says, found in the sinogram, or a detector index."""

COIL_ENERGY = 0.999
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
