"""Every program tells what it is for, and refuses what it does not know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
PROGRAMS = (
    "udig_recon.core",
    "udig_recon.worker",
    "udig_recon.worker.standalone.serve",
    "udig_recon.worker.runtime.health",
    "udig_recon.worker.database.migrate",
    "udig_recon.worker.cli.postgres",
    "udig_recon.api",
)
COMMANDS = (
    *(f"udig_recon.core {name}" for name in ("compare", "train-prior", "convert-prior", "calibrate-ood")),
    *(f"udig_recon.worker {name}" for name in ("keys", "tenants", "webhook-secret", "data-folder", "audit")),
)
WITHOUT_ARGUMENTS = ("udig_recon.worker.standalone.serve", "udig_recon.worker.runtime.health", "udig_recon.api")


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A program without any settings."""
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("program", [*PROGRAMS, *COMMANDS])
def test_help_is_printed(program: str) -> None:
    done = run(*program.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {program}")
    assert done.stderr == ""


@pytest.mark.parametrize("program", WITHOUT_ARGUMENTS)
def test_help_lists_every_setting(program: str) -> None:
    told = run(program, "--help").stdout
    assert [name for name in Settings.model_fields if f"  {name.upper()} (" not in told] == []


@pytest.mark.parametrize("program", ["udig_recon.worker.database.migrate", *WITHOUT_ARGUMENTS])
def test_what_is_not_known_is_refused(program: str) -> None:
    done = run(program, "--port", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: --port 1" in done.stderr
