"""Options of preprocessing, as a job or a call asks for them. Torch-free."""

from dataclasses import dataclass
from typing import Literal

RotationCenter = Literal["file", "auto"] | float
"""Where the axis of rotation falls: as the file says, found in the sinogram, or a detector index."""

DEFAULT_COIL_ENERGY = 1.0
"""Share of the energy that compressed coils keep where a job does not say."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to a scan's measurements before they are reconstructed; by default nothing."""

    coil_energy: float = 1.0  # MRI: share of the energy that compressed coils keep; 1: coils stay as they are
    rotation_center: RotationCenter = "file"  # CT
    ring_correction: bool = False  # CT
