"""DICOM-CT-PD: rebinned fans are those of the truth, images are the phantom's, what cannot be is refused in words."""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from tests.support.ct_pd_maker import WATER, CtPdScan, files, slice_image, zipped
from udig_recon.core.errors import ReconstructionError, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.inputs import ct_pd
from udig_recon.core.problem import slice_problem

SMALL = CtPdScan(columns=24, rows=4, column_mm=8.0, row_mm=4.0, center=(12.75, 2.5), views_a_turn=24, turns=2.5)
MADE = files(SMALL)
Change = Callable[[int, pydicom.Dataset], None]


@pytest.fixture(scope="module")
def helix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three turns of sixteen rows."""
    path = tmp_path_factory.mktemp("ct") / "helix.zip"
    path.write_bytes(zipped(files(CtPdScan())))
    return path


def written(tmp_path: Path, scan: CtPdScan, change: Change | None = None) -> Path:
    path = tmp_path / "scan.zip"
    path.write_bytes(zipped(files(scan, change)))
    return path


def places(path: Path) -> np.ndarray:
    """Where the slices lie, by the warning that tells it."""
    header = probe(path)
    told = next(each for each in header.warnings if "single-slice rebinning" in each)
    assert header.slice_spacing_mm is not None
    first, last = (
        float(part.split()[-1]) for part in told.removesuffix(" mm (single-slice rebinning)").split(" to ")[-2:]
    )
    return (first + last) / 2 + header.slice_spacing_mm * (np.arange(header.slices) - (header.slices - 1) / 2)


def error(path: Path, scan: CtPdScan, number: int) -> float:
    """Of the sinogram of a slice against that of the fan in its plane."""
    acquisition = read(path, [number])
    true = scan.fan_sinogram(acquisition.angles, places(path)[number])
    return float(np.linalg.norm(acquisition.sinogram[0] - true) / np.linalg.norm(true))


def test_a_helix_becomes_fans_in_the_planes_of_its_slices(helix: Path) -> None:
    header = probe(helix)
    assert (header.format, header.geometry, header.views, header.detectors) == ("dicom_ct_pd", "fan_curved", 96, 96)
    assert (header.source_origin_mm, header.source_detector_mm) == pytest.approx((595.0, 1085.6))
    assert header.rotation_center == pytest.approx(96 - 48.75)
    assert header.water_attenuation_per_mm == WATER
    assert header.slices == 19
    assert error(helix, CtPdScan(), 0) < 1e-3
    assert error(helix, CtPdScan(), 9) < 2e-4
    assert error(helix, CtPdScan(), 18) < 1e-3


@pytest.mark.parametrize(
    "scan",
    [
        CtPdScan(direction=-1, feed_mm=14.0),
        CtPdScan(feed_mm=-10.0, implicit=False),
        CtPdScan(feed_mm=0.0, turns=1.0),
        CtPdScan(feed_mm=0.0, turns=1.0, rows=1, center=(48.75, 1.0)),
        CtPdScan(first_angle=2.0, turns=2.7),
    ],
    ids=["the other way round", "down", "axial", "one row", "a part of a turn more"],
)
def test_any_way_of_the_source_gives_the_fans_of_the_truth(tmp_path: Path, scan: CtPdScan) -> None:
    path = written(tmp_path, scan)
    assert error(path, scan, probe(path).slices // 2) < 4e-4


@pytest.mark.parametrize(
    ("shifts", "most"),
    [
        (((0.0, 0.0, 0.5), (0.0, 0.0, -0.5)), 4e-4),
        (((0.0, 0.001, 0.0), (0.0, -0.001, 0.0)), 0.015),
        (((-2.0, 0.0008, 0.3), (2.0, 0.0008, -0.3), (-2.0, -0.0008, 0.3), (2.0, -0.0008, -0.3)), 0.015),
    ],
    ids=["along the axis", "in the plane", "both"],
)
def test_a_flying_focal_spot_is_where_it_was(
    tmp_path: Path, shifts: tuple[tuple[float, float, float], ...], most: float
) -> None:
    scan = CtPdScan(shifts=shifts, views_a_turn=96 * len(shifts) // 2, turns=2.2)
    path = written(tmp_path, scan)
    acquisition = read(path, [probe(path).slices // 2])
    assert len(acquisition.angles) == scan.views_a_turn
    found = error(path, scan, probe(path).slices // 2)
    assert found < most


def test_the_image_is_the_phantom_the_right_way_round(helix: Path) -> None:
    header = probe(helix)
    number = 9
    problem = slice_problem(read(helix, [number]), 0, torch.device("cpu"))
    image = problem.direct_image
    truth = slice_image(places(helix)[number], header.matrix[0], header.pixel_spacing_mm[0])
    assert np.linalg.norm(image - truth) / np.linalg.norm(truth) < 0.12
    for mirrored in (truth[::-1], truth[:, ::-1], truth.T):
        assert np.linalg.norm(image - mirrored) / np.linalg.norm(truth) > 0.2
    inside = np.hypot(*(np.indices(truth.shape) - (header.matrix[0] - 1) / 2)) < 4
    assert image[inside].mean() == pytest.approx(WATER, rel=0.03)


def test_without_rebinning_the_fans_would_be_wrong(helix: Path) -> None:
    scan = CtPdScan()
    acquisition = read(helix, [0])
    other = scan.fan_sinogram(acquisition.angles, places(helix)[0] + 10)
    true = scan.fan_sinogram(acquisition.angles, places(helix)[0])
    assert np.linalg.norm(other - true) / np.linalg.norm(true) > 5 * error(helix, scan, 0)


def test_nifti_volumes_are_in_hounsfield_units(helix: Path, tmp_path: Path) -> None:
    from udig_recon.core.cli.main import main

    out = tmp_path / "out.nii.gz"
    assert main(["recon", str(helix), "-o", str(out), "--method", "fbp", "--slices", "9"]) == 0
    volume = nibabel.load(out)
    values = volume.get_fdata()[..., 0]
    middle = values.shape[0] // 2
    assert abs(values[middle - 3 : middle + 3, middle - 3 : middle + 3].mean()) < 40
    assert values[:4, :4].mean() == pytest.approx(-1000, abs=150)  # streaks of few views
    assert (volume.dataobj.slope, volume.dataobj.inter) == pytest.approx((1000 / WATER, -1000))


def spoilt(tmp_path: Path, change: Change) -> ReconstructionError:
    """What is said of the scan after this change of its files."""
    path = written(tmp_path, SMALL, change)
    with pytest.raises(ReconstructionError) as caught:
        probe(path)
    return caught.value


def put(tag: int, vr: str, value: Any, view: int | None = None) -> Change:
    def change(number: int, data: pydicom.Dataset) -> None:
        if view is None or number == view:
            if tag in data:
                del data[tag]
            if value is not None:
                data.add_new(tag, vr, value)

    return change


LIES: dict[str, tuple[Change, str]] = {
    "no angle": (put(0x70311001, "FL", None, 7), "(7031,1001): found none"),
    "an angle that is none": (put(0x70311001, "FL", math.nan, 7), "(7031,1001)"),
    "an angle elsewhere": (put(0x70311001, "FL", 2.0, 7), "were files left out?"),
    "no z": (put(0x70311002, "FL", None), "(7031,1002)"),
    "a far z": (put(0x70311002, "FL", 1e9, 3), "(7031,1002)"),
    "no radius": (put(0x70311003, "FL", 0.0), "(7031,1003)"),
    "the axis behind the detector": (put(0x70311003, "FL", 2000.0), "(7031,1003)"),
    "no distance": (put(0x70311031, "FL", None), "(7031,1031)"),
    "no centre": (put(0x70311033, "FL", [12.75]), "(7031,1033)"),
    "a centre elsewhere": (put(0x70311033, "FL", [500.0, 2.5]), "a column of 24 and a row of 4"),
    "too many rows": (put(0x70291010, "US", 5), "columns and rows of the detector"),
    "no columns": (put(0x70291011, "US", 0), "(7029,1011)"),
    "no spacing": (put(0x70291002, "FL", 0.0), "(7029,1002)"),
    "another detector": (put(0x70291006, "FL", 3.0, 5), "views of several detectors"),
    "two of one number": (put(0x00200013, "IS", 4, 8), "two views of one number"),
    "a flat panel": (put(0x7029100B, "CS", "FLAT"), "cone beam"),
    "8 bits": (put(0x00280100, "US", 8), "unsigned 16-bit"),
    "no slope": (put(0x00281053, "DS", "0"), "RescaleSlope"),
    "water in 1/cm": (put(0x70411001, "DS", "0.193"), "(7041,1001)"),
    "short pixels": (put(0x7FE00010, "OW", bytes(40), 6), "bytes"),
    "a spot that flies anywhere": (
        lambda number, data: put(0x7033100D, "FL", number / 3)(number, data),
        "places of the focal spot",
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_a_scan_that_lies_is_refused_in_words(tmp_path: Path, case: str) -> None:
    change, expected = LIES[case]
    assert expected in str(spoilt(tmp_path, change))


def refused(tmp_path: Path, made: dict[str, bytes]) -> ReconstructionError:
    path = tmp_path / "scan.zip"
    path.write_bytes(zipped(made))
    with pytest.raises(ReconstructionError) as caught:
        probe(path)
    return caught.value


def test_a_series_with_views_left_out_is_refused(tmp_path: Path) -> None:
    some = {name: content for index, (name, content) in enumerate(MADE.items()) if index % 11}
    assert "were files left out?" in str(refused(tmp_path, some))
    assert "views" in str(refused(tmp_path, dict(list(MADE.items())[:2])))
    assert "a helix of two turns" in str(refused(tmp_path, dict(list(MADE.items())[:20])))


def test_images_and_panels_are_refused_by_name(tmp_path: Path) -> None:
    def plain(number: int, data: pydicom.Dataset) -> None:
        for element in list(data):
            if element.tag.is_private:
                del data[element.tag]

    def panel(number: int, data: pydicom.Dataset) -> None:
        plain(number, data)
        data.Modality = "XA"

    for change, expected in ((plain, "no projections"), (panel, "cone-beam projections (DICOM of modality XA)")):
        with pytest.raises(UnsupportedScan, match=expected.replace("(", r"\(").replace(")", r"\)")):
            probe(written(tmp_path, SMALL, change))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = zipped(MADE)
    path = tmp_path / "scan.zip"
    for content in (whole[:-40], whole[: len(whole) // 2], whole[:2000] + bytes(200) + whole[2200:]):
        path.write_bytes(content)
        with pytest.raises(ReconstructionError):
            probe(path)
    cut = {**MADE, "series/1-0005.dcm": MADE["series/1-0005.dcm"][:300]}
    refused(tmp_path, cut)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MADE.items():
            archive.writestr(name, content)
        archive.writestr("series/1-9999.dcm", MADE["series/1-0001.dcm"] + bytes(64 << 20))
    with pytest.raises(UnreadableScan, match="at most 8388608 bytes a file"):
        probe(path)


def test_the_sample_that_readers_are_warmed_with_is_a_scan(tmp_path: Path) -> None:
    (content,) = ct_pd.FORMAT.samples()
    path = tmp_path / "scan.zip"
    path.write_bytes(content)
    assert probe(path).views == 16
    assert read(path, [0]).sinogram == pytest.approx(0.009, rel=1e-4)
