"""Forward models of scans, y = A x."""

from core.operators.base import LinearOperator
from core.operators.ct import ParallelBeamCT
from core.operators.fourier import as_channels, as_complex, centre, fft2c, ifft2c
from core.operators.mri import MultiCoilMRI

__all__ = ["LinearOperator", "MultiCoilMRI", "ParallelBeamCT", "as_channels", "as_complex", "centre", "fft2c", "ifft2c"]
