"""Volumes that are read back from their files."""

import zipfile

import nibabel
import numpy as np
import pydicom
import pytest

from tests.support import scans
from udig_recon.core import open_scan, reconstruct_volume
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, write_result
from udig_recon.core.results.store import SliceResult
from udig_recon.core.volume_files import open_volume

SHAPE = (3, 16, 20)
AFFINE = [[0.0, 0.0, 3.0, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 2.0, 0.0, 11.0], [0.0, 0.0, 0.0, 1.0]]
PLACED = {"affine": AFFINE, "pixel_spacing_mm": [2.0, 1.5], "slice_spacing_mm": 3.0, "modality": "mri"}


@pytest.fixture
def images():
    return np.random.default_rng(0).random(SHAPE, np.float32)


def written(path, images, output, attributes):
    slices = [
        SliceResult(image=each, image_complex=each.astype(np.complex64), direct=each, reference=None, curves={})
        for each in images
    ]
    write_result(slices, ResultInfo(len(slices), attributes), {path: OUTPUTS[output]})
    return path


@pytest.mark.parametrize("output", ["h5", "npy", "nifti"])
def test_a_volume_is_read_back_as_it_was_written(tmp_path, images, output):
    path = written(tmp_path / f"volume{OUTPUTS[output].suffix}", images, output, PLACED)
    with open_volume(path) as volume:
        found = np.stack([each.image for each in volume.slices])
        np.testing.assert_array_equal(found, images)
        assert found.dtype == np.float32
        if output != "npy":
            np.testing.assert_allclose(volume.info.affine, AFFINE)
            assert volume.info.pixel_spacing_mm == (2.0, 1.5)
            assert volume.info.slice_spacing_mm == 3.0


def test_a_dicom_zip_shows_its_reconstruction_with_its_spacing(tmp_path, images):
    path = written(tmp_path / "volume.dicom.zip", images, "dicom", PLACED)
    with open_volume(path) as volume:
        assert len(volume.slices) == 3
        assert {round(each, 3) for each in volume.info.pixel_spacing_mm} == {1.5, 2.0}
        assert volume.info.slice_spacing_mm == pytest.approx(3.0)
        assert volume.slices[0].image.std() > 0


def test_nifti_of_others_keeps_its_axes_and_its_volumes(tmp_path):
    values = np.random.default_rng(1).random((6, 5, 4, 2)).astype(np.float32)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "other.nii")
    with open_volume(tmp_path / "other.nii") as volume:
        assert len(volume.slices) == 8
        np.testing.assert_array_equal(volume.slices[5].image, values[:, :, 1, 1].T)
        np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ volume.info.affine, affine)
        write_result(volume.slices, volume.info, {tmp_path / "again.nii.gz": OUTPUTS["nifti"]})
    again = nibabel.load(tmp_path / "again.nii.gz")
    np.testing.assert_array_equal(again.get_fdata(dtype=np.float32), values)
    np.testing.assert_allclose(again.affine, affine)


def test_what_is_no_volume_is_refused_with_what_would_be(tmp_path):
    np.save(tmp_path / "four.npy", np.zeros((2, 2, 2, 2)))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY nonsense")
    (tmp_path / "bad.nii.gz").write_bytes(b"nonsense")
    (tmp_path / "bad.h5").write_bytes(b"nonsense")
    (tmp_path / "bad.dicom.zip").write_bytes(b"nonsense")
    report = pydicom.Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.3"
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    with zipfile.ZipFile(tmp_path / "report.dicom.zip", "w") as archive:
        archive.write(tmp_path / "report.dcm", "report/1.dcm")
    scans.write_hdf5(tmp_path / "scan.h5", **scans.mri(1))
    for name, words in (
        ("report.dicom.zip", "found no grey image in report"),
        ("four.npy", "expected numbers (slices, y, x) or (y, x)"),
        ("bad.npy", "damaged"),
        ("bad.nii.gz", "damaged"),
        ("bad.h5", "damaged"),
        ("bad.dicom.zip", "damaged"),
        ("scan.h5", "expected a result of this software"),
        ("picture.png", "a volume that ends in one of .h5, .npy"),
    ):
        with pytest.raises(ReconstructionError) as refused, open_volume(tmp_path / name):
            pass
        assert words in str(refused.value), name
    with pytest.raises(FileNotFoundError), open_volume(tmp_path / "none.npy"):
        pass


def test_the_maps_of_a_result_are_there(tmp_path):
    scans.write_hdf5(tmp_path / "scan.h5", **scans.mri(1))
    with open_scan(tmp_path / "scan.h5") as scan:
        reconstruct_volume(scan, {"method": "cg_sense"}).save(tmp_path / "volume.h5")
    with open_volume(tmp_path / "volume.h5") as volume:
        (only,) = volume.slices
        assert only.reference is not None
        assert only.rating is not None
        assert not np.array_equal(only.direct, only.image)
