"""Coils weighted by their noise: better where it differs, and no other image where it does not."""

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.coils.noise import bands, noise_sums, noise_weights
from udig_recon.core.coils.prewhitening import whitening
from udig_recon.core.metrics import psnr
from udig_recon.core.parameters import parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import ensemble

SIZE, COILS = 96, 6


def scan_of(noise: np.ndarray, **more: object) -> tuple[MRIAcquisition, np.ndarray]:
    """A scan with noise of these deviations (coils,), and its image."""
    parts = scans.mri(1, COILS, SIZE, 1)
    rng = np.random.default_rng(3)
    white = rng.standard_normal((2, 1, COILS, SIZE, SIZE)) * noise[:, None, None]
    mask = np.broadcast_to((np.arange(SIZE) % 2 == 0) | (np.abs(np.arange(SIZE) - SIZE // 2) < 12), (SIZE, SIZE))
    kspace = (parts["kspace"] + white[0] + 1j * white[1]) * mask
    scan = MRIAcquisition(kspace=kspace.astype(np.complex64), mask=mask, recon_size=(SIZE, SIZE), **more)  # type: ignore[arg-type]
    return scan, parts["reference"][0]


def quality(scan: MRIAcquisition, truth: np.ndarray) -> float:
    problem = slice_problem(scan, 0, torch.device("cpu"))
    *_, last = ensemble(problem, parse({"method": "cg_sense"}), seed=0)
    return psnr(problem.magnitude(last.image), truth)


def test_coils_of_equal_noise_are_not_touched() -> None:
    for level in (0.0, 0.003, 0.03, 0.1):
        scan, _ = scan_of(np.full(COILS, level))
        assert whitening(torch.from_numpy(scan.kspace[0]), None) is None


def test_a_noisy_coil_counts_for_less_and_the_image_is_better_and_as_bright(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.array([0.01, 0.01, 0.3, 0.01, 0.01, 0.2])
    scan, truth = scan_of(noise)
    matrix = whitening(torch.from_numpy(scan.kspace[0]), None)
    assert matrix is not None
    weights = matrix.diagonal().real.numpy()
    assert (weights[[0, 1, 3, 4]] == 1).all()
    assert (weights[[2, 5]] < 0.3).all()
    weighted = quality(scan, truth)
    monkeypatch.setattr("udig_recon.core.coils.estimate.whitening", lambda *_: None)
    assert weighted > quality(scan, truth) + 6
    assert weighted > 26


def test_noise_that_was_measured_whitens_exactly_and_equal_noise_leaves_all_as_it_is() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((COILS, COILS)) + 1j * rng.standard_normal((COILS, COILS))
    covariance = (mixing @ mixing.conj().T).astype(np.complex64)
    matrix = whitening(torch.zeros(COILS, 8, 8), covariance)
    assert matrix is not None
    white = matrix.numpy() @ covariance @ matrix.numpy().conj().T
    np.testing.assert_allclose(white / np.median(np.diag(covariance).real), np.eye(COILS), atol=1e-3)
    same = whitening(torch.zeros(COILS, 8, 8), (5 * np.eye(COILS)).astype(np.complex64))
    assert same is not None
    np.testing.assert_allclose(same.numpy(), np.eye(COILS), atol=1e-6)


def test_sums_of_parts_are_those_of_the_whole_and_a_bright_point_is_no_noise() -> None:
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((2, COILS, 64, 64)) + 1j * rng.standard_normal((2, COILS, 64, 64))
    samples[:, 4] *= 9
    band = bands((64, 64))
    whole = noise_sums(samples, band)
    np.testing.assert_allclose(noise_sums(samples[:1], band) + noise_sums(samples[1:], band), whole)
    np.testing.assert_allclose(noise_weights(whole), [1, 1, 1, 1, 1 / 9, 1], rtol=0.05)
    point = np.zeros((1, COILS, 64, 64), complex)
    point[0, :, 20, 50] = np.arange(1, COILS + 1) ** 2
    flat = scans.fft(point) + 1e-4 * samples[:1]
    np.testing.assert_array_equal(noise_weights(noise_sums(flat, band)), np.ones(COILS))


def test_the_scale_of_a_reference_does_not_count_where_it_is_in_another_unit() -> None:
    scan, truth = scan_of(np.full(COILS, 0.003))
    found = []
    for factor in (1.0, 1e-4, 300.0):
        given = MRIAcquisition(
            kspace=scan.kspace, mask=scan.mask, recon_size=scan.recon_size, reference=(factor * truth)[None]
        )
        problem = slice_problem(given, 0, torch.device("cpu"))
        assert problem.is_reference_rescaled == (factor != 1)
        *_, last = ensemble(problem, parse({"method": "cg_sense"}), seed=0)
        found.append(problem.image_metrics(last.image))
        held = problem.reference_for(last.image)
        assert held is not None
        assert float(np.linalg.norm(held) / np.linalg.norm(truth)) == pytest.approx(1, abs=0.02)
    assert found[0].psnr is not None
    assert found[0].psnr > 25
    for each in found[1:]:
        assert (each.psnr, each.ssim) == pytest.approx((found[0].psnr, found[0].ssim), abs=0.3)
