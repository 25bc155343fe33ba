"""`udig compare` as its user types it, and the figures that it draws."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import mrd_maker, scans
from tests.support.mrd_maker import Frames, Plan
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.batch.shards import Shard
from udig_recon.core.cli.main import main
from udig_recon.core.comparison import running
from udig_recon.core.comparison.line_plots import line_plot
from udig_recon.core.comparison.plan import find_scans, plan_runs, runs_of_shard
from udig_recon.core.comparison.stored import Measurement, measure_once, read_result
from udig_recon.core.parameters import complete, parse
from udig_recon.core.parameters.setting import Setting
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.rating import LEVELS
from udig_recon.core.reconstruct import Progress, reconstruct, reconstruct_slice
from udig_recon.core.results.png import add_inset, busiest_corner
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
QUICK = "udig_dip:preset=preview,outer_iterations=4"


@pytest.fixture
def folder(tmp_path):
    """An MR and a CT scan of two slices each."""
    path = tmp_path / "scans"
    path.mkdir()
    scans.write_hdf5(path / "brain.h5", **scans.mri())
    scans.write_npz(path / "body.npz", **scans.ct())
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def compared(folder: Path, output: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of runs.csv."""
    figures = [] if "--figures" in arguments else ["--figures"]
    assert main(["compare", str(folder), "-o", str(output), *arguments, *figures]) == 0
    return rows_of(output / "runs.csv")


def stored(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("results/*/*")}


def without_times(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in rows]


def refused(capsys, *arguments: object) -> str:
    """The one line that is said instead of computing."""
    assert main(["compare", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_every_method_runs_on_the_scans_that_it_is_for(folder, tmp_path):
    rows = compared(folder, tmp_path / "out", "--methods", "cg_sense", "fbp", "tv:iterations=3", "--seeds", "2")
    ran = {(row["method"], row["sampling"]) for row in rows}
    assert ran == {
        ("cg_sense", "2x"), ("fbp", "24 views"), ("tv iterations=3", "2x"), ("tv iterations=3", "24 views")
    }  # fmt: skip
    assert len(rows) == len({tuple(row.values())[:5] for row in rows}) == 4 * 2 * 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.md", "images", "results", "runs.csv", "table-1.csv", "table-1.md", "table-1.tex"
    }  # fmt: skip
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert all(part in text for part in ("compare", "torch", "engine", "PSNR, dB", "too few to tell"))


def test_what_is_compared_is_what_the_engine_reconstructs(folder, tmp_path):
    compared(folder, tmp_path / "out", "--methods", QUICK, "--slices", "1", "--seeds", "2")
    problem = slice_problem(formats.read(folder / "brain.h5", [1]), 0, CPU)
    method = complete(parse({"method": "udig_dip", "preset": "preview", "outer_iterations": 4}), Modality.MRI)
    expected = [problem.magnitude([*reconstruct(problem, method, seed=seed)][-1].image) for seed in (0, 1)]
    images = [np.load(path) for path in (tmp_path / "out/results/brain").glob("*.npy")]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in expected)


def test_slices_follow_their_leader_as_in_a_volume(folder, tmp_path):
    method = "udig_dip:preset=preview,outer_iterations=8,holdout_share=0.1"
    compared(folder, tmp_path / "out", "--methods", method)
    knobs = ["--set", "preset=preview", "outer_iterations=8", "holdout_share=0.1"]
    assert main(["recon", str(folder / "brain.h5"), "-o", str(tmp_path / "volume.h5"), *knobs]) == 0
    with h5py.File(tmp_path / "volume.h5") as file:
        expected, slices = file["reconstruction"][:], json.loads(file.attrs["slices"])
    for path in (tmp_path / "out/results/brain").glob("*.json"):
        fields = json.loads(path.read_text())
        number = fields["key"]["slice"]
        assert np.array_equal(np.load(path.with_suffix(".npy")), expected[number])
        assert fields["prior_check"].items() <= {**slices[number], **slices[number]["prior_check"]}.items()


@pytest.mark.parametrize(
    ("method", "prior_calls", "updates"),
    [
        ("cg_sense", 0, 0),
        ("dip:iterations=7,holdout_share=0", 0, 7),
        ("oes:iterations=3,mask_iterations=2,holdout_share=0", 0, 5),
        ("dds:steps=3,samples=2,holdout_share=0", 6, 0),
        ("score_mri:steps=3,holdout_share=0", 6, 0),
        ("udig_dip:preset=paper,outer_iterations=3,prior_calls=2", 6, 6),
        ("udig_dip:preset=paper,outer_iterations=4,prior_calls=3,purification_period=2", 6, 8),
    ],
)
def test_calls_of_networks_are_counted(folder, tmp_path, method, prior_calls, updates):
    (folder / "body.npz").unlink()
    (row,) = compared(folder, tmp_path / "out", "--methods", method, "--slices", "0")
    assert (row["prior_evaluations"], row["optimizer_steps"]) == (str(prior_calls), str(updates))
    assert float(row["seconds"]) > 0


