"""A prior is adapted to undersampled scans without references, judged by measurements that it was not tuned on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.main import main
from udig_recon.core.priors.architectures import ADMNetwork, EDMNetwork
from udig_recon.core.priors.card import Card, find_card
from udig_recon.core.priors.load import load_prior, save_prior
from udig_recon.core.problem import slice_problem
from udig_recon.core.training import adaptation
from udig_recon.core.training.adaptation import TrainingSlice, Tuning, adapt_prior
from udig_recon.core.training.state import Training

CPU = torch.device("cpu")
TUNING = Tuning(steps=3, batch=1, patch=16)


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    monkeypatch.setattr(adaptation, "PURIFICATIONS", 3)
    monkeypatch.setattr(adaptation, "TV_ITERATIONS", 3)


@pytest.fixture
def priors(tmp_path):
    """A folder with an untrained prior of a few channels for each modality."""
    torch.manual_seed(0)
    for modality, channels in ((Modality.MRI, 2), (Modality.CT, 1)):
        network = EDMNetwork(channels=channels, widths=(8, 8), blocks=1)
        save_prior(
            Training(channels, 1, 1e-3, 0.9, widths=(8, 8), blocks=1).weights(),
            card(network, modality),
            folder(tmp_path),
        )
    return folder(tmp_path)


def folder(tmp_path):
    return tmp_path / "priors"


def card(network, modality):
    return Card(
        name=f"tiny-{modality}",
        modality=modality,
        description="For tests.",
        network=network,
        sha256="",
        data=("ellipses: none",),
        held_out=("ben",),
        training={},
        scores={},
        limits="Untrained.",
    )


@pytest.fixture
def scan(tmp_path):
    """A file whose name tells who was scanned."""
    return scans.write_hdf5(tmp_path / "jane-doe.h5", **scans.mri())


def adapt(scan, priors, *further, modality="mri"):
    knobs = ["--prior", f"tiny-{modality}", "--priors", str(priors), "--name", "own", "--steps", "3"]
    return main(["adapt-prior", str(scan), "-o", str(priors), *knobs, *further])


def training_slice(modality, tmp_path):
    parts = scans.mri(slices=1) if modality is Modality.MRI else scans.ct(slices=1)
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / f"{modality}.h5", **parts)), 0, CPU)
    return TrainingSlice.split(problem, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("modality", list(Modality))
def test_measurements_left_out_judge_the_tuned_prior_and_never_shape_it(modality, priors, tmp_path):
    prior = load_prior(f"tiny-{modality}", modality, priors, CPU)
    network = find_card(f"tiny-{modality}", modality, priors).network
    whole = training_slice(modality, tmp_path)
    changed = whole.inputs.y + 100 * (whole.inputs.A.measured & ~whole.train) * whole.inputs.y
    other = replace(whole, inputs=replace(whole.inputs, y=changed))
    found, again, judged = (adapt_prior(prior, network, [each], modality, TUNING) for each in (whole, whole, other))
    assert all(torch.equal(found.weights[name], again.weights[name]) for name in found.weights)
    assert (found.before, found.after) == (again.before, again.after)
    assert all(torch.equal(found.weights[name], judged.weights[name]) for name in found.weights)
    assert judged.before != found.before
    kept = prior.state_dict()
    assert any(not torch.equal(kept[name], found.weights[name].float()) for name in kept)


def test_the_unit_of_a_slice_does_not_depend_on_measurements_left_out(tmp_path):
    problem = training_slice(Modality.MRI, tmp_path).problem
    split = TrainingSlice.split(problem, torch.Generator().manual_seed(0))
    changed = replace(problem, measurements=problem.measurements * (1 + 5 * ~split.train))
    assert torch.equal(TrainingSlice.split(changed, torch.Generator().manual_seed(0)).start, split.start)


def test_a_better_prior_is_written_with_a_card_that_names_no_file_and_is_used_by_its_name(
    scan, priors, tmp_path, monkeypatch
):
    monkeypatch.setattr(adaptation, "LEAST_GAIN", -1.0)
    assert adapt(scan, priors, "--slices-per-scan", "1") == 0
    text = (priors / "own.json").read_text()
    assert "jane" not in text
    written = json.loads(text)
    assert written["training"]["people"] == "not known"
    assert written["training"]["started_from_sha256"] == find_card("tiny-mri", Modality.MRI, priors).sha256
    assert [entry.split(",")[1] for entry in written["data"][:1]] == [" 1 slices"]
    assert written["held_out"] == ["ben"]
    assert written["scores"].keys() == {"left_out_residual_before", "left_out_residual"}
    knobs = ["--set", "prior=own", "preset=preview", "outer_iterations=2", "--priors", str(priors), "--slices", "0"]
    assert main(["recon", str(scan), "-o", str(tmp_path / "out.npy"), *knobs]) == 0
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
    assert adapt(scan, priors) == 2  # the name is taken


def test_a_prior_that_is_not_better_is_not_written(scan, priors, monkeypatch, capsys):
    monkeypatch.setattr(adaptation, "LEAST_GAIN", 1.0)
    assert adapt(scan, priors, "--slices-per-scan", "1") == 1
    assert not (priors / "own.json").exists()
    assert "stays the better one" in capsys.readouterr().err


def test_what_cannot_be_adapted_is_refused_in_one_line(scan, priors, tmp_path, capsys):
    sinogram = scans.write_hdf5(tmp_path / "ct.h5", **scans.ct())
    centre = scans.mri(slices=1)
    centre["mask"] = np.abs(np.arange(32) - 15.5) < 4
    centre["kspace"] = centre["kspace"] * centre["mask"]
    published = ADMNetwork(channels=2, width=32, multipliers=(1,), blocks=1, head_channels=32)
    save_prior({"weight": torch.zeros(1)}, card(published, Modality.MRI).model_copy(update={"name": "adm"}), priors)
    for arguments, word in (
        ([str(scan), str(sinogram)], "one modality"),
        ([str(scans.write_hdf5(tmp_path / "centre.h5", **centre))], "no slice with signal"),
        ([str(scan), "--steps", "0"], "1 or more"),
        ([str(scan), "--learning-rate", "2"], "at most 1"),
        ([str(scan), "--name", "a/b"], "letters"),
        ([str(scan), "--name", "mri"], "another name"),
        ([str(scan), "--prior", "adm"], "architecture adm"),
    ):
        knobs = ["-o", str(priors), "--prior", "tiny-mri", "--priors", str(priors), "--name", "own"]
        assert main(["adapt-prior", *knobs, *arguments]) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert word in error
