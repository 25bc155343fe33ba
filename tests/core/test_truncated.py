"""Objects wider than the detector: filtered back-projection makes no bright ring of them within the field."""

import numpy as np
import pytest
import torch

from tests.core.test_sinograms import HALF_TURN, SIZE, sinogram, truth
from udig_recon.core.acquisition import Modality
from udig_recon.core.operators import XRayTransform
from udig_recon.core.operators.fbp import filter_rays
from udig_recon.core.operators.truncated import continue_rays
from udig_recon.core.quality.rating import Signals, rate
from udig_recon.core.scan_geometry import Geometry

NARROW = 36


def within(detectors: int) -> np.ndarray:
    """Pixels at least two detectors within the field."""
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    field: np.ndarray = axis[:, None] ** 2 + axis**2 < (detectors / 2 - 2) ** 2
    return field


def parallel(detectors: int) -> Geometry:
    return Geometry(tuple(HALF_TURN), SIZE, detectors, 1.0, 1.0)


def rays(detectors: int) -> torch.Tensor:
    return torch.from_numpy(sinogram(HALF_TURN, detectors))[None, None]


def test_rays_of_an_object_within_the_detector_stay_as_they_are() -> None:
    measured = rays(80)
    continued, added = continue_rays(measured, parallel(80))
    assert added == (0, 0)
    assert continued is measured


def test_a_centred_ellipse_is_continued_to_its_end() -> None:
    whole = torch.from_numpy(sinogram(HALF_TURN, 96, ellipses=((0.0, 0.0, 30.0, 38.0, 0.0, 0.02),), noise=0))[
        None, None
    ]
    cut = whole[..., 20:76]
    continued, (added, _) = continue_rays(cut, parallel(56))
    found = continued[..., added - 20 : added + 76]
    assert float((found - whole).abs().mean()) < 0.02 * float(whole.max())
    assert float((found - whole).abs().max()) < 0.3 * float(whole.max())
    assert float(continued.sum()) == pytest.approx(float(whole.sum()), rel=0.05)


def test_attenuation_within_the_field_of_a_truncated_scan_is_right() -> None:
    field, right = within(NARROW), truth()
    operator = XRayTransform(HALF_TURN, SIZE, NARROW, 1.0, 1.0)
    image = operator.direct(operator.measurements_of(rays(NARROW)))[0, 0].numpy()
    plain = filter_rays(rays(NARROW), 1.0, "ramp") * (np.pi / len(HALF_TURN))
    before = (operator.adjoint(plain) / operator.scale)[0, 0].numpy()
    level = right[field].mean()
    errors = [float(np.sqrt(np.mean((each - right)[field] ** 2)) / level) for each in (before, image)]
    assert errors[1] < 0.7 * errors[0]
    assert abs(float((image - right)[field].mean())) < 0.05 * level


def test_a_truncated_scan_is_not_rated_good() -> None:
    operator = XRayTransform(HALF_TURN, SIZE, NARROW, 1.0, 1.0)
    signals = Signals(holdout_residual=0.0, **operator.coverage(operator.measurements_of(rays(NARROW))))
    rating = rate(signals, Modality.CT)
    assert rating.level != "good"
    assert any("cut off" in reason for reason in rating.reasons)
