"""Spectral homogenisation: noise that makes an image's error white, whatever error it has (arXiv 2602.23214)."""

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 7
"""Frequencies a side over which the error's power is averaged."""


def homogenise(noise: Tensor, error: Tensor, sigma: float) -> Tensor:
    """White `noise` of variance 1 (B, C, H, W), coloured so that it fills the spectrum of `error` up to level sigma.

    With N pixels and P(f) = |FFT error|^2, smoothed over frequencies, it is IFFT(sqrt(max(N sigma^2 - P, 0) / N) FFT n)
    for noise n: image and noise together have an error as white as a denoiser was made for. `error` is the image less
    the last denoised one.
    """
    pixels = error.shape[-2] * error.shape[-1]
    power = _smooth(torch.fft.fft2(error).abs().square())
    spectrum = ((pixels * sigma**2 - power).clamp(min=0) / pixels).sqrt()
    coloured: Tensor = torch.fft.ifft2(spectrum * torch.fft.fft2(noise)).real
    return coloured


def _smooth(power: Tensor) -> Tensor:
    """Mean of `power` over a square of neighbouring frequencies, periodic."""
    half = min(SMOOTHING // 2, (min(power.shape[-2:]) - 1) // 2)
    padded = F.pad(power, (half, half, half, half), mode="circular")
    return F.avg_pool2d(padded, 2 * half + 1, stride=1)
