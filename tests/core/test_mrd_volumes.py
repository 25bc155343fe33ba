"""3-D MRD measurements with two axes of phase encoding: every slice along the readout is what was measured."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from benchmarks.speed.preparing import write_volume
from tests.support import mrd_maker
from tests.support.mrd_volume_maker import MadeVolume, VolumePlan, make
from udig_recon.core import open_scan, reconstruct_volume
from udig_recon.core.acquisition import Frame
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.containers.scan_file import open_scan_file
from udig_recon.core.formats.limits import Limits
from udig_recon.core.formats.prepared import open_prepared
from udig_recon.core.formats.reading import prepare
from udig_recon.core.formats.readouts import volume as module

PLANS = {
    "plain": VolumePlan(),
    "odd sides": VolumePlan(columns=15, rows=23, partitions=21, image_partitions=21),
    "no oversampling": VolumePlan(oversampling=1),
    "slice oversampling": VolumePlan(partitions=26, image_partitions=20),
    "partial Fourier": VolumePlan(first_row=6, elliptical=False, share=1.0),
    "averages, reversed, in no order": VolumePlan(averages=3, reversed_lines=True, shuffled=True),
    "contrasts": VolumePlan(contrasts=2),
    "one coil": VolumePlan(coils=1),
    "left-handed": VolumePlan(handed=-1),
}


def write(path: Path, plan: VolumePlan) -> MadeVolume:
    made = make(plan)
    mrd_maker.write(path, made)  # type: ignore[arg-type]
    return made


def slices_of(path: Path, count: int) -> list[Any]:
    return [read(path, [index]) for index in range(count)]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_slice_is_the_hybrid_space_that_was_measured(plan: VolumePlan, tmp_path: Path) -> None:
    made = write(tmp_path / "scan.h5", plan)
    count = plan.contrasts * plan.columns
    with open_scan(tmp_path / "scan.h5") as scan:
        header = scan.header
        assert (header.slices, header.coils, header.matrix) == (count, plan.coils, (plan.rows, plan.image_partitions))
        assert header.pixel_spacing_mm == pytest.approx(plan.pixel_mm[1:])
        assert header.slice_spacing_mm == pytest.approx(plan.pixel_mm[0])
        np.testing.assert_allclose(header.affine, made.affine, atol=1e-3)
        assert header.averages == plan.averages
        truth = made.hybrid.reshape(count, *made.hybrid.shape[2:])
        for index in range(count):
            found: Any = scan.read([index])
            np.testing.assert_array_equal(found.mask, made.mask)
            np.testing.assert_allclose(found.kspace[0], truth[index], atol=2e-5 * np.abs(truth).max())
    if plan.contrasts > 1:
        assert header.frames[plan.columns + 3] == Frame(slice=3, contrast=1)
        assert len(header.frames) == count
    else:
        assert header.frames == ()
    assert any("3-D" in sentence for sentence in header.corrections)


def test_without_room_in_a_prepared_scan_slices_are_read_in_several_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = VolumePlan(averages=2, contrasts=2)
    write(tmp_path / "scan.h5", plan)
    with open_scan(tmp_path / "scan.h5") as scan:
        whole = [scan.read([index]) for index in range(32)]
        header = scan.header
    monkeypatch.setattr(module, "_PIECE_BYTES", 3 * 4 * 24 * 22 * 8)
    assert probe(tmp_path / "scan.h5") == header
    for mine, theirs in zip(slices_of(tmp_path / "scan.h5", 32), whole, strict=True):
        np.testing.assert_array_equal(mine.kspace, theirs.kspace)
        np.testing.assert_array_equal(mine.mask, theirs.mask)


def test_noise_is_white_and_of_one_level_and_the_residual_is_what_it_explains(tmp_path: Path) -> None:
    plan = VolumePlan(noise=0.05, averages=2, share=0.8)
    made = write(tmp_path / "scan.h5", plan)
    clean = make(replace(plan, noise=0.0))
    with open_scan(tmp_path / "scan.h5") as scan:
        assert scan.header.prewhitened
        found = np.stack([scan.read([index]).kspace[0] for index in range(plan.columns)])  # type: ignore[union-attr]
    mixing = np.diag(1 + 0.5 * np.arange(4) / 4) + np.tril(np.full((4, 4), 0.2j), -1)
    truth = np.einsum("cd,xdyz->xcyz", np.linalg.inv(plan.noise * mixing), clean.hybrid[0])
    # The noise measurement is finite: its matrix is a little off, and so is what it makes of the signal.
    exact = np.linalg.lstsq(
        truth.transpose(1, 0, 2, 3)[:, :, made.mask].reshape(4, -1).T,
        found.transpose(1, 0, 2, 3)[:, :, made.mask].reshape(4, -1).T,
        rcond=None,
    )[0].T
    np.testing.assert_allclose(exact, np.eye(4), atol=0.05)
    residual = (found - np.einsum("cd,xdyz->xcyz", exact, truth))[:, :, made.mask]
    assert np.sqrt((np.abs(residual) ** 2).mean() * plan.averages) == pytest.approx(1, rel=0.02)


def test_an_asymmetric_echo_blurs_along_the_readout_and_says_so(tmp_path: Path) -> None:
    made = write(tmp_path / "scan.h5", VolumePlan(left_out=8))
    header = probe(tmp_path / "scan.h5")
    assert any("asymmetric echo" in warning for warning in header.warnings)
    middle: Any = read(tmp_path / "scan.h5", [8])
    np.testing.assert_array_equal(middle.mask, made.mask)
    error = np.linalg.norm(middle.kspace[0] - made.hybrid[0, 8]) / np.linalg.norm(made.hybrid[0, 8])
    assert 0.01 < error < 0.5


def test_separate_calibration_is_for_coil_maps_alone(tmp_path: Path) -> None:
    plan = VolumePlan(separate=True, share=0.4, elliptical=False, contrasts=2)
    made = write(tmp_path / "scan.h5", plan)
    with open_scan(tmp_path / "scan.h5") as scan:
        found: Any = scan.read([5])
        second: Any = scan.read([16 + 5])
    np.testing.assert_array_equal(found.mask, made.mask)
    full = make(replace(plan, share=1.0)).hybrid[0, 5]
    middle = full[:, 12 - 5 : 12 + 5, 11 - 5 : 11 + 5]
    np.testing.assert_allclose(found.calibration[0], 3 * middle, atol=1e-4)
    np.testing.assert_array_equal(second.calibration, found.calibration)


def test_a_volume_comes_upright_and_where_it_lay(tmp_path: Path) -> None:
    """As 3-D Slicer reads the NIfTI, by either of its transforms."""
    plan = VolumePlan(partitions=26, image_partitions=20)
    made = write(tmp_path / "scan.h5", plan)
    with open_scan(tmp_path / "scan.h5") as scan:
        volume = reconstruct_volume(scan, {"method": "cg_sense"})
    truth = np.abs(made.images[0])
    error = np.linalg.norm(volume.images - truth) / np.linalg.norm(truth)
    assert error < 0.35
    mirrored = [np.linalg.norm(np.flip(volume.images, axis) - truth) / np.linalg.norm(truth) for axis in range(3)]
    assert error < 0.8 * min(mirrored)
    volume.save(tmp_path / "volume.nii.gz")
    image = nibabel.load(tmp_path / "volume.nii.gz")
    for transform in (image.header.get_qform(), image.header.get_sform()):
        for corner in np.ndindex(2, 2, 2):
            voxel = np.array(corner) * (np.array(image.shape) - 1)
            expected = np.diag([-1, -1, 1, 1]) @ made.affine @ (*voxel, 1)
            np.testing.assert_allclose(transform @ (*voxel, 1), expected, atol=0.01)


def test_slabs_are_read_without_a_position(tmp_path: Path) -> None:
    write(tmp_path / "scan.h5", VolumePlan(slabs=2))
    header = probe(tmp_path / "scan.h5")
    assert (header.slices, header.affine) == (32, None)
    assert any("2 slabs" in warning for warning in header.warnings)


def test_a_volume_without_a_calibration_region_is_refused_with_what_would_do(tmp_path: Path) -> None:
    write(tmp_path / "scan.h5", VolumePlan(calibration=4, share=0.3))
    with pytest.raises(UnsupportedScan, match="coil maps needs 8 x 8"):
        probe(tmp_path / "scan.h5")


def test_more_slices_than_allowed_are_refused_with_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "scan.h5", VolumePlan(contrasts=2))
    with pytest.raises(UnsupportedScan, match=r"32 slices \(2 of 16\)"):
        probe(tmp_path / "scan.h5", Limits(max_slices=20))


def test_a_matrix_far_larger_than_what_was_measured_is_refused(tmp_path: Path) -> None:
    made = make(VolumePlan(pixel_mm=(1.0, 1.0, 1.0)))
    lied = made.xml.replace("<y>24</y>", "<y>1000</y>").replace("<z>22</z>", "<z>512</z>")
    mrd_maker.write(tmp_path / "scan.h5", replace(made, xml=lied))  # type: ignore[arg-type]
    with pytest.raises(UnreadableScan, match=r"matrix of \d+ bytes, of which \d+ were measured"):
        probe(tmp_path / "scan.h5")


def test_partitions_beyond_the_matrix_are_left_out_with_a_warning(tmp_path: Path) -> None:
    made = make(VolumePlan())
    outside = made.lines[-1]
    lost = outside.idx.kspace_encode_step_1, outside.idx.kspace_encode_step_2
    outside.idx.kspace_encode_step_2 = 40
    mrd_maker.write(tmp_path / "scan.h5", made)  # type: ignore[arg-type]
    assert any("1 readouts lie outside" in warning for warning in probe(tmp_path / "scan.h5").warnings)
    found: Any = read(tmp_path / "scan.h5", [3])
    made.mask[lost] = False
    np.testing.assert_array_equal(found.mask, made.mask)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_no_number_is_refused(value: float, tmp_path: Path) -> None:
    made = make(VolumePlan(noise=0.01))
    made.lines[-5].data[2, 7] = value
    mrd_maker.write(tmp_path / "scan.h5", made)  # type: ignore[arg-type]
    with pytest.raises(UnreadableScan, match="NaN or infinity"):
        probe(tmp_path / "scan.h5")


@pytest.mark.long
def test_memory_holds_a_piece_of_the_volume_and_not_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, coils = (128, 96, 64), 8
    write_volume(tmp_path / "scan.h5", matrix, coils)
    whole = math.prod(matrix) * coils * 8
    monkeypatch.setattr(module, "_PIECE_BYTES", whole // 16)
    with (tmp_path / "prepared").open("w+b") as output, open_scan_file(tmp_path / "scan.h5") as file:
        tracemalloc.start()
        prepare(file, Limits(), "sha", output.fileno())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    with open_prepared(tmp_path / "prepared") as scan:
        assert scan.header.slices == matrix[0]
        assert scan.nbytes > whole
    assert peak < whole // 16 + (32 << 20) < 0.75 * whole
