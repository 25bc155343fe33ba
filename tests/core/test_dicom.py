"""DICOM objects of a result: valid for a PACS, in their place in the patient, with their values, and without names."""

import io
import itertools
import json
import shutil
import subprocess
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage

from tests.core.test_result_geometry import ACROSS, FRAMES, SPACING, images, oblique
from tests.support import mrd_maker
from udig_recon.core import open_scan
from udig_recon.core.cli.main import main
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.sandbox.client import Prober
from udig_recon.core.identity import KEYWORDS, Identity
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.dicom.geometry import SliceGeometry
from udig_recon.core.results.dicom.identify import identify_archive, identify_object
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, write_result
from udig_recon.core.results.store import SliceResult

JOB = "019387ab-1234-7abc-8def-0123456789ab"
WATER = 0.0193
ATTRIBUTES: dict[str, Any] = {
    "job_id": JOB,
    "pixel_spacing_mm": list(SPACING),
    "slice_spacing_mm": ACROSS,
    "parameters": {"method": "udig_dip", "preset": "standard"},
    "seed": 1,
    "seeds": 2,
    "prior": "brain",
    "prior_sha256": "ab" * 32,
    "software": "udig-recon 1.0",
}
MRI: dict[str, Any] = {**ATTRIBUTES, "modality": "mri", "affine": oblique(-1).tolist(), "slice_numbers": [0, 1, 2, 3]}
CT: dict[str, Any] = {**ATTRIBUTES, "modality": "ct", "water_attenuation_per_mm": WATER}
RATING = Rating("check", ("results differ between seeds",))


def slices(modality: str, count: int) -> list[SliceResult]:
    """Slices with a reference, a deviation and a hallucination map; of CT in 1/mm, with something below zero."""
    volume = images(count)
    if modality == "ct":
        volume = volume / volume.max() * np.float32(2 * WATER) - np.float32(0.001)
    return [
        SliceResult(
            image=image,
            image_complex=image.astype(np.complex64) if modality == "mri" else None,
            direct=image * np.float32(0.9),
            reference=image if modality == "mri" else None,
            curves={},
            deviation=np.abs(image) / 20,
            hallucination=np.clip(np.abs(image) / np.abs(image).max() * 0.3, 0, 1),
            rating=RATING,
        )
        for image in volume
    ]


def write(path: Path, attributes: Mapping[str, Any], name: str = "dicom") -> Path:
    numbers = attributes.get("slice_numbers", range(4))
    made = slices(attributes["modality"], max(numbers) + 1)
    chosen = [made[number] for number in numbers]
    write_result(chosen, ResultInfo(len(chosen), attributes), {path: OUTPUTS[name]})
    return path


def objects(archive: Path | bytes) -> dict[str, pydicom.Dataset]:
    """The objects of an archive by their names in it."""
    with zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as opened:
        return {name: pydicom.dcmread(io.BytesIO(opened.read(name))) for name in opened.namelist()}


def series(found: Mapping[str, pydicom.Dataset], name: str) -> list[pydicom.Dataset]:
    return [data for path, data in found.items() if path.startswith(f"{name}/")]


def mapped(data: pydicom.Dataset) -> np.ndarray:
    """Pixels in the unit of the real world value mapping."""
    (mapping,) = data.RealWorldValueMappingSequence
    return data.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept


RESULTS = {
    "mri": MRI,
    "frames": {**MRI, "frames": FRAMES[:4]},
    "ct": CT,
    "ct without water": {**CT, "water_attenuation_per_mm": None},
    "mri without a place": {**MRI, "affine": None, "slice_spacing_mm": None, "job_id": None, "seeds": 1},
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dicom")
    told = {name: {key: value for key, value in each.items() if value is not None} for name, each in RESULTS.items()}
    return {name: write(folder / f"{name}.dicom.zip", each) for name, each in told.items()}


def errors_of_validators(archive: Path, folder: Path) -> list[str]:
    """What dciodvfy says of each object of an archive, and dcentvfy of all of them, without warnings."""
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    files = sorted(folder.rglob("*.dcm"))
    said = [subprocess.run(["dciodvfy", "-new", each], capture_output=True, text=True).stderr for each in files]
    said.append(subprocess.run(["dcentvfy", *files], capture_output=True, text=True).stderr)
    return [line for each in said for line in each.splitlines() if line.startswith("Error")]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="Debian's dicom3tools is not installed")
