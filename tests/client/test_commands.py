"""The client's commands as their user types them."""

import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

from tests.support.client_world import Service
from udig_client import Client, cli
from udig_recon.core.cli import main as udig

PROJECT = tomllib.loads((Path(__file__).parents[2] / "client" / "pyproject.toml").read_text())["project"]


@pytest.fixture
def environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDIG_URL", service.url)
    monkeypatch.setenv("UDIG_KEY", service.key)


def test_the_entry_points_are_the_commands_and_no_other_has_their_names() -> None:
    points = PROJECT["entry-points"][udig.GROUP]
    loaded = {name: EntryPoint(name, target, udig.GROUP).load() for name, target in points.items()}
    assert {name: command.name for name, command in loaded.items()} == {name: name for name in points}
    assert list(loaded.values()) == list(cli.COMMANDS)
    assert not set(points) & set(udig.COMMANDS)
    assert all(isinstance(command, click.Command) for command in loaded.values())


@pytest.mark.usefixtures("environment")
def test_a_scan_goes_from_submit_to_a_file(mri_scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["submit", str(mri_scan), "--method", "tv", "--set", "iterations=5", "weight=0.01", "--slices", "0", "1"]
        )
        == 0
    )
    job_id, _, name = capfd.readouterr().out.strip().partition("  ")
    assert name == str(mri_scan)
    assert cli.main(["follow", job_id]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"{job_id}  succeeded")
    assert cli.main(["result", job_id, "-o", str(tmp_path / "image.npy")]) == 0
    assert np.load(tmp_path / "image.npy").shape == (2, 32, 32)
    capfd.readouterr()
    assert cli.main(["jobs", "--status", "succeeded", "-n", "1", "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    listed = json.loads(line)
    assert (listed["id"], listed["parameters"]["weight"], listed["slice_numbers"]) == (job_id, 0.01, [0, 1])
    assert cli.main(["cancel", job_id]) == 3
    error = capfd.readouterr().err
    assert error.startswith("error: Conflict: ")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("environment")
def test_submit_with_an_output_waits_and_saves(
    mri_scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.h5"
    assert cli.main(["submit", str(mri_scan), "--method", "zero_filled", "-o", str(image), "--tag", "study=knee"]) == 0
    with h5py.File(image) as file:
        assert file["reconstruction"].shape == (2, 32, 32)
    capfd.readouterr()
    assert cli.main(["jobs", "--tag", "study:knee"]) == 0
    assert "succeeded" in capfd.readouterr().out


@pytest.mark.usefixtures("environment")
def test_a_job_that_does_not_succeed_is_status_1(
    service: Service, mri_scan: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(service.url, service.key) as client:
        job = client.submit(mri_scan, "tv", iterations=100_000)
    assert cli.main(["cancel", job.id]) == 0
    capfd.readouterr()
    assert cli.main(["follow", job.id, "--json"]) == 1
    told = capfd.readouterr()
    assert json.loads(told.out.splitlines()[-1])["done"] is True
    assert told.err == f"error: job {job.id} was cancelled\n"
    assert cli.main(["result", job.id, "-o", "image.h5", "--wait"]) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["submit", "missing.h5"], 2, "missing.h5: No such file"),
        (["submit", "a.h5", "b.h5", "-o", "c.h5"], 2, "-o is for one scan"),
        (["submit", "a.h5", "--set", "iterations"], 2, "expected NAME=VALUE"),
        (["result", "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "-o", "image.tif"], 2, ".nii.gz"),
        (["result", "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "-o", "image.h5"], 3, "does not answer"),
        (["jobs", "--url", "ftp://nowhere"], 2, "expected http://HOST:PORT"),
        (["jobs", "--colour"], 2, "--colour"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UDIG_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("udig_client.client.PATIENCE_BEFORE_ANY_ANSWER", 0.0)
    assert cli.main(arguments) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
