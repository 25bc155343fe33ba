"""What every method owes to every scan: whole data come back; no image is worse than the direct one or out of range.

One coil, a combined coil, flat maps and views at right angles are where A^H A is a projector: what few steps of
conjugate gradients solve exactly, and further ones must leave as it is.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.support import scans
from udig_recon.core import metrics
from udig_recon.core.acquisition import Acquisition, CTAcquisition, MRIAcquisition
from udig_recon.core.parameters import METHODS, Parameters, complete, parse
from udig_recon.core.parameters.networks import Fit
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import (
    birdcage_maps,
    cartesian_lines,
    poisson_disc,
    radial_spokes,
    simulate_ct,
    simulate_mri,
    simulate_non_cartesian,
    spiral_interleaves,
)

SIZE = 32
IMAGE = gaussian_filter(scans.phantom(1, SIZE)[0], 1.0)
_Y, _X = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
PHASED = (IMAGE * np.exp(1j * (0.8 * _X + 0.5 * _Y**2))).astype(np.complex64)
CPU = torch.device("cpu")
WHOLE, PART = np.ones((SIZE, SIZE), bool), cartesian_lines((SIZE, SIZE), 3, 0.2, np.random.default_rng(1))
POINTS = poisson_disc((SIZE, SIZE), 3, 8, np.random.default_rng(1))
ALL_BUT_ONE = WHOLE.copy()
ALL_BUT_ONE[3, 5] = False
CLEAR = 27.0
"""dB: an image as good as this came back; beyond it methods may differ by more than what is asked of them here."""
LOSS = 1.0
"""dB below the direct image that an image may be."""
RANGE = 1.5
"""times the brightest of the truth that an image may reach."""
SHORT = {"steps": 30, "iterations": 8, "mask_iterations": 4, "outer_iterations": 6, "langevin_steps": 15}
ENOUGH: dict[str, dict[str, int]] = {"dps": {"steps": 60}, "mcg": {"steps": 60}} | {
    name: {} for name in ("cg_sense", "tv", "l1_wavelet", "sirt")
}
"""Steps of those that need more."""


def mri(maps: np.ndarray, mask: np.ndarray) -> MRIAcquisition:
    return simulate_mri(PHASED, maps.astype(np.complex64), mask, np.random.default_rng(0), with_maps=True)


def along(coils: int, trajectory: np.ndarray) -> Acquisition:
    maps = birdcage_maps(coils, (SIZE, SIZE))
    return simulate_non_cartesian(PHASED, maps, trajectory, np.random.default_rng(0), with_maps=True)


def flat(coils: int) -> np.ndarray:
    return np.full((coils, SIZE, SIZE), coils**-0.5)


def ct(views: int | list[float]) -> Acquisition:
    return simulate_ct(scans.ATTENUATION_1_PER_MM * IMAGE, views, None, np.random.default_rng(0))


def fans(views: int, geometry: str) -> Acquisition:
    """Views over a whole turn."""
    angles = (np.arange(views) * 2 * np.pi / views).tolist()
    beam: dict[str, Any] = {"geometry": geometry, "source_origin_mm": 100.0, "source_detector_mm": 180.0}
    return simulate_ct(scans.ATTENUATION_1_PER_MM * IMAGE, angles, None, np.random.default_rng(0), **beam)


def weighted(scan: Acquisition) -> Acquisition:
    """The scan with weights of rays that differ by a factor of ten."""
    assert isinstance(scan, CTAcquisition)
    weights = np.random.default_rng(1).uniform(0.2, 2, scan.sinogram.shape)
    return replace(scan, weights=weights.astype(np.float32))


RIGHT_ANGLES = [0.0, np.pi / 2]
WHOLE_SCANS = {
    "one coil": lambda: mri(birdcage_maps(1, (SIZE, SIZE)), WHOLE),
    "two coils": lambda: mri(birdcage_maps(2, (SIZE, SIZE)), WHOLE),
    "four coils": lambda: mri(birdcage_maps(4, (SIZE, SIZE)), WHOLE),
    "two flat maps": lambda: mri(flat(2), WHOLE),
    "spokes, one coil": lambda: along(1, radial_spokes((SIZE, SIZE), 64)),
    "spirals, four coils": lambda: along(4, spiral_interleaves((SIZE, SIZE), 8, 0.9)),
    "60 views": lambda: ct(60),
}
PARTS = {
    "one coil": lambda: mri(birdcage_maps(1, (SIZE, SIZE)), PART),
    "one coil in points": lambda: mri(birdcage_maps(1, (SIZE, SIZE)), POINTS),
    "one sample missing": lambda: mri(birdcage_maps(1, (SIZE, SIZE)), ALL_BUT_ONE),
    "two coils": lambda: mri(birdcage_maps(2, (SIZE, SIZE)), PART),
    "four coils": lambda: mri(birdcage_maps(4, (SIZE, SIZE)), PART),
    "two flat maps": lambda: mri(flat(2), PART),
    "ten spokes, four coils": lambda: along(4, radial_spokes((SIZE, SIZE), 10)),
    "a spiral": lambda: along(4, spiral_interleaves((SIZE, SIZE), 1, 3)),
    "two views": lambda: ct(RIGHT_ANGLES),
    "12 views": lambda: ct(12),
}
WHOLE_BEAMS = {
    "60 flat fans": lambda: fans(60, "fan_flat"),
    "60 curved fans, weighted": lambda: weighted(fans(60, "fan_curved")),
    "60 views, weighted": lambda: weighted(ct(60)),
}
PARTS_OF_BEAMS = {
    "12 flat fans, weighted": lambda: weighted(fans(12, "fan_flat")),
    "12 curved fans": lambda: fans(12, "fan_curved"),
    "12 views, weighted": lambda: weighted(ct(12)),
}
SCANS = {"whole": {**WHOLE_SCANS, **WHOLE_BEAMS}, "part": {**PARTS, **PARTS_OF_BEAMS}}


@cache
def problem(kind: str, name: str) -> SliceProblem:
    scan = SCANS[kind][name]()
    assert scan.reference is not None
    return slice_problem(replace(scan, guide=np.sqrt(scan.reference)), 0, CPU)


def method_of(name: str, problem: SliceProblem) -> Parameters | None:
    """The method with few steps; None where it is not for the modality."""
    kind = METHODS[name]
    if problem.modality not in kind.modalities:
        return None
    short = {knob: value for knob, value in SHORT.items() if knob in kind.model_fields}
    return complete(parse({"method": name, **ENOUGH.get(name, short)}), problem.modality)


def image_of(name: str, problem: SliceProblem) -> np.ndarray | None:
    method = method_of(name, problem)
    if method is None:
        return None
    *_, last = reconstruct(problem, method, seed=0)
    return problem.magnitude(last.image)


def psnr(image: np.ndarray, problem: SliceProblem) -> float:
    assert problem.reference is not None
    return metrics.psnr(image, problem.reference)


def check_whole(name: str, scan: str) -> None:
    one = problem("whole", scan)
    image = image_of(name, one)
    assert image is None or psnr(image, one) >= CLEAR - LOSS


def check_part(name: str, scan: str) -> None:
    one = problem("part", scan)
    image = image_of(name, one)
    if image is not None:
        direct = psnr(one.magnitude(one.direct()), one)
        assert psnr(image, one) >= min(direct, CLEAR) - LOSS
        assert one.reference is not None
        assert image.max() <= RANGE * one.reference.max()


def some_long(names: Iterable[str], quick: set[str]) -> list[Any]:
    """Names of scans; all but the quick ones are for `make test` alone."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in names]


