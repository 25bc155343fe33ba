"""Acquisitions: the arrays of a scan with their shapes and units, and the header of a scan."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.extensions import load_extensions


class Modality(StrEnum):
    """MRI or CT: which forward model applies to a scan."""

    MRI = "mri"
    CT = "ct"


@dataclass(frozen=True, kw_only=True)
class MRIAcquisition:
    """Multi-coil Cartesian k-space of a stack of slices; zero frequency in the centre of the last two axes."""

    kspace: NDArray[np.complex64]  # (slices, coils, ky, kx), scanner units, zeros where not measured
    mask: NDArray[np.bool_]  # (ky, kx), True where measured
    masks: NDArray[np.bool_] | None = None  # (slices, ky, kx), where slices are not all measured at the same places
    sensitivity_maps: NDArray[np.complex64] | None = None  # (slices, coils, y, x) on the grid of kspace
    reference: NDArray[np.float32] | None = None  # (slices, *recon_size), magnitude, scanner units
    guide: NDArray[np.float32] | None = None  # (slices, *recon_size), a structural image in any unit
    noise_covariance: NDArray[np.complex64] | None = None  # (coils, coils), of samples measured without any signal
    recon_size: tuple[int, int]  # (y, x): the centre of the image that is kept, readout oversampling cropped
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)  # (y, x)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.kspace)

    def mask_of(self, index: int) -> NDArray[np.bool_]:
        """Where slice number `index` was measured, (ky, kx)."""
        return self.mask if self.masks is None else self.masks[index]


@dataclass(frozen=True, kw_only=True)
class CTAcquisition:
    """Parallel-beam sinograms of a stack of slices."""

    sinogram: NDArray[np.float32]  # (slices, views, detectors), post-log line integrals, 0 where not measured
    angles: NDArray[np.float64]  # (views,), radians
    image_size: int  # pixels a side
    pixel_size_mm: float
    detector_spacing_mm: float
    rotation_center: float | None = None  # detector index that the axis falls on; None: (detectors - 1) / 2
    measured: NDArray[np.bool_] | None = None  # (views, detectors), False where a ray is missing; None: all are there
    reference: NDArray[np.float32] | None = None  # (slices, y, x), attenuation in 1/mm
    guide: NDArray[np.float32] | None = None  # (slices, y, x), a structural image in any unit

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.sinogram)

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Pixel spacing (y, x) in millimetres."""
        return (self.pixel_size_mm, self.pixel_size_mm)


Acquisition = MRIAcquisition | CTAcquisition


def acquisition_type(name: str) -> Any:
    """The type of acquisition with this class name, of ours or of an installed forward model.

    Raises KeyError where there is none.
    """
    for kind in (MRIAcquisition, CTAcquisition):
        if kind.__name__ == name:
            return kind
    models = load_extensions("udig_recon.operators").values()
    for kind in (model.acquisition for model in models):
        if kind.__name__ == name:
            return kind
    raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class ScanHeader:
    """Description of a scan without its arrays."""

    format: str  # "fastmri_hdf5", "sinogram_hdf5", "matlab", "npy", "npz", or an extension's name
    modality: Modality
    slices: int
    coils: int | None = None  # MRI
    views: int | None = None  # CT
    detectors: int | None = None  # CT
    matrix: tuple[int, int]  # (y, x) of the image that comes out
    kspace_matrix: tuple[int, int] | None = None  # (ky, kx), MRI
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None = None  # from slice to slice; None where the file does not tell
    acceleration: float | None = None  # MRI: k-space samples / measured samples
    has_maps: bool = False
    has_reference: bool = False
    has_guide: bool = False
    warnings: tuple[str, ...] = field(default=())

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images in the file beside its measurements."""
        held = {"reference": self.has_reference, "guide": self.has_guide}
        return tuple(name for name, there in held.items() if there)