@pytest.mark.parametrize("name", RESULTS)
def test_validators_find_no_error_in_any_object(name: str, archives: dict[str, Path], tmp_path: Path) -> None:
    assert errors_of_validators(archives[name], tmp_path) == []


@pytest.mark.parametrize("handed", [1, -1], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [3, 1], [0, 1, 4]], ids=str)
def test_each_pixel_keeps_its_value_and_its_place(numbers: list[int], handed: int, tmp_path: Path) -> None:
    affine = oblique(handed)
    path = write(tmp_path / "r.dicom.zip", {**MRI, "affine": affine.tolist(), "slice_numbers": numbers})
    volume = images(max(numbers) + 1)
    found = series(objects(path), "reconstruction")
    assert len(found) == len(numbers)
    seen = []
    for data in found:
        pixels = mapped(data)
        first, second = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, data.PixelSpacing)
        corner = np.array(data.ImagePositionPatient, float)
        rows, columns = np.indices(pixels.shape)
        places = corner + rows[..., None] * down * second + columns[..., None] * across * first
        at = np.linalg.inv(affine) @ np.concatenate([places, np.ones((*pixels.shape, 1))], -1)[..., None]
        x, y, z = np.rint(at[..., :3, 0]).astype(int).reshape(-1, 3).T
        np.testing.assert_allclose(at[..., :3, 0].reshape(-1, 3), np.stack([x, y, z], -1), atol=0.002)  # < 0.01 mm
        (number,) = set(z)
        seen.append(number)
        assert len(set(zip(x, y, strict=True))) == pixels.size
        expected = volume[number][y, x].reshape(pixels.shape)
        np.testing.assert_allclose(pixels, expected, atol=volume.max() / 65535)
        assert data.SOPClassUID == MRImageStorage
    assert sorted(seen) == sorted(numbers)
    (spacing,) = {data.get("SpacingBetweenSlices") for data in found}
    even = numbers != [0, 1, 4]
    assert spacing == (pytest.approx(ACROSS * abs(numbers[1] - numbers[0])) if even else None)
    depths = [
        np.cross(*np.array(d.ImageOrientationPatient, float).reshape(2, 3)) @ d.ImagePositionPatient for d in found
    ]
    assert depths == sorted(depths)


def test_nifti_and_dicom_of_the_same_result_agree(tmp_path: Path) -> None:
    told = {**MRI, "slice_numbers": [0, 1, 2]}
    read: Any = nibabel.load(write(tmp_path / "r.nii.gz", told, "nifti"))
    to_ras = np.diag([-1.0, -1.0, 1.0])
    values, inverse = read.get_fdata(), np.linalg.inv(read.affine)
    for data in series(objects(write(tmp_path / "r.dicom.zip", told)), "reconstruction"):
        first, second = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        for row, column in ((0, 0), (7, 3), (data.Rows - 1, data.Columns - 1)):
            steps = row * float(data.PixelSpacing[0]) * second + column * float(data.PixelSpacing[1]) * first
            voxel = inverse @ np.append(to_ras @ (np.array(data.ImagePositionPatient, float) + steps), 1)
            place = np.rint(voxel[:3]).astype(int)
            assert np.abs(read.affine[:3, :3] @ (voxel[:3] - place)).max() < 0.01
            assert mapped(data)[row, column] == pytest.approx(values[tuple(place)], abs=values.max() / 65535)


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)), ids=str)
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
def test_images_are_turned_to_the_view_of_radiologists(axes: Sequence[int], signs: Sequence[int]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(axes)] * signs
    view = SliceGeometry.of(affine)
    expected = {2: ([1, 0, 0], [0, 1, 0]), 1: ([1, 0, 0], [0, 0, -1]), 0: ([0, 1, 0], [0, 0, -1])}[axes[2]]
    np.testing.assert_array_equal(view.row_direction, expected[0])
    np.testing.assert_array_equal(view.column_direction, expected[1])
    image = np.arange(12).reshape(3, 4)
    y, x = divmod(int(view.view(image)[0, 0]), 4)
    np.testing.assert_array_equal(view.position(image.shape, 2), (affine @ (x, y, 2, 1))[:3])