CLASSICAL = [name for name in METHODS if not METHODS[name].needs_prior and not issubclass(METHODS[name], Fit)]
WITH_PRIOR = [name for name in METHODS if METHODS[name].needs_prior]
# A network of millions of weights fitted by so few updates promises nothing but to stay in range.
FITS = [name for name in METHODS if issubclass(METHODS[name], Fit)]


CHEAP = ["fbp", "sirt", "tv", "dds"]


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("scan", WHOLE_BEAMS)
def test_whole_data_of_fans_and_of_weighted_rays_come_back(name: str, scan: str) -> None:
    check_whole(name, scan)


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("scan", PARTS_OF_BEAMS)
def test_no_image_of_fans_or_of_weighted_rays_is_worse_than_the_direct_one(name: str, scan: str) -> None:
    check_part(name, scan)


@pytest.mark.parametrize("name", [*CLASSICAL, *WITH_PRIOR])
@pytest.mark.parametrize("scan", some_long(WHOLE_SCANS, quick={"one coil", "60 views", "spokes, one coil"}))
def test_whole_data_without_noise_come_back(name: str, scan: str) -> None:
    check_whole(name, scan)


@pytest.mark.parametrize("name", [*CLASSICAL, *WITH_PRIOR])
@pytest.mark.parametrize("scan", some_long(PARTS, quick={"one coil", "12 views", "ten spokes, four coils"}))
def test_no_image_is_worse_than_the_direct_one_or_leaves_the_range_of_the_data(name: str, scan: str) -> None:
    check_part(name, scan)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("scan", ["one coil", "ten spokes, four coils"])
def test_fitted_networks_stay_in_the_range_of_the_data(name: str, scan: str) -> None:
    one = problem("part", scan)
    image = image_of(name, one)
    assert image is not None
    assert one.reference is not None
    assert image.max() <= 2 * one.reference.max()
