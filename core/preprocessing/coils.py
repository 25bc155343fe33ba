"""Coil compression: fewer virtual coils that keep most of the signal's energy.

Buehrer et al. (2007), Zhang et al. (2013). The matrix is made of the slice that is reconstructed, in double precision
on the CPU, so that it is the same on every device. A slice through a 3-D scan has a matrix of its own, as geometric
compression along the readout gives it.
"""

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.coils.noise import bands_by_radius, effective_covariance
from udig_recon.core.preprocessing.options import COIL_ENERGY, FEW_COILS, Preprocessing

MultiCoil = TypeVar("MultiCoil", MRIAcquisition, NonCartesianAcquisition)
Complex = NDArray[np.complexfloating]

_MULTI_COIL = ("kspace", "sensitivity_maps", "calibration")  # arrays (slices, coils, ...) of acquisitions
_FAINT = 5  # the faintest measured samples, one in so many, are of noise


def compress_coils(scan: MultiCoil, index: int, wanted: Preprocessing) -> MultiCoil:
    """The scan with its coils compressed to the fewest that keep `coil_energy` of slice number `index`.

    Of one coil, and with `coil_energy` 1, it is the scan itself, bit for bit.
    """
    coils, energy = scan.kspace.shape[1], wanted.coil_energy
    if energy is None:
        energy = COIL_ENERGY if coils > FEW_COILS else 1.0
    return scan if energy >= 1 else compressed(scan, index, energy, coils)


def compressed(scan: MultiCoil, index: int, energy: float, most: int) -> MultiCoil:
    """The scan with at most `most` virtual coils, the fewest that keep a share `energy` of the signal of one slice.

    Maps and the noise covariance are compressed with the samples.
    """
    kspace = scan.kspace[index]
    covariance = effective_covariance(kspace, scan.noise_covariance, _band(scan, index))
    matrix = compression(kspace, covariance, energy, most)
    if matrix is None:
        return scan
    mixed: dict[str, Any] = {}
    for name in _MULTI_COIL:
        if (coils := getattr(scan, name, None)) is not None:
            mixed[name] = _mixed(matrix, coils)
    if covariance is not None:
        mixed["noise_covariance"] = (matrix @ covariance @ matrix.conj().T).astype(np.complex64)
    return replace(scan, **mixed)


def _band(scan: MRIAcquisition | NonCartesianAcquisition, index: int) -> NDArray[np.uint8] | None:
    """Bands of frequencies of samples along a trajectory; None: k-space is Cartesian."""
    if isinstance(scan, MRIAcquisition):
        return None
    radius = np.abs(scan.trajectory[index] / np.array(scan.matrix)).max(axis=-1)
    return bands_by_radius(radius / max(float(radius.max()), 1e-30))


def compression(kspace: Complex, covariance: Complex | None, energy: float, most: int) -> Complex | None:
    """Matrix (virtual, coils) with orthonormal rows that compresses k-space (coils, ...); None: all coils are kept.

    Its rows span the strongest directions of the signal where the noise of `covariance` (coils, coils) is white, so
    that weak coils of little noise count as much as strong ones of much.
    """
    coils = len(kspace)
    if coils == 1 or not kspace.any():
        return None
    whitener: Complex = np.eye(coils, dtype=np.complex128)
    if covariance is not None:
        whitener = np.linalg.inv(np.linalg.cholesky(covariance))
    gram = whitener @ _gram(kspace) @ whitener.conj().T
    variances, vectors = np.linalg.eigh(gram)
    variances, vectors = variances[::-1], vectors[:, ::-1]
    signal = np.maximum(variances - _noise_energy(kspace, whitener), 0)
    total = float(signal.sum())
    if total == 0:
        return None
    share = np.cumsum(signal) / total
    enough = coils if energy >= 1 else int(np.searchsorted(share, energy)) + 1
    kept = min(enough, most, coils)
    if kept == coils:
        return None
    orthonormal, _ = np.linalg.qr((vectors[:, :kept].conj().T @ whitener).conj().T)
    matrix: Complex = orthonormal.conj().T
    return matrix


def _gram(kspace: Complex) -> Complex:
    """Products of coils (coils, coils), summed over all samples in double precision, row by row."""
    gram = np.zeros((len(kspace), len(kspace)), np.complex128)
    for row in range(kspace.shape[1]):
        samples = kspace[:, row].reshape(len(kspace), -1).astype(np.complex128)
        gram += samples @ samples.conj().T
    return gram


def _noise_energy(kspace: Complex, whitener: Complex) -> float:
    """Energy that noise adds to each variance: of the faintest samples that were measured, on an average coil."""
    energies = []
    for row in range(kspace.shape[1]):
        samples = kspace[:, row].reshape(len(kspace), -1)
        energy = np.square(np.abs(whitener @ samples)).mean(axis=0)
        energies.append(energy[(samples != 0).any(axis=0)])
    energy = np.sort(np.concatenate(energies))
    return float(np.median(energy[: max(1, len(energy) // _FAINT)])) * len(energy)


def _mixed(matrix: Complex, coils: Complex) -> NDArray[np.complex64]:
    """Virtual coils of k-space or maps (slices, coils, ...)."""
    mixed = np.empty((len(coils), len(matrix), *coils.shape[2:]), np.complex64)
    for place, each in enumerate(coils):
        for row in range(each.shape[1]):
            mixed[place, :, row] = np.tensordot(matrix, each[:, row], 1)
    return mixed