def test_ct_is_in_hounsfield_units_by_the_attenuation_of_water(archives: dict[str, Path]) -> None:
    found = objects(archives["ct"])
    volume = [each.image for each in slices("ct", 4)]
    for data, image in zip(series(found, "reconstruction"), volume, strict=True):
        assert (data.SOPClassUID, data.RescaleType, data.Modality) == (CTImageStorage, "HU", "CT")
        units = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        np.testing.assert_allclose(units, 1000 * (image - WATER) / WATER, atol=0.51)
    water, air = 1000 * (np.array([WATER, 0]) - WATER) / WATER
    assert (water, air) == (0, -1000)
    deviation = series(found, "deviation")[0]
    units = deviation.pixel_array * float(deviation.RescaleSlope) + float(deviation.RescaleIntercept)
    np.testing.assert_allclose(units, 1000 * np.abs(volume[0]) / 20 / WATER, atol=0.1)
    np.testing.assert_allclose(mapped(deviation), units, atol=1e-6)
    assert deviation.RescaleType == "HU"


def test_ct_without_the_attenuation_of_water_is_no_ct_image(archives: dict[str, Path]) -> None:
    found = objects(archives["ct without water"])
    assert {data.SOPClassUID for data in found.values()} == {SecondaryCaptureImageStorage}
    for data, made in zip(series(found, "reconstruction"), slices("ct", 4), strict=True):
        assert "RescaleSlope" not in data
        np.testing.assert_allclose(mapped(data), made.image, atol=1e-6)
        assert data.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
        assert "not Hounsfield units" in data.ImageComments


def test_maps_are_series_with_real_world_values(archives: dict[str, Path]) -> None:
    found = objects(archives["mri"])
    made = slices("mri", 4)
    for name, scale in (("deviation", 1), ("hallucination", 100)):
        maps = series(found, name)
        assert len(maps) == 4
        for data in maps:
            number = round((np.linalg.inv(oblique(-1)) @ (*map(float, data.ImagePositionPatient), 1))[2])
            expected = SliceGeometry.of(oblique(-1)).view(getattr(made[number], name)) * scale
            np.testing.assert_allclose(mapped(data), expected, atol=scale * 2e-5 * max(1, expected.max()))
    assert maps[0].RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "%"


def test_contrasts_are_series_and_repetitions_are_times_of_a_series(tmp_path: Path) -> None:
    found = objects(write(tmp_path / "r.dicom.zip", {**MRI, "slice_numbers": list(range(12)), "frames": FRAMES}))
    for contrast in (0, 1):
        images_ = series(found, f"reconstruction-contrast-{contrast}")
        assert [data.InstanceNumber for data in images_] == list(range(1, 7))
        assert [data.TemporalPositionIdentifier for data in images_] == [1, 1, 1, 2, 2, 2]
        assert {data.EchoNumbers for data in images_} == {contrast + 1}
        assert len({data.SeriesInstanceUID for data in images_}) == 1
        assert images_[0].ImagePositionPatient == images_[3].ImagePositionPatient
        assert f"contrast {contrast}" in images_[0].SeriesDescription
    assert len({(data.SeriesNumber, data.SeriesInstanceUID) for data in found.values()}) == 8


def test_a_repeat_of_a_job_has_the_same_bytes_and_uids_and_another_job_has_none_of_them(
    archives: dict[str, Path], tmp_path: Path
) -> None:
    again = write(tmp_path / "again.dicom.zip", MRI)
    assert again.read_bytes() == archives["mri"].read_bytes()

    def uids(path: Path) -> list[str]:
        found = objects(path).values()
        shared = {str(each[name]) for each in found for name in ("StudyInstanceUID", "SeriesInstanceUID")}
        return [*shared, *(str(data.SOPInstanceUID) for data in found)]

    first = uids(archives["mri"])
    assert len(set(first)) == len(first) == 1 + 4 + 16
    assert all(len(uid.rpartition(" ")[2]) <= 64 and "2.25." in uid for uid in first)
    other = write(tmp_path / "other.dicom.zip", {**MRI, "job_id": JOB.replace("7abc", "7abd")})
    without_a_job = {key: value for key, value in MRI.items() if key != "job_id"}
    lines = [write(tmp_path / f"{n}.dicom.zip", {**without_a_job, "seed": n}) for n in (1, 2)]
    assert len({*first, *uids(other), *uids(lines[0]), *uids(lines[1])}) == 4 * len(first)


