"""The client's commands: where they are found, and what they refuse. Their journeys are in test_operations.py."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from udig_client import cli
from udig_recon.core.cli import main as udig

PROJECT = tomllib.loads((Path(__file__).parents[2] / "client" / "pyproject.toml").read_text())["project"]


def test_the_entry_points_are_the_commands_and_no_other_has_their_names() -> None:
    points = PROJECT["entry-points"][udig.GROUP]
    loaded = {name: EntryPoint(name, target, udig.GROUP).load() for name, target in points.items()}
    assert {name: command.name for name, command in loaded.items()} == {name: name for name in points}
    assert list(loaded.values()) == list(cli.COMMANDS)
    assert not set(points) & set(udig.COMMANDS)
    assert all(isinstance(command, click.Command) for command in loaded.values())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["submit", "missing.h5"], 2, "missing.h5: No such file"),
        (["submit", "a.h5", "b.h5", "-o", "c.h5"], 2, "are for one scan, and there are 2"),
        (["submit", "a.h5", "--set", "iterations"], 2, "expected NAME=VALUE"),
        (["result", "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "-o", "image.tif"], 2, ".nii.gz"),
        (["result", "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "-o", "image.h5"], 3, "does not answer"),
        # Before the scan, which is not there either, is uploaded and computed.
        (["submit", "missing.h5", "-o", "image.tif"], 2, ".nii.gz"),
        (["submit", "missing.h5", "-o", "nowhere/image.h5"], 2, "in a folder that is there"),
        (
            ["result", "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "--wait", "--format", "h5", "-o", "."],
            2,
            "name of a file",
        ),
        (["jobs", "--key", "udig_a\nb"], 2, "a character that no key has"),
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
    monkeypatch.setattr("udig_client.retry.PATIENCE_BEFORE_ANY_ANSWER", 0.0)
    assert cli.main(arguments) == status
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