def test_nothing_is_computed_twice_and_more_may_be_added(folder, tmp_path, monkeypatch):
    out, methods = tmp_path / "out", ["--methods", "cg_sense", "dip:iterations=5"]
    first = compared(folder, out, *methods)
    results = stored(out)
    made = []
    make = running.Computer.make
    monkeypatch.setattr(running.Computer, "make", lambda *given: made.append(given[1].label) or make(*given))
    assert (compared(folder, out, *methods), stored(out), made) == (first, results, [])
    rows = compared(folder, out, *methods, "zero_filled", "--seeds", "2")
    assert [row for row in rows if row in first] == first
    assert made == ["zero_filled"] * 2 + ["cg_sense"] * 2 + ["dip iterations=5"] * 4 + ["zero_filled"] * 2
    assert results.items() <= stored(out).items()


def test_other_parameters_and_another_scan_are_other_results(folder, tmp_path):
    (folder / "body.npz").unlink()
    out = tmp_path / "out"
    (a,) = compared(folder, out, "--methods", "x=tv:iterations=2", "--slices", "0")
    volume = out / "images/brain/x.nii.gz"
    first = volume.read_bytes()
    (b,) = compared(folder, out, "--methods", "x=tv:iterations=9", "--slices", "0")
    assert volume.read_bytes() != first
    assert compared(folder, out, "--methods", "x=tv:iterations=2", "--slices", "0") == [a]
    assert volume.read_bytes() == first
    scans.write_hdf5(folder / "brain.h5", **scans.mri(acceleration=4))
    (c,) = compared(folder, out, "--methods", "x=tv:iterations=2", "--slices", "0")
    assert len({row["psnr"] for row in (a, b, c)}) == 3


