"""Noise of coils from samples far from the centre of k-space: their covariance, or the weights of outlying coils."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]

NOISIER = 2.0
"""How much noisier than the others a coil is that counts for less; below, an estimate may err."""

_FLAT = 0.1  # what noise alone may differ by from one band of frequencies to the next
_COHERENT = 0.1  # correlation of neighbouring samples beyond which they are of an object, however bright its spectrum
_LEAST_SAMPLES = 64  # of a coil in each band
_FEWEST = 3  # coils among which one can stand out
_LEAST_FOR_COVARIANCE = 500  # samples of each band
_SAMPLES_FOR_COVARIANCE = 32  # for each coil
_GAUSSIAN = 0.1  # by what share the fourth moment of noise may differ from a Gaussian's
_LEAST_SPREAD = 3.0  # ratio of the largest to the smallest variance below which whitening gains nothing


def bands(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Which band of frequencies each sample (ky, kx) is of: 2 the outermost, 1 one farther in, 0 neither."""
    rows, columns = (np.abs(np.linspace(-1, 1, side)) for side in shape)
    return bands_by_radius(np.maximum(rows[:, None], columns))


def bands_by_radius(radius: Real) -> NDArray[np.uint8]:
    """Which band each sample is of, by its distance from the centre as a share of the largest."""
    return np.where(radius > 0.8, 2, np.where((radius > 0.5) & (radius <= 0.7), 1, 0)).astype(np.uint8)


def noise_sums(samples: Complex, band: NDArray[np.uint8]) -> Complex:
    """What `noise_weights` needs of samples (slices, coils, ky, kx) in bands (ky, kx): (coils, 8), to be added up.

    Sum and number of magnitudes above 0 in each band; of the outer one the products of neighbours along ky and along
    kx, and the energies of those that have one.
    """
    sums = np.zeros((samples.shape[1], 8), np.complex128)
    for place, number in ((0, 1), (2, 2)):
        magnitude = np.abs(samples[:, :, band == number])
        sums[:, place] = magnitude.sum(axis=(0, 2), dtype=np.float64)
        sums[:, place + 1] = (magnitude > 0).sum(axis=(0, 2))
    outer = np.where(band == 2, samples, 0)
    for place, (ahead, behind) in (
        (4, (outer[..., 1:, :], outer[..., :-1, :])),
        (6, (outer[..., 1:], outer[..., :-1])),
    ):
        paired = (ahead != 0) & (behind != 0)
        product = np.where(paired, ahead * behind.conj(), 0)
        sums[:, place] = product.sum(axis=(0, 2, 3), dtype=np.complex128)
        sums[:, place + 1] = np.abs(product).sum(axis=(0, 2, 3), dtype=np.float64)
    return sums


def noise_weights(sums: Complex) -> Real:
    """Weight of each coil (coils,), 1 but for those that are much noisier than the others: by `noise_sums`.

    Complex noise has the same mean magnitude at all frequencies, and neighbouring samples of it have nothing to do with
    each other; an object's fall off or are coherent. Only coils whose outer samples are known to be noise are weighted,
    as prewhitening would, by the ratio of the coils' median noise to their own.
    """
    total, count = sums[:, [0, 2]].real, sums[:, [1, 3]].real
    known = (count >= _LEAST_SAMPLES).all(axis=1) & (total > 0).all(axis=1)
    if known.sum() < _FEWEST:
        return np.ones(len(sums))
    inner, outer = (total / np.maximum(count, 1)).T
    usual = float(np.median(outer[known]))
    coherence = (np.abs(sums[:, [4, 6]]) / np.maximum(sums[:, [5, 7]].real, 1e-300)).max(axis=1)
    paired = sums[:, [5, 7]].real.max(axis=1) > 0
    noise = known & paired & (np.abs(inner - outer) <= _FLAT * outer) & (coherence < _COHERENT)
    noisy = noise & (outer > NOISIER * usual)
    return np.where(noisy, usual / np.where(noisy, outer, 1), 1.0)


