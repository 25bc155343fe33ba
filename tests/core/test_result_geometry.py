"""Where a result lies in the patient, and which contrast, phase ... each of its slices is, in every output format."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support import mrd_maker, scans
from tests.support.results import write_hdf5
from udig_recon.core.acquisition import Frame, Modality, ScanHeader, frame_labels, slice_number_range
from udig_recon.core.cli.main import main
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.results.output_format import ResultInfo, scan_attributes
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult
from udig_recon.core.slice_order import reference_slices

SPACING = (1.25, 0.75)
ACROSS = 3.3


def oblique(handed: int = 1) -> np.ndarray:
    """Patient coordinates (L, P, S) of (column, row, slice): turned about all three axes."""
    a, b, c = 0.3, -0.5, 1.1
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = z @ y @ x @ np.diag([SPACING[1], SPACING[0], handed * ACROSS])
    affine[:3, 3] = -83.25, 41.5, 190.125
    return affine


def images(count: int) -> np.ndarray:
    return scans.phantom(count, 24)[:, :, :20] * np.linspace(1, 2, count, dtype=np.float32)[:, None, None]


def result(path: Path, numbers: Sequence[int], **header: Any) -> Path:
    """A result of these slices of a scan; the image of each is that of its number."""
    volume = images(max(numbers) + 1)
    made = [SliceResult(volume[number], None, volume[number], None, {}) for number in numbers]
    told = scan_attributes({"pixel_spacing_mm": SPACING, "slice_spacing_mm": ACROSS, **header}, numbers)
    write_hdf5(path, made, {**told, "slice_numbers": list(numbers)})
    return path


def nifti(path: Path) -> Any:
    convert(path, path.with_suffix(".nii.gz"), OUTPUTS["nifti"])
    return nibabel.load(path.with_suffix(".nii.gz"))


def as_json(affine: np.ndarray) -> list[list[float]]:
    return affine.tolist()


@pytest.mark.parametrize("handed", [1, -1], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [2, 3], [3, 2, 1, 0], [0, 2, 4], [5, 3, 1], [4]], ids=str)
def test_nifti_says_where_each_pixel_of_any_slices_lay(numbers: list[int], handed: int, tmp_path: Path) -> None:
    affine = oblique(handed)
    read = nifti(result(tmp_path / "r.h5", numbers, affine=as_json(affine)))
    qform, qcode = read.header.get_qform(coded=True)
    sform, scode = read.header.get_sform(coded=True)
    assert (int(qcode), int(scode)) == (1, 1)
    values, volume = read.get_fdata(), images(max(numbers) + 1)
    for place, number in enumerate(numbers):
        np.testing.assert_array_equal(values[:, :, place].T, volume[number])
        for column, row in ((0, 0), (19, 0), (7, 23)):
            left, back, up, _ = affine @ (column, row, number, 1)
            for told in (qform, sform, read.affine):
                np.testing.assert_allclose(told @ (column, row, place, 1), (-left, -back, up, 1), atol=1e-3)
    assert b"assumed" not in read.header["descrip"].tobytes()
    step = abs(numbers[1] - numbers[0]) if len(numbers) > 1 else 1
    np.testing.assert_allclose(read.header.get_zooms(), (SPACING[1], SPACING[0], step * ACROSS), rtol=1e-6)


def test_slices_that_are_not_evenly_spaced_have_no_place_in_a_nifti_and_it_says_so(tmp_path: Path) -> None:
    read = nifti(result(tmp_path / "r.h5", [0, 1, 4], affine=as_json(oblique())))
    assert read.header.get_qform(coded=True) == (None, 0)
    assert b"assumed" in read.header["descrip"].tobytes()
    (comment,) = read.header.extensions
    assert b"slices 0, 1, 4 are not evenly spaced" in comment.get_content()


def frames_of_a_scan() -> list[Frame]:
    """Three slices of two contrasts and two repetitions, as a scanner may number them."""
    return [
        Frame(slice=position, contrast=contrast, repetition=repetition)
        for position in range(3)
        for contrast in range(2)
        for repetition in range(2)
    ]


FRAMES = [{"slice": f.slice, "contrast": f.contrast, "repetition": f.repetition} for f in frames_of_a_scan()]


def test_frames_become_a_fourth_axis_by_contrast_then_repetition(tmp_path: Path) -> None:
    affine = oblique()
    read = nifti(result(tmp_path / "r.h5", range(12), affine=as_json(affine), frames=FRAMES))
    assert read.shape == (20, 24, 3, 4)
    volume = images(12)
    for number, frame in enumerate(frames_of_a_scan()):
        place = read.dataobj[:, :, frame.slice, 2 * frame.contrast + frame.repetition]
        np.testing.assert_array_equal(place.T, volume[number])
    np.testing.assert_allclose(read.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)
    (comment,) = read.header.extensions
    assert b"volume 1: contrast 0, repetition 1" in comment.get_content()


def test_some_frames_of_a_scan_are_a_volume_where_they_are_whole_and_a_list_where_not(tmp_path: Path) -> None:
    affine = oblique()
    second_contrast = [number for number, frame in enumerate(frames_of_a_scan()) if frame.contrast == 1]
    for numbers, shape in (
        (second_contrast, (20, 24, 3, 2)),
        (second_contrast[::-1], (20, 24, 3, 2)),
        (second_contrast[::2], (20, 24, 3)),
        ([0, 1, 2, 3], (20, 24, 1, 4)),
    ):
        read = nifti(result(tmp_path / "r.h5", numbers, affine=as_json(affine), frames=FRAMES))
        assert read.shape == shape
        first = frames_of_a_scan()[numbers[0]].slice
        np.testing.assert_allclose(read.affine @ (0, 0, 0, 1), np.diag([-1, -1, 1, 1]) @ affine @ (0, 0, first, 1))
    read = nifti(result(tmp_path / "r.h5", [0, 1, 4], affine=as_json(affine), frames=FRAMES))
    assert (read.shape, int(read.header["qform_code"])) == ((20, 24, 3), 0)
    assert b"slice 1: slice 0, repetition 1" in read.header.extensions[0].get_content()


def test_hdf5_tells_affine_frames_corrections_and_sampling(tmp_path: Path) -> None:
    told = {"affine": as_json(oblique()), "frames": FRAMES, "corrections": ("noise was prewhitened",), "averages": 2}
    path = result(tmp_path / "r.h5", [3, 1], **told, prewhitened=True, trajectory="cartesian", geometry=None)
    with h5py.File(path) as file:
        assert np.allclose(json.loads(file.attrs["affine"]), oblique())
        assert json.loads(file.attrs["frames"]) == [FRAMES[3], FRAMES[1]]
        assert json.loads(file.attrs["corrections"]) == ["noise was prewhitened"]
        assert (file.attrs["averages"], file.attrs["prewhitened"], file.attrs["trajectory"]) == (2, True, "cartesian")
        assert "geometry" not in file.attrs


def test_a_sheet_of_frames_is_titled_with_them(tmp_path: Path) -> None:
    path = result(tmp_path / "r.h5", range(4), frames=FRAMES)
    plain = result(tmp_path / "plain.h5", range(4))
    pictures = []
    for each in (path, plain):
        convert(each, each.with_suffix(".png"), OUTPUTS["png"])
        pictures.append(Image.open(io.BytesIO(each.with_suffix(".png").read_bytes())))
    assert pictures[0].height > pictures[1].height
    assert frame_labels(frames_of_a_scan())[:2] == [
        "slice 0, contrast 0, repetition 0",
        "slice 0, contrast 0, repetition 1",
    ]


def test_numbers_of_slices_are_told_as_indices_of_frames() -> None:
    assert slice_number_range(5, ()) == "0 to 4"
    assert slice_number_range(12, frames_of_a_scan()) == (
        "0 to 11, indices of the 12 frames in the scan's header (3 slices x 2 contrasts x 2 repetitions)"
    )


def test_a_reference_slice_is_of_the_same_contrast_and_repetitions_are_neighbours() -> None:
    frames = [
        Frame(slice=position, contrast=contrast, repetition=repetition)
        for repetition in range(2)
        for contrast in range(2)
        for position in range(8)
    ]
    led = reference_slices(range(32), UDiGDIP(), frames)
    assert len(led) == 28
    for follower, leader in led.items():
        assert frames[follower].contrast == frames[leader].contrast
        assert abs(frames[follower].slice - frames[leader].slice) < 4


def test_results_of_older_headers_have_what_they_had() -> None:
    header = ScanHeader(
        format="npy", modality=Modality.MRI, slices=2, matrix=(8, 8), pixel_spacing_mm=(1.0, 1.0), warnings=("one",)
    )
    told = scan_attributes(vars(header), [0, 1])
    assert told == {"modality": "mri", "pixel_spacing_mm": [1.0, 1.0], "warnings": ["one"]}
    info = ResultInfo(2, told)
    assert (info.affine, info.frames, info.corrections) == (None, (), [])


def test_frames_of_a_measurement_come_back_from_nifti_where_they_lay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interleaved oblique slices of two contrasts through `udig recon`: read as 3-D Slicer does."""
    frames = mrd_maker.Frames(slices=4, contrasts=2)
    made = mrd_maker.make(mrd_maker.Plan(frames=frames, oblique=True, interleaved=True))
    path = mrd_maker.write(tmp_path / "scan.h5", made)
    for asked, positions, volumes in (([], [0, 1, 2, 3], 2), (["6", "4"], [2, 0], 1)):
        numbers = ["--slices", *asked] if asked else []
        output = tmp_path / "out.nii.gz"
        assert main(["recon", str(path), "-o", str(output), "--method", "cg_sense", *numbers]) == 0
        image: Any = nibabel.load(output)
        assert image.shape == (32, 40, len(positions)) + ((volumes,) if volumes > 1 else ())
        values = image.get_fdata().reshape(32, 40, len(positions), volumes)
        for place, position in enumerate(positions):
            for volume in range(volumes):
                contrast = volume if volumes > 1 else 1
                truth = np.abs(made.images[4 * contrast + position])
                error = np.linalg.norm(values[:, :, place, volume].T - truth) / np.linalg.norm(truth)
                assert error < 0.1
            for corner in ((0, 0), (31, 39)):
                expected = np.diag([-1, -1, 1, 1]) @ made.affine @ (*corner, position, 1)
                for transform in (image.header.get_qform(), image.header.get_sform()):
                    np.testing.assert_allclose(transform @ (*corner, place, 1), expected, atol=0.01)
    told = capsys.readouterr().err
    assert "corrected: readout oversampling was removed" in told
    assert "frame 6 (slice 2, contrast 1): " in told
