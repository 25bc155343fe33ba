import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support import scans
from tests.support.results import write_hdf5
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.files import atomic as files
from udig_recon.core.formats import probe
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult


def slice_results(slices: int = 3, *, mri: bool = True) -> list[SliceResult]:
    return [
        SliceResult(
            image=image,
            image_complex=(image * np.exp(1j)).astype(np.complex64) if mri else None,
            direct=image * 0.5,
            reference=image if mri else None,
            curves={"psnr": [20.0 + index] * (index + 1), "loss": [1.0]},
        )
        for index, image in enumerate(scans.phantom(slices, 24)[:, :, :20])
    ]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    path = tmp_path / "reconstruction.h5"
    write_hdf5(
        path, iter(slice_results()), {"seed": 3, "parameters": {"method": "dip"}, "pixel_spacing_mm": (2.0, 3.0)}
    )
    return path


RESIDUALS = {"start": 0.4, "tv": 0.2, "udig_dip": 0.1}
CHECK = PriorCheck(prior_weight=0.3, best_at=0.6, residuals=RESIDUALS, tv_weight=0.003, reference_slice=4)


RATING = Rating("check", ("results differ between seeds",))


@pytest.mark.parametrize("prior_check", [None, CHECK])
@pytest.mark.parametrize("rating", [None, RATING])
@pytest.mark.parametrize("mri", [True, False])
def test_slice_comes_back_as_it_was_saved(
    mri: bool, rating: Rating | None, prior_check: PriorCheck | None, tmp_path: Path
) -> None:
    one = slice_results(mri=mri)[1]
    saved = replace(one, prior_check=prior_check, rating=rating, deviation=None if rating is None else one.image / 2)
    saved.save(tmp_path / "slice.npz")
    loaded = SliceResult.load(tmp_path / "slice.npz")
    for name in ("image", "image_complex", "plain", "reference", "deviation", "hallucination"):
        expected = getattr(saved, name)
        if expected is None:
            assert getattr(loaded, name) is None
        else:
            np.testing.assert_array_equal(getattr(loaded, name), expected)
            assert getattr(loaded, name).dtype == expected.dtype
    assert loaded.curves == saved.curves
    assert (loaded.prior_check, loaded.rating) == (saved.prior_check, saved.rating)
    assert [path.name for path in tmp_path.iterdir()] == ["slice.npz"]


