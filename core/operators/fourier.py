"""The centred, orthonormal Fourier transform and the two ways to write a complex image."""

import torch
from torch import Tensor

from udig_recon.core.coils.calibration import centre

__all__ = ["PLANE", "as_channels", "as_complex", "centre", "fft2c", "ifft2c"]

PLANE = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """K-space (..., ky, kx) of an image (..., y, x); both origins at index n // 2, orthonormal."""
    kspace: Tensor = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, PLANE), norm="ortho"), PLANE)
    return kspace


def ifft2c(kspace: Tensor) -> Tensor:
    """Image (..., y, x) of a k-space (..., ky, kx): the inverse and adjoint of `fft2c`."""
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, PLANE), norm="ortho"), PLANE)
    return image


def as_complex(image: Tensor) -> Tensor:
    """Complex image (B, H, W) of real channels (B, 2, H, W)."""
    return torch.complex(image[:, 0], image[:, 1])


def as_channels(image: Tensor) -> Tensor:
    """Real channels (B, 2, H, W) of a complex image (B, H, W)."""
    return torch.stack((image.real, image.imag), dim=1)
