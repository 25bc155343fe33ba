"""Daubechies' wavelets are orthogonal: lengths are kept, and the adjoint is the inverse, whatever the size."""

import math

import pytest
import torch

from tests.support.laws import close, inner
from udig_recon.core.operators.wavelets import Wavelet, analysis, scaling_filter, synthesis

WAVELETS = [Wavelet(1, 3), Wavelet(2, 4), Wavelet(4, 2), Wavelet(8, 5)]


def image(shape, seed=0):
    return torch.randn((2, 2, *shape), generator=torch.Generator().manual_seed(seed))


def coefficients(x, wavelet):
    approximation, details = analysis(x, wavelet)
    return torch.cat(
        [band.flatten(1) for band in (approximation, *(band for bands in details for band in bands))], dim=1
    )


@pytest.mark.parametrize("shape", [(32, 64), (48, 40), (33, 47), (3, 5)])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_analysis_keeps_lengths_and_synthesis_restores(wavelet, shape):
    x, other = image(shape), image(shape, seed=1)
    assert close(synthesis(*analysis(x, wavelet), wavelet)[..., : shape[0], : shape[1]], x, 1e-5)
    assert inner(coefficients(x, wavelet), coefficients(other, wavelet)) == pytest.approx(inner(x, other), abs=1e-2)


def test_synthesis_of_coefficients_has_these_coefficients():
    wavelet = Wavelet(4, 3)
    approximation, details = analysis(image((32, 32)), wavelet)
    details = [tuple(band.flip(0) for band in bands) for bands in details]
    again, found = analysis(synthesis(approximation, details, wavelet), wavelet)
    assert close(again, approximation, 1e-5)
    assert all(
        close(a, b, 1e-5)
        for mine, theirs in zip(found, details, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def test_details_do_not_see_polynomials_of_lower_degree_than_the_moments():
    wavelet = Wavelet(3, 1)
    ramp = torch.linspace(0, 1, 64).square().expand(1, 1, 64, 64)
    ((low_high, _, _),) = analysis(ramp, wavelet)[1]
    assert float(low_high[..., :-3].abs().max()) < 1e-5  # the last ones reach around the border
    assert float(low_high[..., -3:].abs().max()) > 1e-2


def test_the_filter_of_two_moments_is_the_known_one():
    root = math.sqrt(3)
    known = [(1 + root) / 4, (3 + root) / 4, (3 - root) / 4, (1 - root) / 4]
    assert scaling_filter(2) == pytest.approx([tap / math.sqrt(2) for tap in known])