def test_every_object_says_how_it_was_made_and_that_it_is_for_research(archives: dict[str, Path]) -> None:
    for data in itertools.chain.from_iterable(objects(path).values() for path in archives.values()):
        assert data.SeriesDescription.endswith("(research)")
        assert "RESEARCH USE ONLY - NOT FOR DIAGNOSIS" in data.ImageComments
        assert "results differ between seeds" in data.ImageComments
        for told in ("udig_dip", "brain", "abababababab", "udig-recon 1.0", "check: results differ"):
            assert told in data.DerivationDescription
        (equipment,) = data.ContributingEquipmentSequence
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
        assert data.PatientIdentityRemoved == "YES"


def test_the_note_is_burned_into_comparison_pictures_alone(archives: dict[str, Path]) -> None:
    found = objects(archives["mri"])
    for name, data in found.items():
        assert data.BurnedInAnnotation == ("YES" if name.startswith("comparison") else "NO")
    picture = series(found, "comparison")[0]
    assert picture.SOPClassUID == SecondaryCaptureImageStorage
    assert "FrameOfReferenceUID" not in picture
    note = picture.pixel_array[-44:-24]
    assert note[:, :340].max() == 255
    assert note[:, 360:].max() == 0


def test_what_is_assumed_of_the_place_is_said(archives: dict[str, Path]) -> None:
    data = series(objects(archives["mri without a place"]), "reconstruction")[1]
    assert "axial slices seen from the feet are assumed" in data.ImageComments
    assert "1 mm is assumed" in data.ImageComments
    assert [float(each) for each in data.ImagePositionPatient] == [0, 0, 1]
    assert (data.StudyDate, "SpacingBetweenSlices" in data) == ("", False)


def test_values_that_are_no_numbers_and_empty_images_are_zero(tmp_path: Path) -> None:
    image = np.zeros((8, 8), np.float32)
    image[2, 3] = np.nan
    one = SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={}, hallucination=image)
    write_result([one], ResultInfo(1, {}), {tmp_path / "r.dicom.zip": OUTPUTS["dicom"]})
    for name, data in objects(tmp_path / "r.dicom.zip").items():
        assert name.startswith("comparison") or not mapped(data).any()


def test_an_image_that_diverged_is_written_all_the_same(tmp_path: Path) -> None:
    image = np.array([[3e38, -3e38], [1, 2]], np.float32)
    one = SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={}, deviation=abs(image))
    write_result([one], ResultInfo(1, {**CT, "slice_numbers": [0]}), {tmp_path / "r.dicom.zip": OUTPUTS["dicom"]})
    (pixels,) = (data.pixel_array for data in series(objects(tmp_path / "r.dicom.zip"), "reconstruction"))
    assert pixels.max() == 32767
    assert pixels.min() == -32768


def test_more_warnings_than_a_comment_holds_end_it_behind_the_job(tmp_path: Path) -> None:
    path = write(tmp_path / "r.zip", {**MRI, "warnings": [f"warning {number} " + 90 * "x" for number in range(200)]})
    for data in objects(path).values():
        assert len(data.ImageComments) == 10240
        assert f"Job {JOB}" in data.ImageComments


def test_a_slice_without_a_step_to_the_next_tells_no_spacing_of_slices(tmp_path: Path) -> None:
    affine = oblique(-1)
    affine[:3, 2] = 0
    path = write(tmp_path / "r.zip", {**MRI, "affine": affine.tolist(), "slice_numbers": [0]})
    assert all("SpacingBetweenSlices" not in data for data in objects(path).values())


def test_a_large_volume_is_written_with_memory_for_few_slices(tmp_path: Path) -> None:
    image = np.linspace(0, 1, 512 * 512, dtype=np.float32).reshape(512, 512)
    one = SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={})
    tracemalloc.start()
    try:
        write_result((one for _ in range(60)), ResultInfo(60, {}), {tmp_path / "r.dicom.zip": OUTPUTS["dicom"]})
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # all of them are 120 MiB
    finally:
        tracemalloc.stop()


# What names a patient.

IDENTITY = Identity(
    patient_name="Müller^Änne",
    patient_id="PAT-1",
    patient_birth_date="19710203",
    patient_sex="F",
    study_instance_uid="1.2.3.4",
    study_id="S1",
    study_date="20250102",
    accession_number="A-7",
    frame_of_reference_uid="1.2.3.5",
    body_part_examined="BRAIN",
)


