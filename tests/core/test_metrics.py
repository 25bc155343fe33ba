import dataclasses

import numpy as np
import pytest

from tests.support import scans
from udig_recon.api.jobs.schemas import Metrics
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry
from udig_recon.core.metrics import METRICS, nmse, psnr, ssim, with_current_names

TRUTH = scans.phantom(1, 64)[0]


@pytest.fixture
def noisy() -> np.ndarray:
    return TRUTH + np.random.default_rng(0).normal(scale=0.1, size=TRUTH.shape).astype(np.float32)


def test_psnr_is_of_a_known_error() -> None:
    shifted = TRUTH + 0.01 * TRUTH.max()
    assert psnr(shifted, TRUTH) == pytest.approx(40, abs=1e-3)
    assert psnr(shifted, TRUTH, data_range=10 * float(TRUTH.max())) == pytest.approx(60, abs=1e-3)


def test_nmse_is_of_a_known_error() -> None:
    assert nmse(1.1 * TRUTH, TRUTH) == pytest.approx(0.01, rel=1e-4)


def test_equal_images_are_perfect() -> None:
    assert psnr(TRUTH, TRUTH) == np.inf
    assert ssim(TRUTH, TRUTH) == pytest.approx(1)
    assert nmse(TRUTH, TRUTH) == 0


@pytest.mark.parametrize("metric", [psnr, ssim, nmse])
def test_units_and_phase_do_not_matter(metric, noisy: np.ndarray) -> None:
    value = metric(noisy, TRUTH)
    assert metric(noisy * 1e-6, TRUTH * 1e-6) == pytest.approx(value, rel=1e-4)
    assert metric(noisy * np.exp(1j), TRUTH) == pytest.approx(value, rel=1e-4)


def test_ssim_is_that_of_fastmri(noisy: np.ndarray) -> None:
    """Written out with plain window means: uniform 7x7, sample covariance, borders left out."""
    windows = [np.lib.stride_tricks.sliding_window_view(im.astype(float), (7, 7)) for im in (TRUTH, np.abs(noisy))]
    (ux, uy), (vx, vy) = ([w.mean((2, 3)) for w in windows], [w.var((2, 3), ddof=1) for w in windows])
    vxy = ((windows[0] * windows[1]).mean((2, 3)) - ux * uy) * 49 / 48
    c1, c2 = (0.01 * TRUTH.max()) ** 2, (0.03 * TRUTH.max()) ** 2
    expected = ((2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(noisy, TRUTH) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim, nmse])
def test_nothing_to_compare_with_gives_no_number(metric) -> None:
    assert np.isnan(metric(TRUTH, np.zeros_like(TRUTH)))


def test_images_of_different_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="reference"):
        psnr(TRUTH[1:], TRUTH)


def test_metrics_stored_before_version_0_2_are_read_by_todays_names():
    stored = {"psnr": 30.0, "spread": 0.1, "updates": 4, "prior_calls": 2, "output_variance": 1e-6}
    renamed = {"psnr": 30.0, "seed_std": 0.1, "optimizer_steps": 4, "prior_evaluations": 2, "iterate_variance": 1e-6}
    assert with_current_names(stored) == renamed == with_current_names(renamed)
    assert renamed.keys() <= METRICS.keys()


def test_entries_of_comparisons_and_the_api_name_metrics_by_the_one_table():
    assert set(ENTRY_METRICS) <= METRICS.keys()
    assert set(ENTRY_METRICS) <= {field.name for field in dataclasses.fields(Entry)}
    assert Metrics.model_fields.keys() <= METRICS.keys()
