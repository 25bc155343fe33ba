import errno
import io
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
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
from udig_recon.core.files.atomic import Digest
from udig_recon.core.formats import probe
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results import hdf5
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, convert, write_result
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
def test_slice_comes_back_as_it_was_saved(mri: bool, rating: Rating | None, prior_check: PriorCheck | None) -> None:
    one = slice_results(mri=mri)[1]
    saved = replace(one, prior_check=prior_check, rating=rating, deviation=None if rating is None else one.image / 2)
    loaded = SliceResult.from_bytes(saved.to_bytes(), "slice.npz")
    for name in ("image", "image_complex", "direct", "reference", "deviation", "hallucination"):
        expected = getattr(saved, name)
        if expected is None:
            assert getattr(loaded, name) is None
        else:
            np.testing.assert_array_equal(getattr(loaded, name), expected)
            assert getattr(loaded, name).dtype == expected.dtype
    assert loaded.curves == saved.curves
    assert (loaded.prior_check, loaded.rating) == (saved.prior_check, saved.rating)


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


@pytest.mark.long
def test_result_of_a_large_volume_holds_the_prior_checks_of_all_slices_that_have_one(tmp_path: Path) -> None:
    one = slice_results(1)[0]
    count = 1000  # beyond the 64 kB that an attribute within the object's header may have
    write_hdf5(tmp_path / "r.h5", (replace(one, prior_check=CHECK if i else None) for i in range(count)), {})
    with h5py.File(tmp_path / "r.h5") as file:
        summaries = json.loads(file.attrs["slices"])
    check = CHECK.as_json()
    reference = {"reference_slice": check.pop("reference_slice"), "prior_check": check}
    assert summaries == [{"slice": 0}, *[{"slice": number, **reference} for number in range(1, count)]]
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
    for attributes, number in (({}, 1), ({"slice_numbers": [7, 5]}, 5)):
        write_hdf5(tmp_path / "r.h5", [good, checked], attributes)
        with h5py.File(tmp_path / "r.h5") as file:
            quality = json.loads(file.attrs["quality"])
            summaries = json.loads(file.attrs["slices"])
        assert quality == {"rating": "check", "reasons": [f"slice {number}: results differ between seeds"]}
        assert [each["quality"]["rating"] for each in summaries] == ["good", "check"]


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


def test_a_result_file_rewritten_from_itself_holds_the_same(tmp_path: Path) -> None:
    slices = [replace(one, prior_check=CHECK, rating=RATING) for one in slice_results()]
    write_hdf5(tmp_path / "first.h5", slices, {"slice_numbers": [4, 6, 8], "warnings": ["one"], "seed": 2})
    convert(tmp_path / "first.h5", tmp_path / "again.h5", OUTPUTS["h5"])
    with h5py.File(tmp_path / "first.h5") as first, h5py.File(tmp_path / "again.h5") as again:
        assert dict(first.attrs) == dict(again.attrs)
        assert list(first) == list(again)
        for name in ("reconstruction", "reconstruction_complex", "zero_filled", "reference", "curves/psnr"):
            np.testing.assert_array_equal(first[name], again[name])


def test_all_formats_are_written_in_one_pass(result: Path, tmp_path: Path) -> None:
    passed = iter(slice_results())
    info = ResultInfo(3, {"seed": 3, "parameters": {"method": "dip"}, "pixel_spacing_mm": (2.0, 3.0)})
    targets = {tmp_path / f"all{output.suffix}": output for output in OUTPUTS.values()}
    digests = write_result(passed, info, targets)
    assert (tmp_path / "all.h5").read_bytes() == result.read_bytes()
    for path, output in targets.items():
        assert digests[path] == Digest.of(path)
        if output.name != "h5":
            convert(result, tmp_path / "one", output)
            assert (tmp_path / "one").read_bytes() == path.read_bytes()


