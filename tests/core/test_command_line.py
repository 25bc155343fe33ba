"""`udig recon` as its user types it."""

import json
import subprocess

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.support import mrd_maker, scans
from tests.support.mrd_maker import Frames, Plan
from udig_recon.core.cli import UDIG
from udig_recon.core.cli.main import main
from udig_recon.core.formats.registry import input_formats
from udig_recon.core.quality.rating import LEVELS

pytestmark = pytest.mark.long

QUICK = ["--method", "sirt", "--set", "iterations=20"]


@pytest.fixture
def sinogram(tmp_path):
    return scans.write_hdf5(tmp_path / "scan.h5", **scans.ct())


def test_scan_becomes_a_volume_with_its_history(sinogram, tmp_path):
    out = tmp_path / "out.h5"
    command = [*UDIG, "recon", sinogram, "-o", out, *QUICK]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "psnr" in run.stderr
    with h5py.File(out) as file:
        assert file["reconstruction"].shape == (2, 32, 32)
        assert '"method":"sirt"' in file.attrs["parameters"]
        psnr = file["curves/psnr"][:]
    assert (psnr[:, -1] > psnr[:, 0]).all()


def test_the_file_is_read_in_the_sandbox_alone(sinogram, tmp_path, monkeypatch):
    def here(*_):
        raise AssertionError("read in the process that computes")

    for name in ("probe", "read", "probe_file", "prepare"):
        monkeypatch.setattr(f"udig_recon.core.formats.reading.{name}", here)
    monkeypatch.setattr("udig_recon.core.formats.sandbox.local.prepare", here)
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.npy"), *QUICK, "--slices", "1"]) == 0
    assert np.load(tmp_path / "out.npy").shape == (1, 32, 32)


@pytest.mark.parametrize("name", ["out.h5", "out.npy"])
def test_a_judged_run_ends_with_the_reason_of_each_slice(sinogram, tmp_path, capsys, name):
    knobs = ["--set", "preset=preview", "outer_iterations=2", "holdout_share=0.1", "--slices", "1", "0"]
    assert main(["recon", str(sinogram), "-o", str(tmp_path / name), *knobs]) == 0
    reasons = [line for line in capsys.readouterr().err.splitlines() if "residual on held-out measurements" in line]
    assert [reason.partition(": residual on held-out measurements: ")[0] for reason in reasons] == [
        "slice 1",
        "slice 0",
    ]
    if name == "out.h5":
        with h5py.File(tmp_path / name) as file:
            slices = json.loads(file.attrs["slices"])
        assert reasons == [f"slice {each['slice']}: {each['prior_check']['reason']}" for each in slices]


def test_a_slice_is_the_same_in_whatever_order_its_volume_is_asked_for(sinogram, tmp_path):
    knobs = ["--set", "preset=preview", "outer_iterations=8", "holdout_share=0.1"]
    found = []
    for order in (["0", "1"], ["1", "0", "1"]):
        assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.h5"), *knobs, "--slices", *order]) == 0
        with h5py.File(tmp_path / "out.h5") as file:
            slices = json.loads(file.attrs["slices"])
            found.append(dict(zip(order, zip(file["reconstruction"][:], slices, strict=True), strict=True)))
    for number in ("0", "1"):
        (image, check), (again, judged_again) = (run[number] for run in found)
        assert np.array_equal(image, again)
        assert check == judged_again
    assert (found[0]["0"][1]["reference_slice"], found[0]["1"][1]["reference_slice"]) == (1, None)


def test_a_run_that_is_not_judged_tells_what_each_slice_is_worth_and_no_more(sinogram, tmp_path, capsys):
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.h5"), *QUICK]) == 0
    told = capsys.readouterr().err
    assert "residual on held-out measurements" not in told
    with h5py.File(tmp_path / "out.h5") as file:
        slices = json.loads(file.attrs["slices"])
        quality = json.loads(file.attrs["quality"])
    for index, check in enumerate(slices):
        assert check.keys() == {"slice", "quality"}
        assert f"slice {index}: {check['quality']['rating']}: {check['quality']['reasons'][0]}" in told
    assert quality["rating"] == max((each["quality"]["rating"] for each in slices), key=LEVELS.index)


