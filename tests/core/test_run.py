"""`udig run` as its user types it, and how it finds scans and shares work."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from tests.support import mrd_maker, scans
from tests.support.mrd_maker import Frames, Plan
from udig_recon.core import volume
from udig_recon.core.batch import unfinished
from udig_recon.core.batch.scan_files import find_scan_files
from udig_recon.core.batch.shards import Shard
from udig_recon.core.cli.main import main
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.locks import exclusive
from udig_recon.core.formats.sandbox import local
from udig_recon.core.formats.sandbox.client import Prober
from udig_recon.core.reconstruct import Progress, reconstruct_slice
from udig_recon.core.saved_state import save_state

pytestmark = pytest.mark.long

METHODS = ("tv:iterations=3", "cg_sense", "fbp")


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> Iterator[None]:
    """One sandbox for all commands here, which would start one each."""
    prober = Prober()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prober, "close", lambda: None)
        patch.setattr(local, "Prober", lambda: prober)
        yield
    prober.close()


@pytest.fixture
def folder(tmp_path):
    """An MR scan with a reference, a CT scan, and in a sub-folder an MR scan without a reference."""
    path = tmp_path / "scans"
    (path / "knee").mkdir(parents=True)
    scans.write_hdf5(path / "brain.h5", **scans.mri())
    scans.write_npz(path / "body.npz", **scans.ct())
    scans.write_hdf5(path / "knee/brain.h5", **scans.without(scans.mri(), "reference"))
    return path


@pytest.fixture
def computed(monkeypatch):
    """The slices that were computed, as the number of each."""
    numbers: list[str] = []

    def counting(problem, method, **named):
        numbers.append(method.method)
        return reconstruct_slice(problem, method, **named)

    monkeypatch.setattr(volume, "reconstruct_slice", counting)
    return numbers


def run(*arguments: object) -> int:
    return main(["run", *map(str, arguments)])


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_scan_is_reconstructed_by_every_method_for_it_under_readable_names(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "-o", out, "--method", *METHODS, "--format", "nifti", "png") == 0
    mri = ("tv-iterations=3", "cg_sense")
    volumes = [f"{scan}/{method}" for scan in ("brain", "knee/brain") for method in mri]
    volumes += [f"body/{method}" for method in ("tv-iterations=3", "fbp")]
    assert files_of(out) == {f"{each}{suffix}" for each in volumes for suffix in (".h5", ".nii.gz", ".png")} | {
        "summary.csv"
    }
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1 + len(volumes)
    assert "brain and 1 more: warning: the file gives no pixel spacing: 1 mm is assumed" in told.err
    rows = {(row["scan"], row["method"]): row for row in summary(out)}
    assert {row["status"] for row in rows.values()} == {"done"}
    assert all(row["rating"] and float(row["data_residual"]) > 0 and float(row["seconds"]) > 0 for row in rows.values())
    assert rows["brain", "cg_sense"]["psnr"]
    assert not rows["knee/brain", "cg_sense"]["psnr"]


def test_an_image_is_that_of_recon_whatever_else_is_reconstructed(folder, tmp_path):
    quick = "udig_dip:preset=preview,outer_iterations=4,holdout_share=0.1"
    assert run(folder / "brain.h5", "-o", tmp_path / "out", "--method", "cg_sense", f"fast={quick}", "--seed", 3) == 0
    knobs = ["--set", "preset=preview", "outer_iterations=4", "holdout_share=0.1", "--seed", "3"]
    assert main(["recon", str(folder / "brain.h5"), "-o", str(tmp_path / "alone.h5"), *knobs]) == 0
    with h5py.File(tmp_path / "alone.h5") as alone, h5py.File(tmp_path / "out/brain/fast.h5") as batch:
        assert np.array_equal(alone["reconstruction"][:], batch["reconstruction"][:])
        assert alone.attrs["slices"] == batch.attrs["slices"]


def test_volumes_have_the_spacing_and_place_of_their_scan(tmp_path):
    (tmp_path / "scans").mkdir()
    path = mrd_maker.write(tmp_path / "scans/brain.h5", mrd_maker.make(Plan(Frames(slices=3))))
    assert run(tmp_path / "scans", "-o", tmp_path / "out", "--method", "zero_filled") == 0
    assert main(["recon", str(path), "-o", str(tmp_path / "alone.nii.gz"), "--method", "zero_filled"]) == 0
    alone, found = (nibabel.load(tmp_path / name) for name in ("alone.nii.gz", "out/brain/zero_filled.nii.gz"))
    np.testing.assert_array_equal(found.affine, alone.affine)
    assert found.header["sform_code"] == 1
    with h5py.File(tmp_path / "out/brain/zero_filled.h5") as file:
        down, right = np.asarray(file.attrs["pixel_spacing_mm"][1:-1].split(","), float)
    np.testing.assert_allclose(found.header.get_zooms()[:2], (right, down), rtol=1e-5)


def test_nothing_is_computed_twice_and_more_may_be_added(folder, tmp_path, computed):
    out = tmp_path / "out"
    (folder / "body.npz").unlink()
    assert run(folder, "-o", out, "--method", "cg_sense") == 0
    first = {name: (out / name).read_bytes() for name in files_of(out)}
    assert len(computed) == 4
    assert run(folder, "-o", out, "--method", "cg_sense", "--format", "nifti", "npy") == 0
    assert len(computed) == 4
    assert np.load(out / "brain/cg_sense.npy").shape == (2, 32, 32)
    assert run(folder, "-o", out, "--method", "cg_sense", "zero_filled") == 0
    assert computed[4:] == ["zero_filled"] * 4
    assert {name: (out / name).read_bytes() for name in first if name != "summary.csv"}.items() <= first.items()


@pytest.mark.parametrize("change", ["scan", "seed", "slices"])
def test_what_was_made_of_something_else_is_replaced_in_every_format(folder, tmp_path, computed, change):
    out, scan = tmp_path / "out", folder / "brain.h5"
    assert run(scan, "-o", out, "--method", "x=tv:iterations=2", "--format", "npy", "nifti") == 0
    before = np.load(out / "brain/x.npy")
    more: list[object] = []
    if change == "scan":
        scans.write_hdf5(scan, **scans.mri(acceleration=4))
    else:
        more = {"seed": ["--seed", 1], "slices": ["--slices", 1]}[change]
    assert run(scan, "-o", out, "--method", "x=tv:iterations=2", "--format", "npy", *more) == 0
    assert len(computed) == (3 if change == "slices" else 4)
    assert not (out / "brain/x.nii.gz").exists()
    after = np.load(out / "brain/x.npy")
    assert after.shape == ((1, 32, 32) if change == "slices" else (2, 32, 32))
    assert not np.array_equal(after, before)


def test_an_interrupted_volume_continues_with_the_same_bits(folder, tmp_path, monkeypatch, capsys):
    progress: list[int] = []

    def stopping(*arguments, **named):
        progress.append(0)
        for event in reconstruct_slice(*arguments, **named):
            yield event
            progress[-1] += isinstance(event, Progress)
            if len(progress) == 2 and progress[-1] == 12:
                raise KeyboardInterrupt

    monkeypatch.setattr(volume, "reconstruct_slice", stopping)
    monkeypatch.setattr(unfinished, "SAVE_SECONDS", -1.0)
    command = [folder / "brain.h5", "--method", "dip:iterations=16,holdout_share=0"]
    assert run(*command, "-o", tmp_path / "out") == 130
    assert "goes on from here" in capsys.readouterr().err
    assert [row["status"] for row in summary(tmp_path / "out")] == ["missing"]
    assert run(*command, "-o", tmp_path / "out") == 0
    assert len(progress) == 3
    assert progress[2] < 10
    assert {path.suffix for path in (tmp_path / "out/brain").iterdir()} == {".h5", ".gz"}
    assert run(*command, "-o", tmp_path / "whole") == 0
    images = [(tmp_path / name / "brain").glob("*.nii.gz") for name in ("out", "whole")]
    assert len({path.read_bytes() for found in images for path in found}) == 1


def test_a_slice_that_was_damaged_meanwhile_is_computed_again(tmp_path):
    kept = unfinished.UnfinishedVolume(tmp_path / "kept", {"a": 1})
    (tmp_path / "kept/0.npz").write_bytes(b"damaged")
    assert kept.read(0) is None
    unfinished.UnfinishedVolume(tmp_path / "kept", {"a": 1})
    assert (tmp_path / "kept/0.npz").exists()
    unfinished.UnfinishedVolume(tmp_path / "kept", {"a": 2})
    assert not (tmp_path / "kept/0.npz").exists()


def test_a_saved_state_that_was_damaged_begins_the_slice_anew(tmp_path):
    kept = unfinished.UnfinishedVolume(tmp_path / "kept", {"a": 1})
    save_state(tmp_path / "kept/0.pt", {"x": torch.ones(3)})
    assert kept.load_state(0, torch.device("cpu")) is not None
    content = (tmp_path / "kept/0.pt").read_bytes()
    for damaged in (b"", b"damaged", content[: len(content) // 2]):
        (tmp_path / "kept/0.pt").write_bytes(damaged)
        assert kept.load_state(0, torch.device("cpu")) is None


def test_a_result_file_that_was_damaged_meanwhile_is_computed_again(folder, tmp_path, computed):
    command = [folder / "brain.h5", "-o", tmp_path / "out", "--method", "cg_sense", "--format"]
    assert run(*command, "npy") == 0
    path = tmp_path / "out/brain/cg_sense.h5"
    whole = path.read_bytes()
    with h5py.File(path) as file:
        at = file["reconstruction"].id.get_chunk_info(1).byte_offset
    path.write_bytes(whole[: at + 20] + bytes(20) + whole[at + 40 :])
    (tmp_path / "out/brain/cg_sense.npy").rename(tmp_path / "before.npy")
    assert run(*command, "npy") == 0
    assert len(computed) == 4
    assert np.array_equal(np.load(tmp_path / "out/brain/cg_sense.npy"), np.load(tmp_path / "before.npy"))
    path.write_bytes(path.read_bytes()[:-100])
    assert run(*command, "npy") == 0
    assert len(computed) == 6
    assert [row["status"] for row in summary(tmp_path / "out")] == ["done"]


def test_a_volume_that_another_process_computes_is_left_to_it(folder, tmp_path, computed, capsys):
    command = [folder / "brain.h5", "-o", tmp_path / "out", "--method", "cg_sense", "zero_filled"]
    lock = tmp_path / "out/brain/.cg_sense.lock"
    with exclusive(lock):
        assert run(*command) == 1
        assert computed == ["zero_filled"] * 2
        assert "failed: brain, cg_sense: another process computes it now" in capsys.readouterr().err
        with pytest.raises(BlockingIOError), exclusive(lock):
            pass
    assert run(*command) == 0
    assert computed == ["zero_filled"] * 2 + ["cg_sense"] * 2
    assert not lock.exists()


def test_a_broken_scan_stops_no_other_and_is_one_line(folder, tmp_path, capsys):
    (folder / "broken.h5").write_bytes((folder / "brain.h5").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no scan")
    out = tmp_path / "out"
    assert run(folder, "-o", out, "--method", "fbp", "dds:steps=2,prior=mri") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("failed: broken: ")]) == 1
    assert any(line.startswith("skipped: ") and "notes.txt" in line for line in lines)
    assert any(line.startswith("failed: body, dds steps=2 prior=mri: no ct prior is named 'mri'") for line in lines)
    status = {(row["scan"], row["method"]): row["status"] for row in summary(out)}
    assert status == {
        ("brain", "dds steps=2 prior=mri"): "done",
        ("knee/brain", "dds steps=2 prior=mri"): "done",
        ("body", "fbp"): "done",
        ("body", "dds steps=2 prior=mri"): "failed",
        ("broken", ""): "failed",
    }


def test_an_unforeseen_error_of_one_volume_stops_no_other(folder, tmp_path, monkeypatch, capsys):
    def failing(problem, method, **named):
        if method.method == "cg_sense":
            raise RuntimeError("no such\nthing")
        return reconstruct_slice(problem, method, **named)

    monkeypatch.setattr(volume, "reconstruct_slice", failing)
    assert run(folder / "brain.h5", "-o", tmp_path / "out", "--method", "cg_sense", "zero_filled") == 1
    assert "failed: brain, cg_sense: RuntimeError: no such thing" in capsys.readouterr().err
    assert [row["status"] for row in summary(tmp_path / "out")] == ["failed", "done"]


def test_shards_write_into_one_folder_what_one_call_writes(folder, tmp_path):
    command = [folder, "--method", "zero_filled", "fbp", "--format", "npy", "--slices", 1]
    for number in (2, 1):
        assert run(*command, "-o", tmp_path / "shards", "--shard", f"{number}/2") == 0
    assert run(*command, "-o", tmp_path / "one") == 0
    assert files_of(tmp_path / "shards") == files_of(tmp_path / "one")
    for path in (tmp_path / "one").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "shards" / path.relative_to(tmp_path / "one")).read_bytes()
    assert {row["status"] for row in summary(tmp_path / "shards")} == {"done"}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shards_of_a_list_have_every_item_once(count):
    items = list(range(5))
    shards = [Shard(number + 1, count).of(items) for number in range(count)]
    assert sorted(item for shard in shards for item in shard) == items
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(ReconstructionError, match="I/N with I from 1 to N"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "magic"], "magic: no method 'magic'"),
        (["--method", "tv", "tv"], "two methods are called 'tv'"),
        (["--method", "a b=tv", "a-b=fbp"], "two methods would be files 'a-b'"),
        (["--method", "tv:iterations=0"], "iterations is 0, expected >= 1"),
        (["--method", "tv", "--format", "jpeg"], "'jpeg' is none of h5, npy, nifti, png"),
        (["--method", "tv", "--seeds", "0"], "--seeds: found 0, expected 1 to 64"),
        (["--method", "tv", "--shard", "3/2"], "--shard: found 3/2"),
        (["--method", "tv", "--device", "tpu9"], "device: found tpu9, expected"),
    ],
)
def test_a_command_that_cannot_be_is_refused_in_one_line_before_anything_is_computed(
    folder, tmp_path, capsys, arguments, said
):
    assert run(folder, "-o", tmp_path / "out", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_are_refused(tmp_path, capsys):
    assert run(tmp_path / "none.h5", "-o", tmp_path / "out", "--method", "tv") == 2
    assert "none.h5: No such file or directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "-o", tmp_path / "empty", "--method", "tv") == 2
    assert "results are kept apart from scans" in capsys.readouterr().err
    assert run(tmp_path / "empty", "-o", tmp_path / "out", "--method", "tv") == 2
    assert "found no file" in capsys.readouterr().err


def test_scans_are_called_by_their_place_in_the_folder_and_by_suffix_where_names_are_equal(tmp_path):
    names = ["a.h5", "b.cfl", "b.hdr", "c.h5", "c.npz", "d.npy.gz", "sub/a.h5", ".hidden/x.h5", "out/a/tv.h5", "e.hdr"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = {file.name: file.path.name for file in find_scan_files([tmp_path], tmp_path / "out")}
    assert found == {
        "a": "a.h5", "b": "b.cfl", "c.h5": "c.h5", "c.npz": "c.npz", "d": "d.npy.gz", "e": "e.hdr", "sub/a": "a.h5"
    }  # fmt: skip
    pair = find_scan_files([tmp_path / "b.hdr", tmp_path / "b.cfl", tmp_path])
    assert [file.path.name for file in pair].count("b.cfl") == 1
    assert pair[0].asked_for
    shutil.copytree(tmp_path / "sub", tmp_path / "more/sub")
    with pytest.raises(ReconstructionError, match="rename one"):
        find_scan_files([tmp_path / "sub/a.h5", tmp_path / "more/sub/a.h5"])
