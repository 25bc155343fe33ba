"""Noise of the coils from readouts without signal, and the matrix that prewhitens by it (Pruessmann et al. 2001)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.readouts.readouts import Flag, Readouts
from udig_recon.core.formats.readouts.selection import Selection

_FEWEST = 4  # samples of each coil for each coil
_MOST_KURTOSIS = 6.0  # E|n|^4 / (E|n|^2)^2 is 2 of complex Gaussian noise
_SILENT = 1e-8  # share of the largest variance


@dataclass(frozen=True)
class Prewhitening:
    """The matrix that gives readouts noise of variance 1 in every coil, without correlation."""

    matrix: NDArray[np.complex64] | None  # (coils, coils); None: the noise is not known
    warnings: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()

    def apply(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Readouts (lines, coils, samples), whitened."""
        return samples if self.matrix is None else self.matrix @ samples


def prewhitening(readouts: Readouts, selection: Selection) -> Prewhitening:
    """The prewhitening of a measurement, by its own noise readouts or those of a measurement before it."""
    source, indices = readouts, selection.noise
    while not len(indices) and source.noise is not None:
        source = source.noise
        indices = noise_readouts(source)
    coils = int(readouts.lines["coils"][selection.image[0]])
    lines = source.lines
    usable = indices[(lines["coils"][indices] == coils) & (lines["samples"][indices] > 0)]
    if not len(indices):
        return Prewhitening(None)
    if not len(usable):
        found = ", ".join(map(str, np.unique(lines["coils"][indices])))
        return Prewhitening(None, (f"the noise measurement is of {found} coils, the image of {coils}: not used",))
    covariance, unusable = _covariance(source, usable, coils)
    if unusable:
        return Prewhitening(None, (f"the noise measurement {unusable}: coils are not prewhitened by it",))
    dwell = float(lines["sample_time_us"][usable[0]]), float(readouts.lines["sample_time_us"][selection.image[0]])
    warnings = []
    if min(dwell) > 0 and np.isfinite(dwell).all():
        covariance *= dwell[0] / dwell[1]
    else:
        warnings.append("the sampling time of noise or image is not told: noise is taken as of one bandwidth")
    covariance /= readouts.header.relative_noise_bandwidth
    matrix = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.complex64)
    if not np.isfinite(matrix).all():
        return Prewhitening(None, ("the noise measurement is of absurd magnitude: coils are not prewhitened by it",))
    done = f"coils are prewhitened by {len(usable)} noise readouts: values are in units of the noise"
    return Prewhitening(matrix, tuple(warnings), (done,))


def noise_readouts(readouts: Readouts) -> NDArray[np.intp]:
    """Numbers of a measurement's noise readouts."""
    return np.flatnonzero(readouts.lines["flags"] & np.uint64(Flag.NOISE))


def _covariance(source: Readouts, indices: NDArray[np.intp], coils: int) -> tuple[NDArray[np.complex128], str]:
    """Covariance (coils, coils) of noise readouts, and why it is of no use, or nothing."""
    total = np.zeros((coils, coils), np.complex128)
    squares, count = np.zeros(coils), 0
    for _, samples, _ in source.blocks(indices):
        values = samples.transpose(1, 0, 2).reshape(coils, -1).astype(np.complex128)
        if not np.isfinite(values).all():
            return total, "holds NaN or infinity"
        total += values @ values.conj().T
        squares += np.square(np.square(np.abs(values))).sum(axis=1)
        count += values.shape[1]
    if count < _FEWEST * coils:
        return total, f"has {count} samples, fewer than {_FEWEST} for each of {coils} coils"
    total /= count
    variances = np.linalg.eigvalsh(total)
    if not variances[0] > _SILENT * variances[-1] > 0:
        return total, "has coils that are silent or alike"
    kurtosis = squares / count / np.square(np.diag(total).real)
    if float(np.median(kurtosis)) > _MOST_KURTOSIS:
        return total, "holds a few samples far stronger than the rest, as of an object"
    return total, ""