@pytest.mark.parametrize(
    "method", ["dip:iterations=30,holdout_share=0", "udig_dip:preset=paper,outer_iterations=8,prior_calls=1"]
)
def test_an_interrupted_run_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch, capsys, method):
    counts: list[int] = []

    def stopping(*arguments, **named):
        counts.append(0)
        for event in reconstruct_slice(*arguments, **named):
            yield event
            counts[-1] += isinstance(event, Progress) and event.iterate.prior_free_baseline is None
            if len(counts) == 1 and counts[-1] == 25:
                raise KeyboardInterrupt

    (folder / "body.npz").unlink()
    arguments = ["--methods", method, "--slices", "0"]
    whole = compared(folder, tmp_path / "whole", *arguments)
    compared(folder, tmp_path / "out", "--methods", "cg_sense", "--slices", "0")
    monkeypatch.setattr(running, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(running, "reconstruct_slice", stopping)
    command = [
        "compare",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "--methods",
        "cg_sense",
        *arguments[1:],
        "--figures",
    ]
    assert main(command) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert "cg_sense" in (tmp_path / "out/table-1.md").read_text()
    assert len(list(tmp_path.glob("out/results/*/*.unfinished.pt"))) == 1
    (resumed,) = compared(folder, tmp_path / "out", *arguments)
    assert counts[1] < 10
    assert not list(tmp_path.glob("out/results/*/*.unfinished.pt"))
    assert {**whole[0], "seconds": ""} == {**resumed, "seconds": ""}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "magic"], "magic: no method 'magic'; there are: udig_dip, "),
        (["--methods", "tv:weight"], "tv:weight takes PARAMETER=VALUE, found 'weight'"),
        (["--methods", "tv:iterations=0"], "iterations is 0, expected >= 1"),
        (["--methods", "tv:sigma=1"], "sigma is unknown, expected one of the parameters of tv"),
        (["--methods", "tv", "tv"], "two methods are called 'tv'; call one otherwise: LABEL=METHOD"),
        (["--methods", "tv", "--seeds", "0"], "--seeds 0: expected 1 or more"),
        (["--methods", "tv", "--slices", "1", "2"], "body.npz: slices: found 2, expected 0 to 1"),
        (["--methods", "dds:prior=mri"], "dds prior=mri on body.npz: no ct prior is named 'mri'; there are: ct"),
        (["--methods", "dds:prior=knee"], "there are: "),
        (
            ["--methods", "ref_guided_dip:guide=file"],
            "on body.npz: method ref_guided_dip with these parameters needs an image",
        ),
        (["--methods", "tv", "--device", "tpu9"], "device: found tpu9, expected"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_computed(folder, tmp_path, capsys, arguments, said):
    out = tmp_path / "out"
    assert said in refused(capsys, folder, "-o", out, *arguments)
    assert not out.exists()


def test_a_method_for_no_scan_that_is_there_is_refused_with_those_that_are(folder, tmp_path, capsys):
    (folder / "brain.h5").unlink()
    said = refused(capsys, folder, "-o", tmp_path / "out", "--methods", "sirt", "cg_sense")
    assert said.startswith("method cg_sense does not reconstruct ct; these do: udig_dip")


def test_scans_that_cannot_be_compared_on_are_refused_by_name(tmp_path, capsys):
    def said(write, name="scan.h5", **parts):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        write(folder / name, **parts)
        return refused(capsys, folder, "-o", tmp_path / "out", "--methods", "tv")

    mri = scans.mri()
    small = {**mri, "reference": mri["reference"][:, :20, :20]}
    assert said(scans.write_npz, "scan.npz", **{**small, "reference": small["reference"][:1]}).startswith(
        "scan.npz: ref"
    )
    no_centre = {**scans.without(mri, "sensitivity_maps"), "mask": np.arange(32) % 2 == 0}
    assert "estimating coil maps needs 8 x 8" in said(scans.write_hdf5, **no_centre)
    spokes = radial_spokes((32, 32), 4)
    truth = mri["reference"][0].astype(np.complex64)
    sparse = simulate_non_cartesian(truth, birdcage_maps(2, truth.shape), spokes, np.random.default_rng(0))
    along = {"kspace": sparse.kspace, "trajectory": spokes, "reference": sparse.reference, "image_size": truth.shape[0]}
    assert "the centre of k-space is sampled densely over" in said(scans.write_npz, "spokes.npz", **along)
    assert "found no scan; expected HDF5" in said(lambda path: path.write_text("notes"), "notes.txt")
    assert "No such file or directory" in refused(capsys, tmp_path / "none", "-o", tmp_path / "out", "--methods", "tv")


def test_scans_of_one_name_keep_their_suffixes_and_other_files_are_skipped(folder):
    (folder / "notes.md").write_text("not a scan")
    found_scans, skipped = find_scans([folder], None)
    assert [scan.name for scan in found_scans] == ["body", "brain"]
    assert [line.partition(":")[0] for line in skipped] == [str(folder / "notes.md")]
    scans.write_hdf5(folder / "body.h5", **scans.ct())
    assert [scan.name for scan in find_scans([folder], None)[0]] == ["body.h5", "body.npz", "brain"]


def test_the_quick_methods_come_first_on_all_scans(folder):
    runs = plan_runs([Setting.parse("zero_filled"), Setting.parse("slow=dip")], find_scans([folder], None)[0], 2)
    assert list(dict.fromkeys((run.seed, run.label) for run in runs)) == [
        (0, "zero_filled"), (0, "slow"), (1, "zero_filled"), (1, "slow")
    ]  # fmt: skip


def test_a_setting_is_called_by_what_is_given_or_as_its_label_says():
    assert Setting.parse("tv").label == "tv"
    assert Setting.parse("udig_dip:preset=preview,samples=2").label == "udig_dip preset=preview samples=2"
    fast = Setting.parse("fast one=udig_dip:preset=preview,samples=2")
    assert (fast.label, fast.parameters) == ("fast one", {"method": "udig_dip", "preset": "preview", "samples": 2})


def test_panels_and_curves_are_drawn(folder, tmp_path):
    out = tmp_path / "out"
    figures = ["--figures", "panels", "iterations"]
    rows = compared(
        folder, out, "--methods", "sirt", "dip=dip:iterations=20,holdout_share=0", "--slices", "0", *figures
    )
    pictures = {str(path.relative_to(out)) for path in out.rglob("*.png")}
    curves = {"iterations-24-views.png", "updates-24-views.png", "updates-2x.png"}
    assert pictures == {"panels/body-0.png", "panels/brain-0.png", *curves}
    assert all(f"]({name})" in (out / "comparison.md").read_text() for name in pictures)
    curve = [row for row in rows_of(out / "curves.csv") if row["method"] == "dip"]
    assert [(row["axis"], row["at"]) for row in curve] == [("updates", "10"), ("updates", "20")] * 2
    last = {(row["method"], row["sampling"]): float(row["psnr"]) for row in rows}
    assert {row["metric"] for row in curve} == {"psnr"}
    assert float(curve[1]["value"]) == pytest.approx(last["dip", curve[1]["sampling"]])


def test_scans_without_references_give_residuals_ratings_pictures_and_no_psnr(folder, tmp_path, capsys):
    scans.write_hdf5(folder / "brain.h5", **scans.without(scans.mri(acceleration=4), "reference"))
    scans.write_hdf5(folder / "knee.h5", **scans.mri(acceleration=4))
    out = tmp_path / "out"
    arguments = ["--methods", "cg_sense", "sirt", "--slices", "1", "--figures", "panels", "iterations"]
    rows = {row["scan"]: row for row in compared(folder, out, *arguments)}
    assert (rows["brain"]["psnr"], rows["brain"]["ssim"], rows["brain"]["nmse"]) == ("", "", "")
    assert float(rows["brain"]["data_residual"]) > 0
    assert {row["rating"] for row in rows.values()} <= set(LEVELS)
    assert float(rows["knee"]["psnr"]) == pytest.approx(float(rows_of(out / "table-1.csv")[0]["psnr_mean"]))
    assert {path.stem for path in out.glob("panels/*.png")} == {"body-1", "brain-1", "knee-1"}
    text = (out / "comparison.md").read_text()
    assert f"{rows['brain']['sampling']}: data residual" in text
    assert "24 views: data residual" not in text
    for name in ("body.npz", "knee.h5"):
        (folder / name).unlink()
    alone = ["--methods", "cg_sense", *arguments[3:]]
    assert compared(folder, out, *alone) == [rows["brain"]]
    text = (out / "comparison.md").read_text()
    assert "PSNR, dB" not in text.partition("## Ranking")[0]
    assert "no scan has a reference, so nothing is ranked" in text
    capsys.readouterr()
    assert "noise needs a scan with an array reference" in refused(
        capsys, folder, "-o", out, "--methods", "tv", "--figures", "noise"
    )


def test_a_curve_without_a_reference_is_of_the_residual(folder, tmp_path):
    (folder / "body.npz").unlink()
    scans.write_hdf5(folder / "brain.h5", **scans.without(scans.mri(), "reference"))
    method = ["--methods", "dip=dip:iterations=20,holdout_share=0", "--slices", "0"]
    (row,) = compared(folder, tmp_path / "out", *method, "--figures", "iterations")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["residual-updates-2x.png"]
    curve = rows_of(tmp_path / "out/curves.csv")
    assert {each["metric"] for each in curve} == {"data_residual"}
    assert float(curve[-1]["value"]) == pytest.approx(float(row["data_residual"]))


def test_volumes_lie_beside_the_tables_with_the_place_of_their_scan(tmp_path):
    (tmp_path / "scans").mkdir()
    path = mrd_maker.write(tmp_path / "scans/brain.h5", mrd_maker.make(Plan(Frames(slices=3))))
    compared(tmp_path / "scans", tmp_path / "out", "--methods", "direct one=zero_filled", "--seeds", "2")
    assert main(["recon", str(path), "-o", str(tmp_path / "alone.nii.gz"), "--method", "zero_filled"]) == 0
    alone = nibabel.load(tmp_path / "alone.nii.gz")
    found = sorted((tmp_path / "out/images").rglob("*.nii.gz"))
    assert [str(path.relative_to(tmp_path / "out/images")) for path in found] == [
        "brain/direct-one-seed-1.nii.gz", "brain/direct-one.nii.gz"
    ]  # fmt: skip
    for each in map(nibabel.load, found):
        np.testing.assert_array_equal(each.affine, alone.affine)
        np.testing.assert_array_equal(each.get_fdata(), alone.get_fdata())


def test_shards_side_by_side_and_a_report_are_one_comparison(folder, tmp_path, monkeypatch, capsys):
    methods = ["--methods", "cg_sense", "fbp", QUICK, "--seeds", "2"]
    whole = compared(folder, tmp_path / "whole", *methods)
    out = tmp_path / "out"
    made: list[int] = []
    make = running.Computer.make
    monkeypatch.setattr(running.Computer, "make", lambda *given: made.append(len(made)) or make(*given))
    for number in (2, 3, 1):
        command = ["compare", str(folder), "-o", str(out), *methods, "--figures", "--shard", f"{number}/3"]
        assert main(command) == 0
        assert {path.name for path in out.iterdir()} == {"results"}
    assert len(made) == len(whole)
    assert without_times(compared(folder, out, *methods, "--report")) == without_times(whole)
    assert len(made) == len(whole)
    assert {path.name for path in out.rglob("*.nii.gz")} == {path.name for path in tmp_path.rglob("whole/**/*.nii.gz")}
    assert "16 of 16 were there" in (out / "comparison.md").read_text()
    capsys.readouterr()
    assert "found no result" in refused(capsys, folder, "-o", tmp_path / "none", *methods, "--report", "--figures")
    assert "--report: found --shard too" in refused(
        capsys, folder, "-o", out, *methods, "--report", "--shard", "1/2", "--figures"
    )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_shard_keeps_slices_with_the_slice_that_they_follow(folder, count):
    settings = [Setting.parse("udig_dip:preset=preview,holdout_share=0.1"), Setting.parse("zero_filled")]
    runs = plan_runs(settings, find_scans([folder], None)[0], 2)
    shards = [runs_of_shard(runs, Shard(number + 1, count)) for number in range(count)]
    assert sum(map(len, shards)) == len(runs)
    assert {id(run) for shard in shards for run in shard} == {id(run) for run in runs}
    for shard in shards:
        there = {(run.label, run.scan.name, run.seed, run.slice) for run in shard}
        for run in shard:
            if run.reference_slice is not None:
                assert (run.label, run.scan.name, run.seed, run.reference_slice) in there


def test_the_noise_sweep_is_of_probes_that_stand_in_no_table(folder, tmp_path):
    (folder / "body.npz").unlink()
    figures = ["--figures", "noise", "--noise-updates", "10"]
    rows = compared(folder, tmp_path, "--methods", "zero_filled", "--slices", "0", *figures)
    assert [row["method"] for row in rows] == ["zero_filled"]
    assert (tmp_path / "noise.png").read_bytes().startswith(b"\x89PNG")
    assert [(row["sampling"], row["sigma"]) for row in rows_of(tmp_path / "noise.csv")] == [
        ("2x", sigma) for sigma in ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1.0", "noise alone")
    ]


def test_an_inset_shows_the_busiest_part_and_its_error_and_hides_neither():
    image = np.zeros((64, 96), np.float32)
    image[40:52:3, 70:82] = 1.0
    y, x = busiest_corner(image)
    assert (abs(y - 40), abs(x - 70)) <= (2, 2)
    plain = add_inset(image, (y, x), white=2.0)
    both = add_inset(image, (y, x), white=2.0, error=np.full_like(image, 3.0))
    assert plain.shape == both.shape == (128, 192)
    assert np.array_equal(plain[2:50, 2:50], np.kron(image[y : y + 12, x : x + 12], np.ones((4, 4))))
    assert (both[2:50, -50:-2] == 3.0).all()
    assert np.array_equal(plain[56:], both[56:])


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    made = []

    def make() -> tuple[np.ndarray, dict[str, object]]:
        made.append(1)
        return np.ones((8, 8), np.float32), {"threads": 1}

    run = Measurement("a method", {"knob": 1})
    assert read_result(tmp_path / "case", run) is None
    reference = np.ones((8, 8), np.float32)
    first, second = (measure_once(tmp_path / "case", run, make, reference) for _ in range(2))
    assert (first.fields, len(made)) == (second.fields, 1)
    assert np.array_equal(second.image, reference)
    assert read_result(tmp_path / "case", Measurement("a method", {"knob": 2})) is None


def test_a_plot_shows_every_curve() -> None:
    curves = {"rising": ((0, 1, 2), (1.0, 2.0, 3.0)), "flat": ((0, 2), (2.0, 2.0))}
    picture = Image.open(io.BytesIO(line_plot("title", ("x", "y"), curves)))
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0)} <= colours


def test_a_logarithmic_axis_has_one_two_and_five_times_powers_of_ten() -> None:
    linear, logarithmic = (
        line_plot("title", ("x", "y"), {"rising": ((0.02, 0.1, 1.0), (1.0, 2.0, 3.0))}, logarithmic=logarithmic)
        for logarithmic in (False, True)
    )
    assert linear != logarithmic


def test_figures_without_matplotlib_are_refused_before_anything_is_computed(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert main(["compare", str(folder), "-o", str(out), "--methods", "zero_filled", "--figures", "iterations"]) == 2
    assert "pip install 'udig-recon[report]'" in capsys.readouterr().err
    assert not out.exists()


def test_neither_the_api_nor_a_worker_imports_matplotlib() -> None:
    script = "import sys, udig_recon.api.app, udig_recon.worker.runtime.tasks; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"