def test_no_file_takes_its_name_when_a_slice_cannot_be_had(tmp_path: Path) -> None:
    def slices() -> Iterator[SliceResult]:
        yield slice_results(1)[0]
        raise OSError(errno.EIO, "gone")

    targets = {tmp_path / f"all{output.suffix}": output for output in OUTPUTS.values()}
    with pytest.raises(OSError, match="gone"):
        write_result(slices(), ResultInfo(2, {}), targets)
    assert list(tmp_path.iterdir()) == []


def test_a_large_volume_is_drawn_with_memory_for_few_slices(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((512, 512), np.float32)
    one = SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={})
    tracemalloc.start()
    try:
        write_result((one for _ in range(150)), ResultInfo(150, {}), {tmp_path / "sheet.png": OUTPUTS["png"]})
        assert tracemalloc.get_traced_memory()[1] < 120 << 20  # all of them are 150 MiB
    finally:
        tracemalloc.stop()


OLD_CHECK = {
    "chosen": "mixed", "out_of_distribution": False, "prior_share": 0.3, "strangeness": None, "residuals": RESIDUALS,
    "tv_weight": 0.003, "leader": 4, "reason": "the same in a sentence",
}  # fmt: skip


def test_result_files_before_version_0_2_are_read(result: Path, tmp_path: Path) -> None:
    with h5py.File(result, "a") as file:
        del file.attrs["slice_numbers"]
        old = {
            "slices": [0, 2, 4],
            "slice_spacing_mm": 3.0,
            "verdicts": [{"quality": {"verdict": "unjudged", "reasons": ["fine"]}, **OLD_CHECK}, {}, {}],
            "quality": {"verdict": "unjudged", "reasons": ["slice 0: fine"]},
        }
        for name, value in old.items():
            file.attrs[name] = value if isinstance(value, float) else json.dumps(value)
    with hdf5.open_result(result) as stored:
        assert stored.info.slice_numbers == (0, 2, 4)
        assert stored.info.slice_spacing_mm == 6.0
        first, second, _ = stored.slices()
        assert first.rating == Rating("unrated", ("fine",))
        assert first.summary().items() >= OLD_CHECK.items()
        assert (second.rating, second.summary()) == (None, {})
    convert(result, tmp_path / "r.nii.gz", OUTPUTS["nifti"])
    assert nibabel.load(tmp_path / "r.nii.gz").header.get_zooms() == (3.0, 2.0, 6.0)
    assert hdf5.read_slice(result, 1).image.shape == (24, 20)


def test_slice_files_before_version_0_2_are_read() -> None:
    one = slice_results(1)[0]
    older = {
        "image": one.image,
        "plain": one.direct,
        "image_complex": one.image_complex,
        "curve_psnr": np.array([20.0]),
        "verdict": json.dumps({"prior_share": 0.3, "best_at": 0.6, "residuals": RESIDUALS, "leader": 4}),
        "grade": json.dumps({"verdict": "unjudged", "reasons": ["fine"]}),
    }
    np.savez(archive := io.BytesIO(), **older)
    loaded = SliceResult.from_bytes(archive.getvalue(), "slice.npz")
    np.testing.assert_array_equal(loaded.direct, one.direct)
    assert loaded.prior_check == PriorCheck(prior_weight=0.3, best_at=0.6, residuals=RESIDUALS, reference_slice=4)
    assert loaded.rating == Rating("unrated", ("fine",))
    assert loaded.curves == {"psnr": [20.0]}


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, write_result
from udig_recon.core.results.store import SliceResult
image = np.random.default_rng(0).random((256, 256), np.float32)
result = SliceResult(image=image, image_complex=None, direct=image, reference=image, curves={})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    write_result([result] * 3, ResultInfo(3, {}), {Path(sys.argv[1]): OUTPUTS["h5"]})
except OSError as error:
    print(error.errno)
"""


@pytest.mark.long
@pytest.mark.parametrize("fits", [0, 1000, 300_000, 1_500_000])
def test_a_result_that_does_not_fit_on_the_disk_is_an_error_and_never_a_file(tmp_path: Path, fits: int) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "result.h5"), str(fits)]
    written = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (written.returncode, written.stderr) == (0, "")
    assert written.stdout.split() == [str(errno.EFBIG)]
    assert list(tmp_path.iterdir()) == []
