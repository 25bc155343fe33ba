"""Size and pixels of an image by its header: field of view over samples, whatever the scanner interpolates to."""

import gzip
import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support import scans
from tests.support.results import write_hdf5
from udig_recon.core.formats import probe, read
from udig_recon.core.results import png as pictures
from udig_recon.core.results.output_format import scan_attributes
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult

XML = """<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>{0}</x><y>{1}</y><z>{8}</z></matrixSize>
<fieldOfView_mm><x>{2}</x><y>{3}</y><z>{9}</z></fieldOfView_mm></encodedSpace><reconSpace><matrixSize><x>{4}</x><y>{5}</y>
<z>{8}</z></matrixSize><fieldOfView_mm><x>{6}</x><y>{7}</y><z>{9}</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""
# k-space (ky, kx); encoded matrix and field of view (x, y); recon matrix and field of view; image and its pixels; told
CASES = {
    "plain": ((64, 48), (64, 48, 128, 96), (64, 48, 128, 96), (64, 48), (2, 2), None),
    "readout oversampled": ((128, 48), (128, 48, 256, 96), (64, 48, 128, 96), (64, 48), (2, 2), None),
    "phase oversampled": ((64, 72), (64, 72, 96, 108), (64, 48, 96, 72), (64, 48), (1.5, 1.5), None),
    "pixels of unlike sides": ((64, 32), (64, 32, 64, 64), (64, 32, 64, 64), (64, 32), (1, 2), None),
    "interpolated columns": ((64, 36), (64, 36, 128, 108), (64, 72, 128, 108), (64, 36), (2, 3), "interpolated"),
    "half the field of view": ((128, 48), (128, 48, 256, 96), (128, 48, 128, 96), (64, 48), (2, 2), "interpolated"),
    "readout along columns": ((80, 128), (128, 80, 256, 120), (64, 80, 128, 120), (80, 64), (1.5, 2), "along columns"),
    "oversampling removed": ((64, 48), (128, 48, 256, 96), (64, 48, 128, 96), (64, 48), (2, 2), "oversampling was"),
    "padded k-space": ((64, 64), (64, 48, 128, 96), (64, 48, 128, 96), (64, 64), (2, 1.5), "encoded matrix"),
    "odd matrices": ((65, 49), (65, 49, 130, 98), (65, 49, 130, 98), (65, 49), (2, 2), None),
    "rounded field": ((96, 48), (96, 48, 192.4, 96.2), (48, 48, 96, 96), (48, 48), (2.0042, 2.0042), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_the_measured_field_of_view_over_the_samples(name: str, tmp_path: Path) -> None:
    samples, encoded, recon, size, spacing, told = CASES[name]
    kspace = np.ones((1, 1, *samples), np.complex64)
    kspace[..., samples[0] // 2, samples[1] // 2] = 99
    header = probe(scans.write_hdf5(tmp_path / "a", kspace=kspace, ismrmrd_header=XML.format(*encoded, *recon, 1, 5)))
    assert header.matrix == size
    assert header.pixel_spacing_mm == pytest.approx(spacing, rel=1e-3)
    assert header.slice_spacing_mm == 5
    assert any(told in warning for warning in header.warnings) if told else header.warnings == ()


def test_a_reference_whose_rows_and_columns_are_swapped_is_left_out_and_changes_no_image(tmp_path: Path) -> None:
    image = scans.phantom(1, 64)[:, :, 8:56]
    kspace = scans.fft(image[:, None]).astype(np.complex64)
    xml = XML.format(64, 48, 64, 48, 64, 48, 64, 48, 1, 5)
    for more in ({"pixel_spacing_mm": 1.0}, {"ismrmrd_header": xml}):
        header = probe(
            scans.write_hdf5(tmp_path / "a", kspace=kspace, reference=image.swapaxes(-1, -2).astype(np.float32), **more)
        )
        assert header.matrix == (64, 48)
        assert not header.has_reference
        assert any("swapped" in warning for warning in header.warnings)


def test_a_reference_larger_than_kspace_is_cropped_or_left_out_and_the_scan_is_taken(tmp_path: Path) -> None:
    image = scans.phantom(1, 64)
    kspace = scans.fft(image[:, None, :, 8:56]).astype(np.complex64)
    for reference, kept, told in (
        (image, (64, 48), "its middle"),
        (np.kron(image, np.ones((1, 2, 2), np.float32)), None, "left out"),
        (image[:, :63, 8:55], (63, 47), None),
        (image[:, 1:, 9:56], (63, 47), "-1 rows and -1 columns off"),
    ):
        path = scans.write_npz(tmp_path / "a", kspace=kspace, reference=reference, pixel_spacing_mm=1.0)
        header, scan = probe(path), read(path)
        assert header.has_reference == (kept is not None)
        assert any(told in warning for warning in header.warnings) if told else not header.warnings
        if kept is not None:
            assert header.matrix == kept
            left = 8 if kept[1] == 48 else 0
            np.testing.assert_array_equal(scan.reference, reference[:, :, left : left + kept[1]])


def test_a_reference_of_the_scanners_interpolation_is_left_out(tmp_path: Path) -> None:
    kspace = scans.fft(scans.phantom(1, 64)[:, None]).astype(np.complex64)
    header = XML.format(64, 64, 128, 128, 64, 64, 64, 64, 1, 5)
    path = scans.write_hdf5(tmp_path / "a", kspace=kspace, ismrmrd_header=header, reference=scans.phantom(1, 64))
    found = probe(path)
    assert (found.matrix, found.has_reference) == ((32, 32), False)
    assert any("left out" in warning for warning in found.warnings)


def volume(path: Path, count: int = 3, **attributes: object) -> Path:
    made = [SliceResult(image, None, image, None, {}) for image in scans.phantom(count, 24)[:, :, :20]]
    write_hdf5(path, iter(made), {"pixel_spacing_mm": (2.0, 4.0), **attributes})
    return path


@pytest.mark.parametrize(("slices", "across"), [([0, 1, 2], 6.0), ([1, 3, 5], 12.0), ([0, 1, 5], 1.0)])
def test_nifti_has_the_spacing_of_its_slices_and_says_what_the_scan_warned_of(
    slices: list[int], across: float, tmp_path: Path
) -> None:
    told = scan_attributes({"slice_spacing_mm": 6.0, "warnings": ("coil 3: noisy", "one more")}, slices)
    made = volume(tmp_path / "r.h5", 3, **{**told, "slice_numbers": slices})
    convert(made, tmp_path / "r.nii.gz", OUTPUTS["nifti"])
    image = nibabel.load(tmp_path / "r.nii.gz")
    assert image.header.get_zooms() == (4.0, 2.0, across)
    assert np.diag(image.affine).tolist() == [-4.0, -2.0, across, 1.0]
    assert ("1 mm" in str(image.header["descrip"])) == (across == 1.0)
    (comment,) = image.header.extensions
    assert (comment.get_code(), comment.get_content()) == (6, b"coil 3: noisy\none more")
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), scans.phantom(3, 24)[:, :, :20])
    with h5py.File(tmp_path / "r.h5") as file:
        assert json.loads(file.attrs["warnings"]) == ["coil 3: noisy", "one more"]


def test_nifti_without_spacing_and_warnings_is_as_it_was(tmp_path: Path) -> None:
    convert(volume(tmp_path / "r.h5"), tmp_path / "r.nii.gz", OUTPUTS["nifti"])
    content = gzip.decompress((tmp_path / "r.nii.gz").read_bytes())
    assert len(content) == 352 + 3 * 24 * 20 * 4
    assert b"slice spacing 1 mm" in content[:348]


def test_pictures_of_pixels_of_unlike_sides_are_as_the_object_is(tmp_path: Path) -> None:
    convert(volume(tmp_path / "one.h5", 1), tmp_path / "one.png", OUTPUTS["png"])
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (40, 24)
        greys = np.asarray(picture)
    np.testing.assert_array_equal(greys[:, ::2], greys[:, 1::2])
    image = np.random.default_rng(0).random((10, 8)).astype(np.float32)
    assert pictures.square_pixels(image, (1.0, 1.0)) is image
    assert pictures.square_pixels(image, (1.0, 1.01)) is image
    assert pictures.square_pixels(image, (1e-3, 1e3)) is image
    assert pictures.square_pixels(image, (3.0, 1.0)).shape == (30, 8)
    stretched = pictures.square_pixels(image, (1.5, 1.0))
    assert stretched.shape == (15, 8)
    assert stretched.min() >= image.min()
    assert stretched.max() <= image.max()
    ramp = np.broadcast_to(np.arange(8.0)[:, None], (8, 3))
    np.testing.assert_allclose(pictures.square_pixels(ramp, (1.5, 1.0))[1:-1, 0], (np.arange(1, 11) + 0.5) / 1.5 - 0.5)
