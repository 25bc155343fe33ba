"""Prewhitening of coils: by the covariance of their noise, or of outlying coils by the noise that the data show.

Pruessmann et al. (2001), Roemer et al. (1990): with whitened data least squares is the best linear unbiased estimate.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.coils.noise import effective_covariance
from udig_recon.core.operators.fourier import centre, ifft2c

MOST_BRIGHTENED = 4.0
"""How much weaker than all coils together the weighted ones may be where brightness is put right."""


def whitening(
    kspace: Tensor, covariance: NDArray[np.complex64] | None, band: NDArray[np.uint8] | None = None
) -> Tensor | None:
    """Matrix W (coils, coils) that makes the noise of k-space (coils, ky, kx) white and of one level; None: it is.

    It is s L^-1 with L L^H the covariance of the noise and s^2 its median variance. The `covariance` (coils, coils) is
    that of noise which was measured; else it is told from the data as far as that can be
    (udig_recon.core.coils.noise.effective_covariance). `band` is that of each sample, if k-space is not Cartesian.
    """
    found = effective_covariance(kspace.cpu().numpy(), covariance, band)
    if found is None:
        return None
    level = math.sqrt(float(np.median(np.diag(found).real)))
    factor = np.linalg.inv(np.linalg.cholesky(found))
    return torch.from_numpy((level * factor).astype(np.complex64)).to(kspace.device)


def whiten(matrix: Tensor, coils: Tensor) -> Tensor:
    """W applied to k-space or maps (coils, ...)."""
    return torch.einsum("cd,dhw->chw", matrix, coils)


def brightness(kspace: Tensor, matrix: Tensor, calibration: tuple[int, int]) -> Tensor:
    """Root-sum-of-squares of k-space (coils, ky, kx) over that of W applied to it, (y, x), from its calibration region.

    Maps of whitened data whose root-sum-of-squares is 1, divided by it, give images as bright as all coils together
    have seen them.
    """
    region = [centre(size, width) for size, width in zip(kspace.shape[1:], calibration, strict=True)]
    taper = (
        torch.hann_window(calibration[0] + 2, False)[1:-1, None] * torch.hann_window(calibration[1] + 2, False)[1:-1]
    )
    padded = torch.zeros_like(kspace)
    padded[:, *region] = kspace[:, *region] * taper.to(kspace.device)
    images = ifft2c(padded)
    after, before = (_signal(coils) for coils in (whiten(matrix, images), images))
    largest = float(after.max())
    if largest == 0:
        return torch.ones_like(after)
    ratio = (before / after.clamp(min=1e-3 * largest)).sqrt()
    inside = after > 1e-2 * largest
    return torch.where(inside, ratio.clamp(1 / MOST_BRIGHTENED, MOST_BRIGHTENED), torch.ones_like(ratio))


def _signal(images: Tensor) -> Tensor:
    """Sum of squares (y, x) of coil images (coils, y, x), less the noise that each coil's darkest pixels show."""
    energy = images.abs().square()
    # The mean of the darkest tenth of exponentially distributed values is 0.0518 of the mean of all.
    sample = energy.flatten(1).sort(dim=1).values
    darkest = sample[:, : max(1, sample.shape[1] // 10)].mean(dim=1) / 0.0518
    return (energy - darkest[:, None, None].clamp(max=energy.mean())).clamp(min=0).sum(dim=0)
