"""Filtered back-projection of views over less than a short scan: as bright as the object, without lines at the ends."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core.operators import XRayTransform

SIZE, DETECTORS = 64, 104
TRUTH = ellipse_image(SIZE)
FLAT: dict[str, Any] = {"beam": "fan_flat", "source_origin_mm": 150.0, "source_detector_mm": 300.0}
CURVED: dict[str, Any] = {**FLAT, "beam": "fan_curved"}


def views(degrees: float, start: float = 0.0, *, end: bool = False) -> NDArray[np.float64]:
    """Views a degree apart; with `end` the last one is that many degrees from the first."""
    return np.deg2rad(start + np.arange(round(degrees) + end))


def direct(angles: NDArray[np.float64], beam: dict[str, Any]) -> NDArray[np.float32]:
    spacing = 1.5 if beam else 1.0
    operator = XRayTransform(angles, SIZE, DETECTORS, 1.0, spacing, **beam)
    rays = torch.from_numpy(ellipse_rays(operator.geometry))[None, None]
    image: NDArray[np.float32] = operator.direct(operator.measurements_of(rays))[0, 0].numpy()
    return image


def error(image: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((image - TRUTH) ** 2)) / TRUTH.max())


@pytest.mark.parametrize("beam", [{}, FLAT, CURVED], ids=["parallel", "flat fan", "curved fan"])
@pytest.mark.parametrize("degrees", [60, 90, 140])
def test_the_image_of_a_limited_angle_is_as_bright_as_the_object(degrees: int, beam: dict[str, Any]) -> None:
    body = 0.5 * np.median(TRUTH[TRUTH > 0]) < TRUTH
    assert direct(views(degrees), beam)[body].mean() == pytest.approx(TRUTH[body].mean(), rel=0.12)


@pytest.mark.parametrize("beam", [FLAT, CURVED], ids=["flat fan", "curved fan"])
@pytest.mark.parametrize("start", [0.0, 77.0])
@pytest.mark.parametrize(
    ("degrees", "end"), [(180, False), (180, True), (190, False)], ids=["half a turn", "with its end", "a bit more"]
)
def test_a_fan_of_half_a_turn_leaves_no_line_where_its_arc_ends(
    degrees: int, end: bool, start: float, beam: dict[str, Any]
) -> None:
    whole = error(direct(views(360), beam))
    assert error(direct(views(degrees, start, end=end), beam)) < 1.6 * whole


@pytest.mark.parametrize("beam", [FLAT, CURVED], ids=["flat fan", "curved fan"])
def test_a_few_degrees_less_than_half_a_turn_lose_little(beam: dict[str, Any]) -> None:
    assert error(direct(views(172), beam)) < 3 * error(direct(views(360), beam))


def test_the_order_and_the_sense_of_the_views_do_not_matter() -> None:
    angles = views(180)
    shuffled = np.random.default_rng(0).permutation(angles) + 2 * np.pi
    np.testing.assert_allclose(direct(shuffled, FLAT), direct(angles, FLAT), atol=1e-4 * TRUTH.max())


@pytest.mark.parametrize("beam", [{}, FLAT], ids=["parallel", "flat fan"])
def test_an_end_that_is_measured_twice_counts_once(beam: dict[str, Any]) -> None:
    turn = 360 if beam else 180
    once, twice = (direct(views(turn, end=end), beam) for end in (False, True))
    np.testing.assert_allclose(twice, once, atol=5e-3 * TRUTH.max())
