"""Image files of every format become the same slices, and no person stands on both sides of the split."""

import gzip

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import ReconstructionError, UnreadableScan
from udig_recon.core.training.dataset import find_sources, load_images, normalise, split_by_person, volume_slices
from udig_recon.core.training.volumes import Volume, volumes


def stack(slices=5, size=104):
    """Slices (slices, y, x) of an uneven disc, all different, and no two axes alike."""
    y, x = np.mgrid[-1 : 1 : (size + 8) * 1j, -1 : 1 : size * 1j]
    disc = 200.0 * ((x**2 + y**2) < 0.6) * (1 + 0.3 * np.sin(9 * x) + 0.1 * y)
    return np.stack([disc * (1 + 0.1 * index) for index in range(slices)]).astype(np.float32)


def write_series(folder, hounsfield, *, order=None, position=True, slope=2.0, intercept=-1024.0, **attributes):
    """A DICOM series, its files in any order."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, index in enumerate(order or range(len(hounsfield))):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{index + 1}"
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID = "1.2.3"
        data.Rows, data.Columns = hounsfield.shape[1:]
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelSpacing = [0.7, 0.8]
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.InstanceNumber = 100 - index  # the wrong way round: the position decides
        if position:
            data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            data.ImagePositionPatient = [0, 0, 2.5 * index]
        for key, value in attributes.items():
            setattr(data, key, value)
        stored = np.round((hounsfield[index] - intercept) / slope).astype(np.int16)
        data.PixelData = stored.tobytes()
        data.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return folder


def only(path):
    (volume,) = volumes([path])
    return volume


def slices_first(volume):
    return np.moveaxis(volume.values, -1, 0)


def test_every_format_gives_the_same_slices(tmp_path):
    images = stack()
    nifti = nibabel.Nifti1Image(np.moveaxis(images, 0, -1), np.diag([0.7, 0.8, 2.5, 1]))
    nibabel.save(nifti, tmp_path / "a.nii")
    nibabel.save(nifti, tmp_path / "b.nii.gz")
    nibabel.save(nibabel.Nifti2Image(nifti.dataobj, nifti.affine), tmp_path / "c.nii")
    np.save(tmp_path / "d.npy", images)
    np.savez(tmp_path / "e.npz", kspace=np.zeros((5, 2, 3, 4), np.complex64), volume=images)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["reconstruction_rss"] = images
        file["kspace"] = np.zeros((5, 2, 8, 8), np.complex64)
        file["other"] = images[:, ::-1]
    with h5py.File(tmp_path / "g.hdf5", "w") as file:
        file["deep/inside"] = images * np.exp(1j)
    # Recognised by content, whatever the name.
    (tmp_path / "h.image").write_bytes((tmp_path / "b.nii.gz").read_bytes())
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_allclose(slices_first(only(path)), images, rtol=1e-6)
    assert only(tmp_path / "b.nii.gz").spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    assert only(tmp_path / "d.npy").spacing_mm is None


def test_one_image_is_a_volume_of_one_slice(tmp_path):
    image = stack()[0]
    np.save(tmp_path / "a.npy", image.astype(complex))
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "b.nii")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(slices_first(only(path)), image[None])


def test_first_volume_of_a_series_over_time_is_taken(tmp_path):
    images = np.moveaxis(stack(), 0, -1)
    nibabel.save(nibabel.Nifti1Image(np.stack([images, 0 * images], -1), np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(only(tmp_path / "a.nii").values, images)


def test_dicom_series_is_sorted_along_its_normal_and_rescaled(tmp_path):
    hounsfield = 8 * np.round(stack()) - 1000
    folder = write_series(tmp_path / "eva" / "series", hounsfield, order=[3, 0, 4, 2, 1])
    (tmp_path / "eva" / "notes.txt").write_text("no image")
    (source,) = find_sources(tmp_path, {})
    assert (source.name, source.person, len(source.files)) == ("eva", "eva", 5)
    (volume,) = volumes(source.files)
    np.testing.assert_allclose(slices_first(volume), hounsfield, atol=1)
    assert volume.spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    assert folder.exists()


def test_dicom_series_are_told_apart(tmp_path):
    write_series(tmp_path / "eva" / "a", stack())
    write_series(tmp_path / "eva" / "b", stack(slices=3), SeriesInstanceUID="1.2.4")
    (source,) = find_sources(tmp_path, {})
    assert sorted(volume.values.shape[-1] for volume in volumes(source.files)) == [3, 5]


def test_dicom_without_positions_is_sorted_by_number_and_has_no_spacing(tmp_path):
    images = np.round(stack())
    write_series(tmp_path / "eva", images, position=False, slope=1.0, intercept=0.0)
    (volume,) = volumes(find_sources(tmp_path, {})[0].files)
    np.testing.assert_allclose(slices_first(volume), images[::-1])
    assert volume.spacing_mm is None


def test_dicom_that_is_no_grey_slice_is_refused_or_passed_over(tmp_path):
    write_series(tmp_path / "colour", stack(1), SamplesPerPixel=3)
    assert list(volumes(find_sources(tmp_path, {})[0].files)) == []
    write_series(tmp_path / "frames", stack(1), NumberOfFrames=2)
    with pytest.raises(UnreadableScan, match="several frames in one file, expected one slice a file"):
        list(volumes(find_sources(tmp_path, {})[1].files))
    write_series(tmp_path / "placeless", stack(1), position=False, InstanceNumber=None)
    with pytest.raises(UnreadableScan, match="expected ImagePositionPatient"):
        list(volumes(find_sources(tmp_path, {})[2].files))


def test_dicom_with_broken_pixels_says_so(tmp_path):
    write_series(tmp_path / "eva", stack(1), Rows=500)
    with pytest.raises(UnreadableScan, match="expected pixels that pydicom can decode"):
        list(volumes(find_sources(tmp_path, {})[0].files))


def test_dicom_needs_a_folder_for_each_person(tmp_path):
    write_series(tmp_path, stack(1))
    with pytest.raises(ReconstructionError, match=r"DICOM file IM0000 .* expected a sub-folder for each person"):
        find_sources(tmp_path, {})


def _kspace_only(path):
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((2, 8, 8), np.complex64)


def _two_arrays(path):
    with path.open("wb") as file:
        np.savez(file, a=np.zeros((2, 8, 8)), b=np.zeros((2, 8, 8)))


def _zip_of_text(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "text")


def _pickle(path):
    with path.open("wb") as file:
        np.save(file, np.array([{}], object), allow_pickle=True)


def _four_axes(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 2, 8, 8)))


def _cut_nifti(path):
    nifti = nibabel.Nifti1Image(np.moveaxis(stack(), 0, -1), np.eye(4))
    path.write_bytes(gzip.compress(nifti.to_bytes())[:-2000])


def _colour_nifti(path):
    colours = np.zeros((8, 8, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path.write_bytes(nibabel.Nifti1Image(colours, np.eye(4)).to_bytes())


def _cut_hdf5(path):
    with h5py.File(path, "w") as file:
        file["reference"] = stack()
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_kspace_only, r"found kspace \(2, 8, 8\) of complex64, expected one array"),
        (_two_arrays, r"found a \(2, 8, 8\) of float64, b .* expected one array"),
        (_zip_of_text, "expected one array"),
        (_pickle, "broken"),
        (_four_axes, r"found bad \(2, 2, 8, 8\) of float64, expected one array"),
        (_cut_nifti, "broken"),
        (_colour_nifti, "expected grey values"),
        (_cut_hdf5, "broken"),
    ],
)
def test_files_that_are_no_images_are_refused_by_name(tmp_path, write, message):
    path = tmp_path / "bad"
    write(path)
    with pytest.raises(UnreadableScan, match=rf"^bad.*{message}"):
        list(volumes([path]))


def test_a_folder_without_images_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ReconstructionError, match="no images in"):
        find_sources(tmp_path, {})
    with pytest.raises(ReconstructionError, match="no folder"):
        find_sources(tmp_path / "none", {})


@pytest.fixture
def folder(tmp_path):
    """Four people: ada and ben have a file each, eva two, cid a sub-folder with two."""
    for name in ("ada", "ben", "eva_t1", "eva_t2", "cid/one", "cid/deep/two", ".hidden", "cid/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"{name}.npy", stack(2))
    return tmp_path


PEOPLE = {"eva_t1": "eva", "eva_t2": "eva"}


def test_a_person_is_a_file_a_folder_or_what_the_list_says(folder):
    sources = find_sources(folder, PEOPLE)
    assert [(source.name, source.person, len(source.files)) for source in sources] == [
        ("ada", "ada", 1),
        ("ben", "ben", 1),
        ("cid", "cid", 2),
        ("eva_t1", "eva", 1),
        ("eva_t2", "eva", 1),
    ]
    with pytest.raises(ReconstructionError, match="--people: found dan, expected names among ada, ben"):
        find_sources(folder, {"dan": "dan"})


@pytest.mark.parametrize("held_out", [["eva"], ["eva_t1", "eva_t2"]])
def test_all_files_of_a_person_are_kept_out_together(folder, held_out):
    split = split_by_person(find_sources(folder, PEOPLE), held_out, ["ada"])
    assert [source.name for source in split.training] == ["ben", "cid"]
    assert [source.name for source in split.validation] == ["eva_t1", "eva_t2"]


@pytest.mark.parametrize(
    ("held_out", "left_out", "message"),
    [
        (["eva_t1"], [], "found files of eva, while eva_t2 of the same person .* expected the person eva"),
        (["dan"], [], "--hold-out: found dan, expected names among ada, ben, cid, eva, eva_t1, eva_t2"),
        (["ada"], ["ada"], "--hold-out: found ada, expected"),
        ([], ["dan"], "--leave-out: found dan"),
        (["ada", "ben", "cid", "eva"], [], "found all people: ada, ben, cid, eva, expected some to train on"),
        ([], ["ada", "ben", "cid"], "found eva, expected two people or more, because one must be kept out"),
        ([], ["ada", "ben", "cid", "eva"], "found nobody, expected two people"),
    ],
)
def test_splits_that_cannot_be_are_refused(folder, held_out, left_out, message):
    with pytest.raises(ReconstructionError, match=message):
        split_by_person(find_sources(folder, PEOPLE), held_out, left_out)


def test_a_tenth_is_kept_out_by_seed_when_nobody_is_named(folder):
    sources = find_sources(folder, PEOPLE)
    drawn = [split_by_person(sources, [], seed=seed) for seed in range(20)]
    assert all(len({source.person for source in split.validation}) == 1 for split in drawn)
    assert all(not {s.person for s in split.validation} & {s.person for s in split.training} for split in drawn)
    assert {split.validation[0].person for split in drawn} == {"ada", "ben", "cid", "eva"}
    assert drawn[3] == split_by_person(sources, [], seed=3)


def test_a_source_weighs_what_its_terms_say_however_many_slices_it_has(folder):
    images = load_images(find_sources(folder, PEOPLE), Modality.MRI, {"cid": {"weight": 3}})
    weights = {name: sum(image.weight for image in images if image.source == name) for name in ("ada", "cid")}
    assert weights == pytest.approx({"ada": 1, "cid": 3})
    assert sum(image.source == "cid" for image in images) == 4


def test_small_and_empty_slices_leave_nothing(tmp_path):
    np.save(tmp_path / "small.npy", stack(2, 60))
    np.save(tmp_path / "empty.npy", 0 * stack(2))
    for modality in Modality:
        with pytest.raises(ReconstructionError, match="found no slice fit for use in empty, small, expected 96 pixels"):
            load_images(find_sources(tmp_path, {}), modality)


def test_voxels_that_are_cubes_are_cut_along_three_axes_unless_kept_out():
    values = np.ones((100, 110, 120), np.float32)
    cubes = Volume(values, (1.0, 1.1, 1.2))
    assert len(volume_slices(cubes, Modality.MRI)) == 50 + 55 + 60
    assert len(volume_slices(cubes, Modality.MRI, only_native=True)) == 60
    assert len(volume_slices(Volume(values, (1.0, 1.0, 3.0)), Modality.MRI)) == 60
    assert len(volume_slices(Volume(values, None), Modality.MRI)) == 60


def test_hounsfield_units_put_water_at_one_half():
    volume = np.array([-1000.0, 0.0, 1000.0, 5000.0], np.float32)
    assert normalise(volume, Modality.CT).tolist() == [0.0, 0.5, 1.0, 2.0]


def test_brightness_of_mri_does_not_matter():
    volume = np.linspace(0, 1, 1000, dtype=np.float32)
    assert np.allclose(normalise(volume, Modality.MRI), normalise(4000 * volume, Modality.MRI), atol=1e-5)
