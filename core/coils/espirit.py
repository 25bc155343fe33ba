"""Coil sensitivity maps from the calibration region of a scan: ESPIRiT (Uecker et al. 2014)."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from udig_recon.core.coils.calibration import calibration_size, full_centre
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.interruption import check_interruption
from udig_recon.core.operators.fourier import centre, ifft2c

__all__ = ["calibration_size", "espirit", "full_centre"]

KERNEL = 6
NULL_SPACE = 0.01
SUPPORT = 0.8
UNSCALED = 4
"""Products of the power iteration from one normalisation to the next."""
CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 2**19, 2**28
"""Matrices of some rows at once: as many as fit into a cache; on a GPU as keep it busy."""


def espirit(kspace: Tensor, calibration: tuple[int, int]) -> Tensor:
    """Sensitivity maps (coils, y, x) of k-space (coils, ky, kx) whose central `calibration` samples are all measured.

    The maps are the eigenvectors to eigenvalue 1 of the projection onto the calibration data's row space, pixel by
    pixel. Their root-sum-of-squares is 1 in the object and falls to 0 outside; their phase is relative to the coils'
    principal component. One coil has nothing to be told apart from: its map is 1. Raises UnsupportedScan when the
    calibration samples are all zero.
    """
    if kspace.shape[0] == 1:
        return torch.ones_like(kspace)
    region = tuple(centre(size, width) for size, width in zip(kspace.shape[1:], calibration, strict=True))
    largest = kspace[:, *region].abs().max()
    if largest == 0:
        raise UnsupportedScan(
            "the centre of k-space is zero in every coil, so coil maps cannot be estimated; measured data are needed",
            field="kspace",
            found=f"zeros in the central {calibration[0]} x {calibration[1]} samples",
            expected="measured data",
        )
    kspace = kspace / largest
    samples = kspace[:, *region]
    covariance = _covariance(_row_space(samples, min(KERNEL, min(calibration) // 2)))
    maps, eigenvalues = _principal(covariance, _low_resolution(kspace, region))
    principal = torch.linalg.eigh(samples.flatten(1) @ samples.flatten(1).mH)[1][:, -1]
    phase = torch.einsum("c,chw->hw", principal.conj(), maps).angle()
    return maps * torch.polar(_support(eigenvalues), -phase)


def _row_space(samples: Tensor, kernel: int) -> Tensor:
    """Orthonormal basis (vectors, coils, kernel, kernel) of the patches of calibration samples (coils, ky, kx)."""
    coils = samples.shape[0]
    patches = samples.unfold(1, kernel, 1).unfold(2, kernel, 1)
    columns = patches.permute(0, 3, 4, 1, 2).reshape(coils * kernel**2, -1)
    # The smaller of the two Gram matrices has the same spectrum.
    wide = columns.shape[0] < columns.shape[1]
    energy, vectors = torch.linalg.eigh(columns @ columns.mH if wide else columns.mH @ columns)
    kept = energy > NULL_SPACE**2 * energy[-1]
    basis = vectors[:, kept] if wide else columns @ vectors[:, kept] / energy[kept].sqrt()
    vectors_first: Tensor = basis.T.reshape(-1, coils, kernel, kernel)
    return vectors_first


def _covariance(basis: Tensor) -> Tensor:
    """Fourier coefficients (2k-1, 2k-1, coils, coils) of the pixelwise projection, which they determine exactly."""
    kernel = basis.shape[-1]
    size = 2 * kernel - 1
    spectra = torch.fft.ifft2(basis, (size, size), norm="forward").permute(2, 3, 1, 0)
    coefficients: Tensor = torch.fft.fft2(spectra @ spectra.mH / kernel**2, dim=(0, 1), norm="forward")
    return coefficients


def _low_resolution(kspace: Tensor, region: tuple[slice, ...]) -> Tensor:
    """Coil images (coils, y, x) of the calibration region alone, tapered against ringing."""
    padded = torch.zeros_like(kspace)
    height, width = (part.stop - part.start for part in region)
    taper = torch.hann_window(height + 2, False)[1:-1, None] * torch.hann_window(width + 2, False)[1:-1]
    padded[:, *region] = kspace[:, *region] * taper.to(kspace.device)
    return ifft2c(padded)


def _principal(covariance: Tensor, start: Tensor, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Vector (coils, y, x) to each pixel's largest eigenvalue (y, x), by power iteration from `start` (coils, y, x)."""
    coils, height, width = start.shape
    rows = torch.einsum("hm,mncd->hncd", _waves(height, covariance), covariance)
    columns = _waves(width, covariance)
    block = GPU_BLOCK_BYTES if start.device.type == "cuda" else CPU_BLOCK_BYTES
    count = max(1, block // (width * coils**2 * start.element_size()))
    vectors, values = [], []
    for part, begin in zip(torch.split(rows, count), torch.split(start, count, dim=1), strict=True):
        matrices = (columns @ part.flatten(2)).reshape(-1, coils, coils)
        x = begin.flatten(1).T.contiguous()
        for step in range(iterations):
            check_interruption()
            # Eigenvalues are at most 1, so that a few products in a row overflow nothing.
            if step % UNSCALED == 0 or step == iterations - 1:
                x, _ = _scaled(x)
            x = (matrices @ x[..., None])[..., 0]
        x, length = _scaled(x)
        vectors.append(x.T.reshape(coils, -1, width))
        values.append(length.reshape(-1, width))
    return torch.cat(vectors, dim=1), torch.cat(values)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (pixels, coils) at length 1, and their lengths (pixels,)."""
    parts = torch.view_as_real(x)
    length = torch.linalg.vector_norm(parts, dim=(1, 2))
    return torch.view_as_complex(parts / length.clamp(min=1e-30)[:, None, None]), length


def _waves(size: int, like: Tensor) -> Tensor:
    """exp(2 pi i q d / size) (size, 2k-1) at pixels q about the centre, offsets d in the transform's order."""
    offsets = torch.fft.fftfreq(like.shape[0], 1 / like.shape[0], device=like.device)
    pixels = torch.arange(size, device=like.device) - size // 2
    return torch.polar(torch.ones(()).to(pixels.device), 2 * torch.pi / size * pixels[:, None] * offsets)


def _support(eigenvalues: Tensor) -> Tensor:
    """Weight (y, x) in [0, 1]: 1 in the object, holes filled, with a soft edge. All 1 where no object is told."""
    inside = ndimage.binary_fill_holes(eigenvalues.cpu().numpy() > SUPPORT)
    if not inside.any():
        return torch.ones_like(eigenvalues)
    distance = ndimage.distance_transform_edt(~inside)
    return torch.from_numpy(np.clip(1 - (distance - 1) / 4, 0, 1).astype(np.float32)).to(eigenvalues.device)
