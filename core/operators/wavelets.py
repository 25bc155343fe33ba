"""Daubechies' orthogonal wavelets (1988) on periodic images of two axes."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Bands = tuple[Tensor, ...]
"""Details of one level: low-high, high-low and high-high, rows named first, each (B, C, h, w)."""


class Wavelet(NamedTuple):
    """Number of moments that vanish (1: Haar), half the filters' length, and levels of the decomposition."""

    vanishing_moments: int
    levels: int


def analysis(x: Tensor, wavelet: Wavelet) -> tuple[Tensor, list[Bands]]:
    """Coarsest approximation and details, finest first, of images (B, C, H, W): an isometry.

    Sides that are no multiple of 2^levels are filled up with zeros.
    """
    filters = scaling_filter(wavelet.vanishing_moments)
    multiple = 2**wavelet.levels
    low = torch.nn.functional.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple))
    details: list[Bands] = []
    for _ in range(wavelet.levels):
        (low, low_high), (high_low, high_high) = (_split(half, filters, -1) for half in _split(low, filters, -2))
        details.append((low_high, high_low, high_high))
    return low, details


def synthesis(approximation: Tensor, details: Sequence[Bands], wavelet: Wavelet) -> Tensor:
    """The adjoint of `analysis`, and its inverse, (B, C, H, W) with the sides still filled up."""
    filters = scaling_filter(wavelet.vanishing_moments)
    low = approximation
    for low_high, high_low, high_high in reversed(details):
        rows = _merge(low, low_high, filters, -1), _merge(high_low, high_high, filters, -1)
        low = _merge(*rows, filters, -2)
    return low


@lru_cache
def scaling_filter(moments: int) -> tuple[float, ...]:
    """Low-pass filter of 2 `moments` taps and unit norm, of minimal phase, by spectral factorisation.

    |H|^2 = 2 cos^2N(w / 2) P(sin^2(w / 2)) with P(t) = sum_k C(N - 1 + k, k) t^k: of each pair of P's roots in z the
    one inside the unit circle is kept (Daubechies 1992, 6.1).
    """
    roots_t = np.roots([math.comb(moments - 1 + k, k) for k in reversed(range(moments))])
    taps = np.ones(1, complex)
    for t in roots_t:
        # sin^2(w / 2) = (2 - z - 1 / z) / 4
        pair = np.roots([1, 4 * t - 2, 1])
        taps = np.convolve(taps, [1, -pair[np.argmin(np.abs(pair))]])
    for _ in range(moments):
        taps = np.convolve(taps, [1, 1])
    return tuple(float(tap) for tap in taps.real / np.linalg.norm(taps.real))


def _split(x: Tensor, taps: tuple[float, ...], axis: int) -> tuple[Tensor, Tensor]:
    """low[k] = sum_n h[n] x[2k + n], high[k] = sum_n (-1)^n h[L - 1 - n] x[2k + n] along an axis (negative)."""
    even, odd = x.reshape(*x.shape[:axis], -1, 2, *x.shape[x.ndim + axis + 1 :]).unbind(axis)
    low, high = torch.zeros_like(even), torch.zeros_like(even)
    for m in range(len(taps) // 2):
        a, b = even.roll(-m, axis), odd.roll(-m, axis)
        low = low + taps[2 * m] * a + taps[2 * m + 1] * b
        high = high + taps[-1 - 2 * m] * a - taps[-2 - 2 * m] * b
    return low, high


def _merge(low: Tensor, high: Tensor, taps: tuple[float, ...], axis: int) -> Tensor:
    """The adjoint of `_split`."""
    even, odd = torch.zeros_like(low), torch.zeros_like(low)
    for m in range(len(taps) // 2):
        even = even + (taps[2 * m] * low + taps[-1 - 2 * m] * high).roll(m, axis)
        odd = odd + (taps[2 * m + 1] * low - taps[-2 - 2 * m] * high).roll(m, axis)
    return torch.stack((even, odd), dim=axis).flatten(axis - 1, axis)