def test_identified_objects_are_valid_and_of_the_scans_patient_study_and_frame_of_reference(
    archives: dict[str, Path], tmp_path: Path
) -> None:
    identify_archive(archives["mri"], tmp_path / "identified.zip", IDENTITY)
    before, after = objects(archives["mri"]), objects(tmp_path / "identified.zip")
    assert list(before) == list(after)
    for name, data in after.items():
        assert (str(data.PatientName), data.PatientID, data.PatientBirthDate) == ("Müller^Änne", "PAT-1", "19710203")
        assert (data.StudyInstanceUID, data.StudyDate, data.AccessionNumber) == ("1.2.3.4", "20250102", "A-7")
        assert data.get("FrameOfReferenceUID", "1.2.3.5") == "1.2.3.5"
        assert "PatientIdentityRemoved" not in data
        assert data.SOPInstanceUID != before[name].SOPInstanceUID
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID
        assert data.PixelData == before[name].PixelData
    assert len({data.SOPInstanceUID for data in after.values()}) == len(after)
    again = {name: identify_object(read(archives["mri"], name), IDENTITY) for name in before}
    assert again == {name: read(tmp_path / "identified.zip", name) for name in before}
    if shutil.which("dciodvfy") is not None:
        assert errors_of_validators(tmp_path / "identified.zip", tmp_path / "files") == []


def read(archive: Path, name: str) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        return opened.read(name)


def test_an_identity_without_a_study_still_makes_other_objects(archives: dict[str, Path]) -> None:
    name = "reconstruction/000001.dcm"
    content = read(archives["mri"], name)
    before = pydicom.dcmread(io.BytesIO(content))
    after = pydicom.dcmread(io.BytesIO(identify_object(content, Identity(patient_id="PAT-1"))))
    assert after.PatientID == "PAT-1"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert after[keyword] != before[keyword]


def test_an_object_with_the_number_of_its_study_does_not_claim_to_have_no_identifier(archives: dict[str, Path]) -> None:
    content = read(archives["mri"], "reconstruction/000001.dcm")
    own = Identity(study_instance_uid="1.2.3.4", accession_number="A-7")
    data = pydicom.dcmread(io.BytesIO(identify_object(content, own)))
    assert (data.StudyInstanceUID, data.AccessionNumber) == ("1.2.3.4", "A-7")
    assert "PatientIdentityRemoved" not in data
    assert "DeidentificationMethod" not in data


def test_an_assumed_place_is_never_in_the_patients_frame_of_reference(archives: dict[str, Path]) -> None:
    content = read(archives["mri without a place"], "reconstruction/000001.dcm")
    assert pydicom.dcmread(io.BytesIO(identify_object(content, IDENTITY))).FrameOfReferenceUID != "1.2.3.5"


def test_identified_maps_refer_to_the_identified_images(archives: dict[str, Path], tmp_path: Path) -> None:
    told = {key: value for key, value in RESULTS["mri"].items() if value is not None}
    identify_archive(write(tmp_path / "maps.zip", told, "dicom_maps"), tmp_path / "own_maps.zip", IDENTITY)
    identify_archive(archives["mri"], tmp_path / "own.zip", IDENTITY)
    images = series(objects(tmp_path / "own.zip"), "reconstruction")
    for data in objects(tmp_path / "own_maps.zip").values():
        (referred,) = data.ReferencedSeriesSequence
        assert {referred.SeriesInstanceUID} == {each.SeriesInstanceUID for each in images}
        named = [each.ReferencedSOPInstanceUID for each in referred.ReferencedInstanceSequence]
        for frame in data.PerFrameFunctionalGroupsSequence:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            named.append(source.ReferencedSOPInstanceUID)
        assert set(named) == {each.SOPInstanceUID for each in images}
    if shutil.which("dciodvfy") is not None:
        assert errors_of_validators(tmp_path / "own_maps.zip", tmp_path / "files") == []


NOT_ALLOWED = {
    "patient_size": ["----", "e", "1.8.0", "1" * 17, "nan"],
    "patient_weight": [".", "1e", "+"],
    "patient_birth_date": ["99999999", "19711301", "19710200"],
    "study_time": ["250000", "1260", "123"],
    "patient_name": ["A" * 65, "a=b=c=d", "a\ud800", "a\x85b"],
}