def test_several_seeds_leave_their_deviation_beside_their_mean(sinogram, tmp_path):
    knobs = ["--method", "dds", "--set", "steps=2", "--seeds", "2", "--slices", "1"]
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.h5"), *knobs]) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["standard_deviation"].shape == file["hallucination_map"].shape == file["reconstruction"].shape
        assert file["standard_deviation"][:].max() > 0
        assert file.attrs["seeds"] == 2


@pytest.mark.parametrize(
    ("seeds", "words"), [("0", "expected 1 to 64"), ("65", "expected 1 to 64"), ("2", "same image")]
)
def test_seeds_that_cannot_be_are_refused_in_one_line(sinogram, tmp_path, capsys, seeds, words):
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.h5"), "--method", "fbp", "--seeds", seeds]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize("name", ["out.npy", "out.png", "out.nii.gz"])
def test_suffix_chooses_the_format_and_leaves_nothing_else(sinogram, tmp_path, name):
    assert main(["recon", str(sinogram), "-o", str(tmp_path / name), "--slices", "1", *QUICK]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"scan.h5", name}
    if name.endswith("npy"):
        assert np.load(tmp_path / name).shape == (1, 32, 32)
    if name.endswith("png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 10


def test_same_seed_writes_the_same_image(tmp_path):
    scan = scans.write_npz(tmp_path / "scan", **scans.mri(slices=1))
    for name in ("a.npy", "b.npy"):
        knobs = ["--set", "preset=preview", "outer_iterations=3", "inner_iterations=2"]
        assert main(["recon", str(scan), "-o", str(tmp_path / name), "--seed", "5", *knobs]) == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "cg_sense"], "cg_sense does not reconstruct ct"),
        (
            ["--method", "sirt", "--set", "iterations=0"],
            "iterations is 0, expected >= 1",
        ),
        (
            ["--method", "sirt", "--set", "beta=1"],
            "beta is unknown, expected one of the parameters of sirt: coil_energy",
        ),
        (
            ["--method", "sirt", "--set", "iteration=1"],
            "iteration is unknown, expected one of the parameters of sirt: iterations",
        ),
        (["--method", "sirt", "--set", "beta=1", "--set", "iterations=20"], "beta is unknown"),
        (["--set", "iterations"], "--set takes PARAMETER=VALUE"),
        (["--slices", "7"], "slices: found 7, expected 0 to 1"),
        (["--set", "prior=knees"], "no ct prior is named 'knees'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(sinogram, tmp_path, capsys, arguments, message):
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.h5"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out.h5").exists()


def test_wrong_names_are_refused(sinogram, tmp_path, capsys):
    assert main(["recon", str(sinogram), "-o", str(tmp_path / "out.jpg")]) == 2
    assert "a name that ends in one of .h5, .npy, .nii.gz, .png" in capsys.readouterr().err
    assert main(["recon", str(tmp_path / "none.h5"), "-o", str(tmp_path / "out.h5")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(sinogram, tmp_path, capsys):
    (tmp_path / "folder.h5").mkdir()
    for name, words in (("missing/out.h5", "there is no folder"), ("folder.h5", "cannot be written")):
        assert main(["recon", str(sinogram), "-o", str(tmp_path / name), *QUICK]) == 2
        (line,) = capsys.readouterr().err.splitlines()  # no progress of a slice
        assert words in line


def test_what_is_odd_about_a_scan_is_said_and_stands_in_the_result(tmp_path, capsys):
    scan = scans.write_npz(tmp_path / "scan.npz", ksp=scans.mri()["kspace"], sampling_mask=scans.mri()["mask"])
    assert main(["recon", str(scan), "-o", str(tmp_path / "out.h5"), "--method", "zero_filled"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "warning: sampling_mask is read as mask" in told
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(file.attrs["warnings"]) == [line.removeprefix("warning: ") for line in told]


def test_help_of_recon_names_the_formats_that_are_read(capsys):
    assert main(["recon", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for each in input_formats():
        assert each.name in told


def test_slices_that_nifti_cannot_place_are_warned_of(tmp_path, capsys):
    path = mrd_maker.write(tmp_path / "scan.h5", mrd_maker.make(Plan(Frames(slices=4))))
    quick = ["--method", "zero_filled", "-o", str(tmp_path / "out.nii.gz")]
    for slices, lost in ((("0", "1", "3"), True), (("1", "2"), False)):
        assert main(["recon", str(path), *quick, "--slices", *slices]) == 0
        assert ("warning: slices 0, 1, 3 are not evenly spaced" in capsys.readouterr().err) is lost