def test_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "slice.npz"
    first, second = slice_results(2)
    first.save(path)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        second.save(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["slice.npz"]


def test_result_holds_volumes_in_scan_order_curves_and_attributes(result: Path) -> None:
    with h5py.File(result) as file:
        images = scans.phantom(3, 24)[:, :, :20]
        np.testing.assert_array_equal(file["reconstruction"], images)
        np.testing.assert_array_equal(file["zero_filled"], images * 0.5)
        np.testing.assert_array_equal(file["reference"], images)
        assert file["reconstruction"].dtype == np.float32
        assert file["reconstruction_complex"].dtype == np.complex64
        np.testing.assert_array_equal(file["curves/psnr"][1], [21, 21, np.nan])
        assert file.attrs["seed"] == 3
        assert json.loads(file.attrs["parameters"]) == {"method": "dip"}


def test_result_of_a_large_volume_holds_the_verdicts_of_all_slices_that_were_judged(tmp_path: Path) -> None:
    one = slice_results(1)[0]
    count = 1000  # beyond the 64 kB that an attribute within the object's header may have
    write_hdf5(tmp_path / "r.h5", (replace(one, prior_check=CHECK if i else None) for i in range(count)), {})
    with h5py.File(tmp_path / "r.h5") as file:
        verdicts = json.loads(file.attrs["verdicts"])
    assert verdicts == [{}, *[CHECK.as_json()] * (count - 1)]
    assert CHECK.as_json() == {
        "selected": "blend",
        "out_of_distribution": False,
        "prior_weight": 0.3,
        "ood_score": None,
        "residuals": RESIDUALS,
        "tv_weight": 0.003,
        "reference_slice": 4,
        "reason": CHECK.reason,
    }


def test_result_names_the_slices_that_make_it_no_better(tmp_path: Path) -> None:
    good, checked = (
        replace(one, rating=g) for one, g in zip(slice_results(2), (Rating("good", ("fine",)), RATING), strict=True)
    )
    for attributes, number in (({}, 1), ({"slices": [7, 5]}, 5)):
        write_hdf5(tmp_path / "r.h5", [good, checked], attributes)
        with h5py.File(tmp_path / "r.h5") as file:
            quality = json.loads(file.attrs["quality"])
            verdicts = json.loads(file.attrs["verdicts"])
        assert quality == {"rating": "check", "reasons": [f"slice {number}: results differ between seeds"]}
        assert [each["quality"]["rating"] for each in verdicts] == ["good", "check"]


def test_deviation_and_hallucination_map_lie_beside_the_image(tmp_path: Path) -> None:
    made = [replace(one, deviation=one.image / 2, hallucination=one.image / 3) for one in slice_results(2)]
    write_hdf5(tmp_path / "r.h5", made, {})
    with h5py.File(tmp_path / "r.h5") as file:
        np.testing.assert_array_equal(file["standard_deviation"], [one.deviation for one in made])
        np.testing.assert_array_equal(file["hallucination_map"], [one.hallucination for one in made])


def test_plain_image_of_ct_is_called_fbp(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "r.h5", slice_results(mri=False), {})
    with h5py.File(tmp_path / "r.h5") as file:
        assert set(file) == {"reconstruction", "fbp", "curves"}


def test_result_cannot_be_posted_as_a_scan(result: Path) -> None:
    with pytest.raises(UnreadableScan, match="reconstruction made by this software"):
        probe(result)


def test_same_result_is_the_same_bytes(result: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.h5"
    write_hdf5(again, slice_results(), {"seed": 3, "parameters": {"method": "dip"}, "pixel_spacing_mm": (2.0, 3.0)})
    assert again.read_bytes() == result.read_bytes()
    for output in OUTPUTS.values():
        first, second = tmp_path / f"first{output.suffix}", tmp_path / f"second{output.suffix}"
        convert(result, first, output)
        convert(again, second, output)
        assert first.read_bytes() == second.read_bytes()


def test_numpy_file_is_the_volume(result: Path, tmp_path: Path) -> None:
    convert(result, tmp_path / "r.npy", OUTPUTS["npy"])
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), scans.phantom(3, 24)[:, :, :20])


def test_nifti_is_the_volume_with_its_voxel_sizes_and_rows_running_backwards(result: Path, tmp_path: Path) -> None:
    convert(result, tmp_path / "r.nii.gz", OUTPUTS["nifti"])
    image = nibabel.load(tmp_path / "r.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), scans.phantom(3, 24)[:, :, :20])
    assert image.get_data_dtype() == np.float32
    assert image.header.get_zooms() == (3.0, 2.0, 1.0)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_xyzt_units()[0] == "mm"


def test_picture_of_one_slice_is_the_slice_and_of_a_volume_a_sheet(result: Path, tmp_path: Path) -> None:
    write_hdf5(tmp_path / "one.h5", slice_results(1), {})
    convert(tmp_path / "one.h5", tmp_path / "one.png", OUTPUTS["png"])
    convert(result, tmp_path / "three.png", OUTPUTS["png"])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert one.size == (20, 24)
        assert three.size[0] > 2 * 20
        assert three.size[1] > 2 * 24


def test_hdf5_asked_for_as_hdf5_is_a_copy(result: Path, tmp_path: Path) -> None:
    convert(result, tmp_path / "copy.h5", OUTPUTS["h5"])
    assert (tmp_path / "copy.h5").read_bytes() == result.read_bytes()


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from udig_recon.core.results.store import SliceResult, write_hdf5
image = np.random.default_rng(0).random((256, 256), np.float32)
result = SliceResult(image=image, image_complex=None, direct=image, reference=image, curves={})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_hdf5(Path(sys.argv[1]), [result] * 3, {})
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize("fits", [0, 1000, 300_000, 1_500_000])
def test_a_result_that_does_not_fit_on_the_disk_is_an_error_and_never_a_file(tmp_path: Path, fits: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "result.h5"), str(fits)]
    written = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout.split() == [str(errno.EFBIG)]
    assert list(tmp_path.iterdir()) == []