@pytest.mark.parametrize(("name", "value"), [(name, each) for name, every in NOT_ALLOWED.items() for each in every])
def test_what_an_object_could_not_hold_is_no_identity(name: str, value: str) -> None:
    with pytest.raises(UnreadableScan, match=r"found a value that DICOM does not allow, .* of its VR$"):
        Identity.checked({name: value})
    assert not Identity.usable({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("patient_size", each) for each in ("1.8", "+.5", "2.", "-1.25E-3")],
        *[("patient_name", each) for each in ("A" * 64, "Yamada^Tarou=山田^太郎=やまだ^たろう", "A==a")],
        *[("study_time", each) for each in ("23", "2359", "235959.123456")],
        ("patient_birth_date", "20240229"),
    ],
)
def test_what_an_identity_holds_is_written_without_a_warning(name: str, value: str, archives: dict[str, Path]) -> None:
    identity = replace(IDENTITY, **{name: value})
    assert Identity.checked({name: value}) == Identity.usable({name: value})
    content = identify_object(read(archives["mri"], "reconstruction/000001.dcm"), identity)
    assert str(pydicom.dcmread(io.BytesIO(content)).get(KEYWORDS[name])) == value


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    opened = Prober()
    yield opened
    opened.close()


def template(**changes: Any) -> bytes:
    """A DICOM file of the scanner's study."""
    data = pydicom.Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, "1.2.9"
    for name, value in asdict(IDENTITY).items():
        if value:
            setattr(data, KEYWORDS[name], value)
    for name, value in changes.items():
        setattr(data, name, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


PIXELS = b"\xe0\x7f\x10\x00OW\x00\x00" + (2 << 20).to_bytes(4, "little") + bytes(2 << 20)


def test_a_template_gives_patient_study_and_frame_of_reference(prober: Prober) -> None:
    assert prober.read_template(template()) == IDENTITY
    assert prober.read_template((template() + PIXELS)[: 1 << 20]) == IDENTITY
    japanese = prober.read_template(template(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="A=山田^太郎"))
    assert japanese.patient_name == "A=山田^太郎"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = prober.read_template(template(StudyInstanceUID="1.2.not", PatientBirthDate="1971", PatientSex="x"))
    assert (wrong.study_instance_uid, wrong.patient_birth_date, wrong.patient_sex) == ("", "", "")
    assert wrong.patient_id == "PAT-1"


NESTED = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
HOSTILE = {
    "text": b"PatientName: A",
    "nothing": b"",
    "preamble alone": bytes(128) + b"DICM",
    "cut off": template()[:300],
    "endless lengths": bytes(128) + b"DICM" + b"\x08\x00\x05\x00UN\x00\x00\xff\xff\xff\x7f" * 50,
    "nested sequences": bytes(128) + b"DICM" + NESTED * 5000,
    "nobody": template(PatientID="", PatientName="^", StudyInstanceUID=""),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_without_a_word_of_it(content: bytes, prober: Prober) -> None:
    with pytest.raises(UnreadableScan, match=r"^template: found .*, expected a DICOM file of the study") as refused:
        prober.read_template(content)
    assert refused.value.field == "template"


def test_a_template_that_takes_too_long_is_not_called_damaged(prober: Prober) -> None:
    with pytest.raises(UnreadableScan, match="longer than 0 s to examine") as refused:
        prober.read_template(template(), seconds=0)
    assert refused.value.expected == "a DICOM file of the study that the images are to belong to"


def test_an_identity_says_nothing_by_itself_and_comes_back_from_json() -> None:
    assert "Müller" not in f"{IDENTITY} {IDENTITY!r}"
    assert Identity.from_json(IDENTITY.to_json()) == IDENTITY
    assert not Identity()
    too_long = json.dumps({"patient_id": 65 * "x"})
    backslash = json.dumps({"patient_id": "a\\b"})
    for wrong in (backslash, too_long, '{"other": "x"}', "[]", '{"patient_id": 1}', "{"):
        with pytest.raises(UnreadableScan):
            Identity.from_json(wrong)


def test_a_raw_file_keeps_its_identity_in_its_prepared_form_alone(tmp_path: Path) -> None:
    made = mrd_maker.make(mrd_maker.Plan())
    told = (
        "<subjectInformation><patientName>Doe^Jane</patientName><patientID>7</patientID>"
        "<patientBirthdate>1971-02-03</patientBirthdate></subjectInformation>"
        "<studyInformation><studyDate>2025-01-02</studyDate><studyTime>12:30:01</studyTime>"
        "<studyInstanceUID>1.2.3</studyInstanceUID></studyInformation>"
        "<measurementInformation><patientPosition>HFS</patientPosition><frameOfReferenceUID>1.2.4</frameOfReferenceUID></measurementInformation>"
    )
    xml = made.xml.replace("<experimentalConditions>", f"{told}<experimentalConditions>", 1)
    path = mrd_maker.write(tmp_path / "scan.h5", replace(made, xml=xml))
    with open_scan(path) as scan:
        assert scan.identity == Identity(
            patient_name="Doe^Jane", patient_id="7", patient_birth_date="19710203", study_date="20250102",
            study_time="123001", study_instance_uid="1.2.3", frame_of_reference_uid="1.2.4",
        )  # fmt: skip
        assert "Doe" not in str(scan.header)


# Parametric Maps.


@pytest.mark.parametrize("name", ["frames", "ct", "mri without a place"])
def test_parametric_maps_hold_the_values_themselves_and_validators_find_no_error(name: str, tmp_path: Path) -> None:
    told = {key: value for key, value in RESULTS[name].items() if value is not None}
    path = write(tmp_path / "r.zip", told, "dicom_maps")
    assert write(tmp_path / "again.zip", told, "dicom_maps").read_bytes() == path.read_bytes()
    found = objects(path)
    assert len(found) == (3 * 4 if name == "frames" else 3)
    made = slices(told["modality"], 4)
    affine = np.array(told.get("affine", np.diag([SPACING[1], SPACING[0], told.get("slice_spacing_mm", 1), 1])))
    for path_, data in found.items():
        kind = path_.partition("/")[0].partition("-")[0]
        pixels = np.frombuffer(data.FloatPixelData, "<f4").reshape(data.NumberOfFrames, data.Rows, data.Columns)
        for frame, group in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
            corner = [*map(float, group.PlanePositionSequence[0].ImagePositionPatient), 1]
            place = round((np.linalg.inv(affine) @ corner)[2])
            contrast, repetition = int("contrast-1" in path_), int(path_.endswith("2.dcm"))
            number = 2 * contrast + repetition if name == "frames" else place
            values = getattr(made[number], "image" if kind == "reconstruction" else kind)
            if name == "ct" and kind != "hallucination":
                values = values * (1000 / WATER) - (1000 if kind == "reconstruction" else 0)
            np.testing.assert_allclose(frame, SliceGeometry.of(affine).view(values), rtol=1e-5, atol=1e-3)
    assert {data.ContentQualification for data in found.values()} == {"RESEARCH"}
    if shutil.which("dciodvfy") is not None:
        assert errors_of_validators(path, tmp_path / "files") == []


# The command line.


def test_the_command_writes_a_zip_or_a_folder_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = mrd_maker.write(tmp_path / "scan.h5", mrd_maker.make(mrd_maker.Plan()))
    (tmp_path / "t.dcm").write_bytes(template())
    command = ["recon", str(scan), "--method", "zero_filled", "-o"]
    with_template = ["--template", str(tmp_path / "t.dcm")]
    assert main([*command, str(tmp_path / "r.dicom.zip")]) == 0
    assert main([*command, str(tmp_path / "r.dicom"), *with_template]) == 0
    (plain,) = series(objects(tmp_path / "r.dicom.zip"), "reconstruction")
    own = pydicom.dcmread(tmp_path / "r.dicom" / "reconstruction" / "000001.dcm")
    assert plain.PatientIdentityRemoved == "YES"
    assert (own.PatientID, own.StudyInstanceUID) == ("PAT-1", "1.2.3.4")
    assert own.PixelData == plain.PixelData
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.dicom", "r.dicom.zip", "scan.h5", "t.dcm"]
    capsys.readouterr()
    assert main([*command, str(tmp_path / "r.dicom")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "r.nii.gz"), *with_template]) == 2
    assert "--template: found an output of format nifti" in capsys.readouterr().err
    (tmp_path / "t.dcm").write_bytes(b"no DICOM")
    assert main([*command, str(tmp_path / "s.dicom"), *with_template]) == 2
    assert "template: found no DICOM file" in capsys.readouterr().err
