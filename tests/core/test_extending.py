"""The distribution that docs/extending.md shows, taken from the page and used as its reader would."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.support import scans
from tests.support.environment import ROOT
from tests.support.extension import path_with

pytestmark = pytest.mark.long


@pytest.fixture
def acme(tmp_path: Path) -> dict[str, str]:
    """An environment in which the distribution is installed."""
    page = (ROOT / "docs" / "extending.md").read_text()
    blocks = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', page, re.DOTALL))
    project = tomllib.loads(blocks.pop("pyproject.toml"))["project"]
    site = tmp_path / "site"
    (site / "acme_recon").mkdir(parents=True)
    (site / "acme_recon" / "__init__.py").touch()
    for name, text in blocks.items():
        (site / name).write_text(text)
    metadata = site / "acme_recon-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return os.environ | {"PYTHONPATH": path_with(site)}


def udig(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "udig_recon.core", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_page_is_enough_to_add_a_method_a_format_and_an_output(acme: dict[str, str], tmp_path: Path) -> None:
    listed = udig(acme, "methods", "landweber")
    assert listed.returncode == 0, listed.stderr
    assert "step_size" in listed.stdout
    kspace = scans.mri()["kspace"].astype("<c8")
    line = "ACME " + " ".join(map(str, kspace.shape)) + "\n"
    scan = tmp_path / "scan.acme"
    scan.write_bytes(line.encode() + kspace.tobytes())
    done = udig(
        acme, "recon", str(scan), "-o", str(tmp_path / "out.csv"), "--method", "landweber", "--set", "iterations=20"
    )
    assert done.returncode == 0, done.stderr
    head, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert head == "slice,mean,maximum"
    values = np.array([[float(text) for text in row.split(",")] for row in rows])
    assert values[:, 0].tolist() == [0, 1]
    assert (values[:, 2] > values[:, 1]).all()
    assert (values[:, 1] > 0).all()


def test_its_format_refuses_a_file_that_is_cut_short(acme: dict[str, str], tmp_path: Path) -> None:
    scan = tmp_path / "scan.acme"
    scan.write_bytes(b"ACME 1 2 8 8\n" + bytes(8))
    done = udig(acme, "recon", str(scan), "-o", str(tmp_path / "out.csv"))
    assert done.returncode == 2
    assert "kspace: found 8 bytes for shape [1, 2, 8, 8], expected 1024 bytes" in done.stderr


def test_without_the_distribution_nothing_of_it_is_known(tmp_path: Path) -> None:
    listed = udig(dict(os.environ), "methods", "landweber")
    assert listed.returncode == 2
    assert "landweber" in listed.stderr
