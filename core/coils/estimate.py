"""Coil sensitivity maps of a slice: those of the scan, or ESPIRiT's, for k-space whose coil noise is prewhitened."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.coils.calibration import calibration_of, calibration_size, centre
from udig_recon.core.coils.espirit import espirit
from udig_recon.core.coils.gridded_centre import gridded_centre
from udig_recon.core.coils.noise import bands_by_radius
from udig_recon.core.coils.prewhitening import brightness, whiten, whitening


def estimate(
    kspace: Tensor,
    mask: NDArray[np.bool_],
    given: Tensor | None = None,
    noise_covariance: NDArray[np.complex64] | None = None,
    calibration: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Whitened k-space and its sensitivity maps, both (coils, ky, kx), of a Cartesian slice with this mask (ky, kx).

    `given` are maps that the scan brings, `noise_covariance` (coils, coils) is of samples without signal,
    `calibration` (coils, h, w) was measured about the zero frequency for maps alone. A single coil, and k-space without
    signal, have maps of one. Raises UnsupportedScan when maps must be estimated and the calibration region is too small
    for that.
    """
    trivial = len(kspace) == 1 or float(kspace.norm()) == 0
    matrix = None if trivial else whitening(kspace, noise_covariance)
    white = kspace if matrix is None else whiten(matrix, kspace)
    if given is not None:
        return white, given if matrix is None else whiten(matrix, given)
    if trivial:
        return white, torch.ones_like(white)
    if calibration is None:
        measured, size = kspace, calibration_size(mask)
    else:
        measured, size = _in_the_middle(calibration, kspace), (calibration.shape[1], calibration.shape[2])
    if matrix is None:
        return white, espirit(measured, size)
    return white, espirit(whiten(matrix, measured), size) / brightness(measured, matrix, size)


def estimate_along(
    kspace: Tensor,
    trajectory: NDArray[np.floating[Any]],
    measured: NDArray[np.bool_],
    shape: tuple[int, int],
    given: Tensor | None = None,
    noise_covariance: NDArray[np.complex64] | None = None,
) -> tuple[Tensor, Tensor]:
    """Whitened k-space (coils, readouts, samples) along a trajectory, and its sensitivity maps (coils, *shape).

    As `estimate`; the calibration region is gridded from the samples about the centre. The trajectory (readouts,
    samples, 2) is in cycles per field of view. Raises UnsupportedScan when maps must be estimated and the samples
    about the centre are too sparse for that.
    """
    trivial = len(kspace) == 1 or float(kspace.norm()) == 0
    radius = np.abs(trajectory / np.array(shape)).max(axis=-1)
    band = np.where(measured, bands_by_radius(radius / max(float(radius[measured].max()), 1e-30)), 0).astype(np.uint8)
    matrix = None if trivial else whitening(kspace, noise_covariance, band)
    white = kspace if matrix is None else whiten(matrix, kspace)
    if given is not None:
        return white, given if matrix is None else whiten(matrix, given)
    if trivial:
        return white, torch.ones((len(kspace), *shape), dtype=kspace.dtype, device=kspace.device)
    calibration = calibration_of(trajectory[measured], shape)
    centre = gridded_centre(kspace[:, torch.from_numpy(measured).to(kspace.device)], trajectory[measured], shape)
    maps = espirit(centre if matrix is None else whiten(matrix, centre), calibration)
    return white, maps if matrix is None else maps / brightness(centre, matrix, calibration)


def _in_the_middle(samples: Tensor, kspace: Tensor) -> Tensor:
    """Samples (coils, h, w) about the zero frequency of a k-space of this shape that is zero elsewhere."""
    padded = torch.zeros_like(kspace)
    rows, columns = (centre(size, width) for size, width in zip(kspace.shape[1:], samples.shape[1:], strict=True))
    padded[:, rows, columns] = samples
    return padded
