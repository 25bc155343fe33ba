"""Every operator keeps the laws, whatever its size, mask, coils, angles or detector."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import laws, scans
from udig_recon.core.acquisition import Acquisition, CTAcquisition, MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators import (
    LinearOperator,
    MultiCoilMRI,
    NonCartesianMRI,
    XRayTransform,
    as_channels,
    as_complex,
    fft2c,
    ifft2c,
    radon,
)
from udig_recon.core.operators import ct as ct_module
from udig_recon.core.operators import mri as mri_module
from udig_recon.core.operators.base import HoldoutKind
from udig_recon.core.operators.matrix_free import MatrixFreeProjector
from udig_recon.core.problem import SliceProblem, forward_models, slice_problem
from udig_recon.core.quality.rating import Signals
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


def mri(coils: int, shape: tuple[int, int], pattern: str, norm: float = 1.0) -> LinearOperator:
    rng = np.random.default_rng(3)
    masks: dict[str, Callable[[], np.ndarray]] = {
        "lines": lambda: cartesian_lines(shape, 4, 0.1, rng),
        "points": lambda: poisson_disc(shape, 3, 6, rng),
        "all": lambda: np.ones(shape, bool),
    }
    maps = torch.from_numpy(birdcage_maps(coils, shape)) * norm
    return MultiCoilMRI(maps, torch.from_numpy(masks[pattern]()))


def matrix_free(*args: Any, **more: Any) -> LinearOperator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radon, "LARGEST_PAIR_BYTES", 0)
        ct_module._projector.cache_clear()
        operator = ct(*args, **more)
        assert isinstance(operator._projector, MatrixFreeProjector)
    ct_module._projector.cache_clear()
    return operator


def ct(angles: np.ndarray, size: int, detectors: int, pixel: float, spacing: float, **more: Any) -> LinearOperator:
    return XRayTransform(angles, size, detectors, pixel, spacing, **more)


def non_cartesian(coils: int, shape: tuple[int, int], trajectory: np.ndarray, **more: Any) -> LinearOperator:
    return NonCartesianMRI(torch.from_numpy(birdcage_maps(coils, shape)), trajectory, **more)


ANYWHERE = np.random.default_rng(5).uniform(-0.5, 0.5, (12, 60, 2)) * (31, 45)
SOME_SAMPLES = np.random.default_rng(5).random((12, 60)) < 0.7
SOME_RAYS = np.random.default_rng(5).random((30, 71)) < 0.6
WEIGHTS = np.random.default_rng(6).exponential(1, (30, 71)).astype(np.float32) * (SOME_RAYS | (np.arange(71) > 9))
FAN: dict[str, Any] = {"beam": "fan_flat", "source_origin_mm": 60.0, "source_detector_mm": 100.0}
CURVED = {**FAN, "beam": "fan_curved"}
CLOSE = {**FAN, "source_origin_mm": 25.0, "source_detector_mm": 25.0}
OPERATORS = {
    "one coil, lines": lambda: mri(1, (32, 32), "lines"),
    "four coils, odd matrix, lines": lambda: mri(4, (31, 45), "lines"),
    "eight coils, points, maps of any unit": lambda: mri(8, (40, 33), "points", 3e4),
    "sixty-four coils, full": lambda: mri(64, (24, 24), "all"),
    "radial, one coil": lambda: non_cartesian(1, (32, 32), radial_spokes((32, 32), 12)),
    "spiral, four coils, oblong": lambda: non_cartesian(4, (40, 24), spiral_interleaves((40, 24), 6, 1.5)),
    "samples anywhere, odd matrix, some missing": lambda: non_cartesian(3, (31, 45), ANYWHERE, measured=SOME_SAMPLES),
    "the same, gridded in torch": lambda: non_cartesian(3, (31, 45), ANYWHERE, measured=SOME_SAMPLES, gridded=True),
    "30 views": lambda: ct(np.arange(30) * np.pi / 30, 64, 91, 1.0, 1.0),
    "odd image, wide detectors, full turn": lambda: ct(np.arange(17) * 2 * np.pi / 17, 33, 20, 0.7, 1.9),
    "narrow detectors, irregular angles": lambda: ct(np.array([-0.3, 0.1, 0.9, 2.0, 7.0]), 32, 150, 1.5, 0.4),
    "the axis off the middle": lambda: ct(np.arange(30) * np.pi / 30, 40, 71, 1.0, 1.0, rotation_center=22.3),
    "the axis on the last detector, full turn": lambda: ct(
        np.arange(40) * np.pi / 20, 40, 31, 1.0, 1.0, rotation_center=30.0
    ),
    "rays left out": lambda: ct(np.arange(30) * np.pi / 30, 40, 71, 1.0, 1.0, measured=SOME_RAYS),
    "rays of unlike weights": lambda: ct(np.arange(30) * np.pi / 30, 40, 71, 1.0, 1.0, weights=WEIGHTS),
    "fan, flat detector": lambda: ct(np.arange(17) * 2 * np.pi / 17, 33, 60, 0.7, 1.0, **FAN),
    "fan, curved detector off the middle, rays left out": lambda: ct(
        np.arange(30) * 0.15,
        40,
        71,
        1.0,
        1.5,
        **{**FAN, "beam": "fan_curved"},
        rotation_center=20.2,
        measured=SOME_RAYS,
    ),
    "fan, source close, narrow detectors, weights": lambda: ct(
        np.arange(30) * 0.2,
        32,
        71,
        1.0,
        0.5,
        beam="fan_flat",
        source_origin_mm=25,
        source_detector_mm=25,
        weights=WEIGHTS,
    ),
    "matrix-free, narrow detectors off the middle": lambda: matrix_free(
        np.arange(30) * np.pi / 30, 40, 150, 1.5, 0.5, rotation_center=66.3
    ),
    "matrix-free, short detector, rays of unlike weights": lambda: matrix_free(
        np.arange(30) * np.pi / 30, 128, 71, 1.0, 1.0, weights=WEIGHTS
    ),
    "matrix-free, fan, flat detector": lambda: matrix_free(np.arange(17) * 2 * np.pi / 17, 33, 60, 0.7, 1.0, **FAN),
    "matrix-free, fan, curved detector, rays left out": lambda: matrix_free(
        np.arange(30) * 0.15, 40, 71, 1.0, 1.5, **CURVED, rotation_center=20.2, measured=SOME_RAYS
    ),
    "one view along the rows, short detector": lambda: ct(np.array([0.0]), 32, 11, 1.0, 1.0),
}
ACQUISITIONS: dict[type, Callable[[], Acquisition]] = {
    MRIAcquisition: lambda: simulate_mri(
        scans.phantom(1, 32)[0].astype(np.complex64),
        birdcage_maps(4, (32, 32)),
        cartesian_lines((32, 32), 2, 0.25, np.random.default_rng(0)),
        np.random.default_rng(0),
    ),
    NonCartesianAcquisition: lambda: simulate_non_cartesian(
        scans.phantom(1, 32)[0].astype(np.complex64),
        birdcage_maps(4, (32, 32)),
        radial_spokes((32, 32), 24),
        np.random.default_rng(0),
    ),
    CTAcquisition: lambda: simulate_ct(0.02 * scans.phantom(1, 32)[0], 24, None, np.random.default_rng(0)),
}
"""A small scan for each type of acquisition that a forward model is registered for."""


def registered(kind: type) -> SliceProblem:
    return slice_problem(ACQUISITIONS[kind](), 0, torch.device("cpu"))


every_model = pytest.mark.parametrize("kind", forward_models(), ids=lambda kind: kind.__name__)
OPERATORS |= {
    f"registered for {kind.__name__}": (lambda kind=kind: registered(kind).operator) for kind in forward_models()
}
every_operator = pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS)


@every_operator
def test_operators_are_linear(make: Callable[[], LinearOperator]) -> None:
    assert laws.is_linear(make())


@every_operator
def test_the_adjoint_is_exact(make: Callable[[], LinearOperator]) -> None:
    assert laws.adjoint_error(make()) <= 1e-6


@every_operator
def test_the_gradient_is_the_adjoint(make: Callable[[], LinearOperator]) -> None:
    operator = make()
    assert laws.gradient_is_adjoint(operator)
    assert laws.normal_is_its_own_gradient(operator)


@every_operator
def test_the_spectral_norm_is_one(make: Callable[[], LinearOperator]) -> None:
    assert laws.norm_of(make()) == pytest.approx(1, abs=1e-3)


@every_model
def test_the_direct_inverse_is_nearer_to_the_measurements_than_nothing(kind: type) -> None:
    problem = registered(kind)
    direct = problem.direct()
    assert direct.shape == (1, *problem.operator.image_shape)
    assert problem.image_metrics(direct).data_residual < 0.7
    assert problem.operator.image_norm(problem.measurements) == pytest.approx(float(direct.norm()), rel=0.5)


@every_model
@pytest.mark.parametrize("holdout", ["lines", "samples"])
def test_a_partition_holds_out_about_the_share_and_is_drawn_by_the_generator(kind: type, holdout: HoldoutKind) -> None:
    problem = registered(kind)
    operator, y = problem.operator, problem.measurements
    kept = operator.partition(0.3, holdout, torch.Generator().manual_seed(3))
    again = operator.partition(0.3, holdout, torch.Generator().manual_seed(3))
    assert torch.equal(kept, again)
    assert operator.can_hold_out(kept)
    assert not operator.can_hold_out(torch.ones_like(kept))
    measured = operator.measured.expand(y.shape[-2:])
    share = float((measured & ~kept).sum() / measured.sum())
    assert 0.1 < share < 0.4
    part = operator.restrict(kept)
    assert torch.equal(part.forward(problem.direct()), operator.forward(problem.direct()) * kept)
    assert part.scale == operator.scale


def _line_mask(shape: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(cartesian_lines(shape, 3, 0.2, np.random.default_rng(3)))


MASKS = {
    "lines": lambda: _line_mask((24, 33)),
    "lines along the other axis": lambda: _line_mask((33, 24)).T,
    "points": lambda: torch.from_numpy(poisson_disc((24, 33), 3, 6, np.random.default_rng(3))),
    "all": lambda: torch.ones(24, 33, dtype=torch.bool),
}


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("mask", MASKS)
def test_the_normal_map_of_any_mask_is_the_adjoint_of_the_forward_model_also_of_copies(
    mask: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mri_module, "PIXELS_A_THREAD", at_once * 24 * 33 // torch.get_num_threads() + 1)
    measured, rng = MASKS[mask](), torch.Generator().manual_seed(5)
    maps, others = (torch.randn(5, *measured.shape, generator=rng, dtype=torch.complex64) for _ in range(2))
    operator = MultiCoilMRI(maps, measured)
    kept = operator.partition(0.3, "samples", torch.Generator().manual_seed(2))
    lines = operator.partition(0.3, "lines", torch.Generator().manual_seed(2))
    x = torch.randn(2, *operator.image_shape, generator=rng)
    copies = [operator.restrict(kept), operator.restrict(lines), operator.with_maps(others)]
    for model in [*copies, copies[0].with_maps(others), copies[2].restrict(kept), operator]:
        assert laws.close(model.normal(x), model.adjoint(model.forward(x)), 2e-6)
        sampled = model.measured * fft2c(model.maps * as_complex(x)[:, None])
        assert laws.close(model.forward(x), model.scale * sampled, 2e-6)


@every_model
def test_signals_of_coverage_are_signals_of_the_rating(kind: type) -> None:
    problem = registered(kind)
    assert problem.operator.coverage(problem.measurements).keys() <= asdict(Signals()).keys()


@every_model
def test_magnitudes_have_one_channel_and_the_images_norm(kind: type) -> None:
    problem = registered(kind)
    direct = problem.direct()
    magnitude = problem.operator.magnitude(direct)
    assert magnitude.shape == (1, 1, *problem.operator.image_shape[1:])
    assert float(magnitude.norm()) == pytest.approx(float(direct.norm()), rel=1e-5)


def test_scale_restores_physical_units() -> None:
    operator = ct(np.array([0.0]), 16, 16, 2.0, 2.0)
    columns = operator.forward(torch.full((1, 1, 16, 16), 0.5)) / operator.scale
    assert torch.allclose(columns, torch.full_like(columns, 16 * 2.0 * 0.5))


def test_fourier_transform_is_unitary_and_centred_for_odd_and_even_sizes() -> None:
    image = torch.randn(2, 7, 10, dtype=torch.complex64)
    assert torch.allclose(ifft2c(fft2c(image)), image, atol=1e-6)
    assert float(fft2c(image).norm()) == pytest.approx(float(image.norm()), rel=1e-5)
    constant = fft2c(torch.ones(7, 10, dtype=torch.complex64))
    assert constant.abs().argmax() == 3 * 10 + 5


def test_complex_images_are_two_real_channels() -> None:
    image = torch.randn(3, 5, 6, dtype=torch.complex64)
    assert torch.equal(as_complex(as_channels(image)), image)


def test_maps_and_mask_of_different_matrices_are_refused() -> None:
    with pytest.raises(UnsupportedScan, match=r"\(coils, ky, kx\)"):
        MultiCoilMRI(torch.ones(2, 8, 8, dtype=torch.complex64), torch.ones(8, 9, dtype=torch.bool))


def test_a_mask_that_measures_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedScan, match="leave nothing"):
        MultiCoilMRI(torch.ones(2, 8, 8, dtype=torch.complex64), torch.zeros(8, 8, dtype=torch.bool))


def test_noise_of_k_space_is_read_off_its_outermost_samples():
    rng = torch.Generator().manual_seed(0)
    mask = torch.ones(48, 37, dtype=torch.bool)
    mask[:, ::3] = False
    mri = MultiCoilMRI(torch.ones(2, 48, 37, dtype=torch.complex64) / 2**0.5, mask)
    smooth = torch.zeros(1, 2, 48, 37)
    smooth[..., 12:36, 10:28] = 1
    noise = 0.5 * torch.randn(1, 2, 48, 37, dtype=torch.complex64, generator=rng) * mask
    assert mri.noise_level(mri.forward(smooth) + noise) == pytest.approx(0.5, rel=0.15)


def test_noise_of_a_sinogram_is_read_off_its_second_differences():
    rng = torch.Generator().manual_seed(0)
    ct = XRayTransform(np.arange(20) * np.pi / 20, 64, 95, 1.0, 1.0)
    y = ct.forward(torch.ones(1, 1, 64, 64))
    noise = 0.05 * float(y.max()) * torch.randn(y.shape, generator=rng)
    assert ct.noise_level(y + noise) == pytest.approx(0.05 * float(y.max()), rel=0.2)
    assert ct.noise_level(y) < 0.1 * ct.noise_level(y + noise)
