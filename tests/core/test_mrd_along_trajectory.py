"""MRD measurements along a trajectory: radial, spiral and stacks of stars come back as the phantom."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import mrd_along
from tests.support.mrd_along import POSITION, SIZE, Plan
from udig_recon.core import metrics
from udig_recon.core.acquisition import NonCartesianAcquisition
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.problem import slice_problem

PLANS = {
    "radial": Plan(),
    "spiral": Plan("spiral", told="spiral"),
    "told as golden angle": Plan(told="goldenangle"),
    "other, in fact radial": Plan(told="other"),
    "cycles per pixel": Plan(unit=1 / SIZE),
    "radians per pixel": Plan(unit=2 * np.pi / SIZE),
    "three components": Plan(dimensions=3),
    "samples to discard": Plan(discard=(3, 5)),
    "slices and repetitions": Plan(slices=2, repetitions=2),
    "a stack of stars": Plan(partitions=4),
    "one coil": Plan(coils=1),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_measurement_comes_back_as_the_phantom(name: str, tmp_path: Path) -> None:
    plan = PLANS[name]
    truth = mrd_along.make(plan)
    path = mrd_along.write(tmp_path / "scan.h5", truth)
    header = probe(path)
    assert (header.matrix, header.coils, header.slices) == ((SIZE, SIZE), plan.coils, len(truth.images))
    assert header.trajectory == plan.shape
    assert len(header.frames) == (4 if plan.repetitions > 1 else 0)
    for index in {0, len(truth.images) - 1}:
        scan = read(path, [index])
        assert isinstance(scan, NonCartesianAcquisition)
        assert np.allclose(scan.trajectory[0], truth.trajectory, atol=1e-4)
        image = slice_problem(scan, 0, torch.device("cpu")).direct_image
        assert metrics.psnr(image, truth.images[index].astype(np.float32)) > 25


def test_noise_readouts_whiten_the_coils_and_the_middle_pixel_lies_at_the_position(tmp_path: Path) -> None:
    noisy = mrd_along.make(Plan(noise=0.05))
    path = mrd_along.write(tmp_path / "scan.h5", noisy)
    header = probe(path)
    assert header.prewhitened
    assert header.affine is not None
    middle = np.array(header.affine) @ [SIZE // 2, SIZE // 2, 0, 1]
    assert np.allclose(middle[:3], POSITION, atol=1e-3)
    scan = read(path, [0])
    assert isinstance(scan, NonCartesianAcquisition)
    clean = read(mrd_along.write(tmp_path / "clean.h5", mrd_along.make(Plan())), [0])
    assert isinstance(clean, NonCartesianAcquisition)
    residual = scan.kspace - clean.kspace / 0.05
    assert np.sqrt(np.mean(np.abs(residual) ** 2)) == pytest.approx(1, abs=0.1)


def test_readouts_without_a_trajectory_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = mrd_along.write(tmp_path / "scan.h5", mrd_along.make(Plan(dimensions=0)))
    with pytest.raises(UnsupportedScan, match=r"without a trajectory.*trajectory_dimensions 2"):
        probe(path)


def test_a_stack_with_a_partition_missing_is_refused(tmp_path: Path) -> None:
    truth = mrd_along.make(Plan(partitions=4))
    kept = [line for line in truth.lines if line.idx.kspace_encode_step_2 != 2]
    path = mrd_along.write(tmp_path / "scan.h5", replace(truth, lines=kept))
    with pytest.raises(UnsupportedScan, match="not all measured alike"):
        probe(path)


def test_a_trajectory_through_three_dimensions_is_refused(tmp_path: Path) -> None:
    truth = mrd_along.make(Plan(dimensions=3))
    for line in truth.lines[1:]:
        line.traj[:, 2] = line.traj[:, 0]
    with pytest.raises(UnsupportedScan, match="three dimensions"):
        probe(mrd_along.write(tmp_path / "scan.h5", truth))


@pytest.mark.parametrize("what", ["data", "traj"])
def test_nan_is_refused(what: str, tmp_path: Path) -> None:
    truth = mrd_along.make(Plan())
    getattr(truth.lines[5], what)[0, 0] = np.nan
    with pytest.raises(UnreadableScan, match=r"NaN|finite"):
        probe(mrd_along.write(tmp_path / "scan.h5", truth))


def test_readouts_of_another_length_are_left_out_and_said(tmp_path: Path) -> None:
    truth, short = mrd_along.make(Plan()), mrd_along.make(Plan(discard=(1, 0)))
    lines = [*truth.lines, *short.lines[1:4]]
    header = probe(mrd_along.write(tmp_path / "scan.h5", replace(truth, lines=lines)))
    assert any("of 2 lengths" in each for each in header.warnings)
