"""Noise of each coil from samples far from the centre of k-space, and the coil weights that follow."""

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
