"""Forward models of scans, y = A x."""

from udig_recon.core.operators.base import LinearOperator
from udig_recon.core.operators.ct import XRayTransform
from udig_recon.core.operators.fourier import as_channels, as_complex, centre, fft2c, ifft2c
from udig_recon.core.operators.mri import MultiCoilMRI
from udig_recon.core.operators.noncartesian import NonCartesianMRI

__all__ = [
    "LinearOperator",
    "MultiCoilMRI",
    "NonCartesianMRI",
    "XRayTransform",
    "as_channels",
    "as_complex",
    "centre",
    "fft2c",
    "ifft2c",
]