def effective_covariance(
    samples: Complex, measured: NDArray[np.complex64] | None = None, band: NDArray[np.uint8] | None = None
) -> Complex | None:
    """Covariance (coils, coils) by which k-space (coils, ky, kx) is whitened, up to a factor; None: its noise is white.

    That of noise that was `measured` without signal; else that of k-space's outer samples, where it is sure; else the
    variances of coils that are much noisier than the others. `band` is that of each sample, if k-space is not
    Cartesian.
    """
    if measured is not None:
        return measured.astype(np.complex128)
    if band is None:
        band = bands((samples.shape[-2], samples.shape[-1]))
    found = covariance_of_outer_samples(samples, band)
    if found is not None:
        return found if _spread(found) > 1 else None
    weights = noise_weights(noise_sums(samples[None], band))
    return np.diag(weights**-2.0).astype(np.complex128) if (weights < 1).any() else None


def covariance_of_outer_samples(samples: Complex, band: NDArray[np.uint8]) -> Complex | None:
    """Covariance (coils, coils) of the noise of k-space (coils, ky, kx) in bands, where the outer ones hold no signal.

    Noise has the same covariance at all frequencies, a Gaussian's fourth moment, and neighbours that have nothing to do
    with each other; an object's spectrum falls off. None where any of these is in doubt, and of few samples.
    """
    coils = len(samples)
    measured = (samples != 0).any(axis=0)
    outer, inner = (samples[:, measured & (band == number)].astype(np.complex128) for number in (2, 1))
    if min(outer.shape[1], inner.shape[1]) < max(_LEAST_FOR_COVARIANCE, _SAMPLES_FOR_COVARIANCE * coils):
        return None
    covariance: Complex = outer @ outer.conj().T / outer.shape[1]
    if not (np.diag(covariance).real > 0).all():
        return None
    try:
        whitener = np.linalg.inv(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        return None
    white = whitener @ inner
    variances = np.linalg.eigvalsh(white @ white.conj().T / inner.shape[1])
    chance = _chance_spread(coils, outer.shape[1]) * _chance_spread(coils, inner.shape[1])
    if not 1 / (chance * (1 + _FLAT)) < variances[0] <= variances[-1] < chance * (1 + _FLAT):
        return None
    energy = np.square(np.abs(whitener @ outer))
    kurtosis = np.square(energy).mean(axis=1) / np.square(energy.mean(axis=1))
    if np.abs(kurtosis / 2 - 1).max() > _GAUSSIAN + 10 / np.sqrt(outer.shape[1]):
        return None
    outermost = np.where(measured & (band == 2), np.einsum("cd,dyx->cyx", whitener, samples), 0)
    return covariance if _neighbours_are_independent(outermost) else None


def _neighbours_are_independent(white: Complex) -> bool:
    """Whether neighbours along ky and kx of white samples (coils, ky, kx), 0 where there are none, are not alike."""
    for ahead, behind in ((white[:, 1:], white[:, :-1]), (white[:, :, 1:], white[:, :, :-1])):
        pairs = int(((ahead != 0) & (behind != 0)).any(axis=0).sum())
        if pairs < _LEAST_SAMPLES:
            continue
        correlation = np.abs((ahead * behind.conj()).sum(axis=(1, 2)) / pairs)
        # By chance each is as large as 1 / pairs in the mean square.
        if np.square(correlation).mean() > _COHERENT**2 / 4 + 2 / pairs:
            return False
    return True


def _spread(covariance: Complex) -> float:
    """Ratio of the largest to the smallest variance, over what coils of equal, independent noise may show."""
    variances = np.linalg.eigvalsh(covariance)
    return float(variances[-1] / max(variances[0], 1e-300)) / _LEAST_SPREAD


def _chance_spread(coils: int, samples: int) -> float:
    """By what factor the variances of white noise differ from 1 by chance (Marchenko and Pastur 1967)."""
    return float((1 - np.sqrt(coils / samples)) ** -2)
