"""Results as BART's .cfl and as ISMRMRD images: values, geometry and order as other software reads them."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.test_dicom import CT, MRI, slices
from tests.core.test_result_geometry import FRAMES, images, oblique
from tests.support.mrd_maker import h5py
from udig_recon.core.formats.containers.cfl_arrays import parse_header
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, write_result

import ismrmrd  # isort: skip  # the HDF5 library that reads files from outside comes first


def write(path: Path, name: str, numbers: list[int], told: dict[str, Any]) -> Path:
    made = slices(told["modality"], max(numbers) + 1)
    info = ResultInfo(len(numbers), {**told, "slice_numbers": numbers})
    write_result([made[number] for number in numbers], info, {path: OUTPUTS[name]})
    return path


def read_cfl(path: Path, folder: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    dimensions = parse_header("hdr", (folder / "reconstruction.hdr").read_text())
    return np.fromfile(folder / "reconstruction.cfl", "<c8").reshape(dimensions, order="F")


def test_cfl_holds_each_frame_at_its_place_among_barts_dimensions(tmp_path: Path) -> None:
    path = write(tmp_path / "r.cfl.zip", "cfl", list(range(12)), {**MRI, "frames": FRAMES})
    values = read_cfl(path, tmp_path)
    assert values.shape == (20, 24, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 3, 1, 1)
    volume = images(12)
    for number, frame in enumerate(FRAMES):
        place = values[:, :, 0, 0, 0, frame["contrast"], 0, 0, 0, 0, frame["repetition"], 0, 0, frame["slice"], 0, 0]
        np.testing.assert_array_equal(place.T, volume[number].astype(np.complex64))
    told = json.loads((tmp_path / "reconstruction.json").read_text())
    assert told["parameters"] == MRI["parameters"]
    np.testing.assert_allclose(told["affine"], oblique(-1))
    if shutil.which("bart") is not None:
        said = subprocess.run(["bart", "show", "-m", tmp_path / "reconstruction"], capture_output=True, text=True)
        assert "20\t24" in said.stdout


def test_cfl_of_incomplete_frames_and_of_ct_keeps_the_order_of_the_result(tmp_path: Path) -> None:
    incomplete = write(tmp_path / "r.cfl.zip", "cfl", [3, 1, 0], {**MRI, "frames": FRAMES[:3]})
    values = read_cfl(incomplete, tmp_path)[:, :, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, :, 0, 0]
    np.testing.assert_array_equal(values.T, images(4)[[3, 1, 0]].transpose(0, 1, 2).astype(np.complex64))
    values = read_cfl(write(tmp_path / "ct.cfl.zip", "cfl", [0], CT), tmp_path)
    np.testing.assert_array_equal(values.reshape(20, 24).T, slices("ct", 1)[0].image.astype(np.complex64))


def test_mrd_images_are_read_by_ismrmrd_with_their_place_and_counters(tmp_path: Path) -> None:
    path = write(tmp_path / "r.mrd", "mrd", list(range(12)), {**MRI, "frames": FRAMES})
    volume, affine = images(12), oblique(-1)
    with ismrmrd.File(path, mode="r") as file:
        assert set(file.find_images()) == {
            f"dataset/{name}" for name in ("image", "image_complex", "standard_deviation", "hallucination_map")
        }
        for number, (image, frame) in enumerate(zip(file["dataset/image"].images, FRAMES, strict=True)):
            np.testing.assert_array_equal(image.data[0, 0], volume[number])
            assert {name: getattr(image, name) for name in frame} == frame
            steps = np.stack([image.read_dir, image.phase_dir, image.slice_dir], 1)
            sizes = np.array(image.field_of_view) / (20, 24, 1)
            np.testing.assert_allclose(steps * sizes, affine[:3, :3], atol=1e-4)
            np.testing.assert_allclose(image.position, (affine @ (10, 12, frame["slice"], 1))[:3], atol=1e-3)
            assert image.meta["Rating"] == "check: results differ between seeds"
            assert json.loads(image.meta["parameters"]) == MRI["parameters"]


def test_complex_mrd_images_are_pairs_as_ismrmrd_stores_them(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "r.mrd", "mrd", [0, 1], MRI)) as file:
        group = file["dataset/image_complex"]
        pairs = group["data"].astype([("real", "<f4"), ("imag", "<f4")])[:]
        assert {head["data_type"] for head in group["header"][:]} == {7}
    np.testing.assert_array_equal(pairs["real"][:, 0, 0] + 1j * pairs["imag"][:, 0, 0], images(2).astype(np.complex64))


def test_mrd_images_without_a_place_say_none(tmp_path: Path) -> None:
    told = {key: value for key, value in MRI.items() if key not in ("affine", "slice_spacing_mm")}
    with h5py.File(write(tmp_path / "r.mrd", "mrd", [2], told)) as file:
        (head,) = file["dataset/image/header"][:]
    assert (head["slice"], head["read_dir"].tolist(), head["field_of_view"].tolist()) == (2, [0, 0, 0], [15, 30, 0])


@pytest.mark.parametrize("name", ["cfl", "mrd"])
def test_the_same_result_is_the_same_bytes(name: str, tmp_path: Path) -> None:
    as_text = {**MRI, "parameters": json.dumps(MRI["parameters"])}
    first, second = (write(tmp_path / each, name, [0, 1], told) for each, told in (("first", MRI), ("second", as_text)))
    assert first.read_bytes() == second.read_bytes()
