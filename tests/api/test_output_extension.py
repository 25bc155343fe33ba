"""An output format of another distribution, through the service and the command line."""

import io
import os
import subprocess
import sys
from pathlib import Path

import h5py
import httpx2
import numpy as np
import pytest

from tests.support import scans
from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.worker_processes import until, working
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.settings import Settings

MAXIMA = """
    from contextlib import contextmanager

    from udig_recon.core.results.output_format import OutputFormat


    class Writer:
        def __init__(self, file):
            self.file = file

        def add(self, result):
            self.file.write(f"{result.image.max():.6g} of {result.direct.max():.6g}\\n")


    @contextmanager
    def open_writer(path, info):
        with path.open("w") as file:
            file.write(f"slices {info.slice_numbers} of {info.attributes['modality']}\\n")
            yield Writer(file)


    FORMAT = OutputFormat(
        "maxima", ".maxima.txt", "text/x-maxima", "the largest value of each slice", open_writer, pixel_bytes=1
    )
"""


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on find the format."""
    folder = install(tmp_path / "site", "toy_output", MAXIMA, {"udig_recon.outputs": "maxima = toy_output:FORMAT"})
    monkeypatch.setenv("PYTHONPATH", path_with(folder))


@pytest.mark.usefixtures("extended")
def test_a_format_of_another_distribution_is_requested_written_and_downloaded(
    settings: Settings, mri_file: bytes
) -> None:
    with serving(settings) as served, working(settings), httpx2.Client(base_url=served.url) as client:
        schema = client.get("/openapi.json").json()["components"]["schemas"]
        assert schema["JobIn"]["properties"]["outputs"]["items"]["enum"] == [*OUTPUTS, "maxima"]
        scan = client.post("/v1/scans", content=mri_file).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
        jobs = []
        for outputs in (["maxima", "h5"], ["h5"]):
            posted = client.post("/v1/jobs", json={**body, "outputs": outputs})
            assert posted.status_code in (201, 202), posted.text
            jobs.append(posted.json()["links"])
        for links in jobs:
            until(lambda links=links: client.get(links["self"]).json()["status"] == "succeeded")
        written = sorted(path.name for path in settings.data.glob("jobs/*/results/*/*"))
        assert written == ["reconstruction.h5", "reconstruction.h5", "reconstruction.maxima.txt"]
        whole = client.get(jobs[0]["result"], params={"format": "h5"})
        with h5py.File(io.BytesIO(whole.content)) as file:
            largest = np.stack([file["reconstruction"], file["zero_filled"]]).max(axis=(2, 3)).T
        expected = "slices (0, 1) of mri\n" + "".join(f"{a:.6g} of {b:.6g}\n" for a, b in largest)
        for links in jobs:
            for how in ({"params": {"format": "maxima"}}, {"headers": {"Accept": "text/x-maxima"}}):
                found = client.get(links["result"], **how)
                assert (found.status_code, found.text) == (200, expected)
                assert found.headers["content-type"].startswith("text/x-maxima")
                assert found.headers["content-disposition"].endswith('.maxima.txt"')
        assert client.get(jobs[0]["result"]).text == expected
        assert client.get(jobs[0]["result"], params={"format": "minima"}).status_code == 422


@pytest.mark.long
@pytest.mark.usefixtures("extended")
def test_the_command_line_writes_a_format_of_another_distribution(tmp_path: Path) -> None:
    scan = scans.GOOD["fastmri"](tmp_path / "scan.h5")
    command = [sys.executable, "-m", "udig_recon.core", "recon", str(scan), "-o", str(tmp_path / "out.maxima.txt")]
    subprocess.run([*command, "--method", "zero_filled"], check=True, capture_output=True, env=os.environ)
    assert (tmp_path / "out.maxima.txt").read_text().splitlines()[0] == "slices (0, 1) of mri"


BROKEN = {
    "absent": ("", "toy = toy_output:FORMAT", "AttributeError"),
    "another_kind": ("FORMAT = 3\n", "toy = toy_output:FORMAT", "expected an OutputFormat"),
    "same_suffix": (MAXIMA.replace(".maxima.txt", ".png"), "maxima = toy_output:FORMAT", "the format png"),
    "fails": ("import not_there\n", "toy = toy_output:FORMAT", "ModuleNotFoundError"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_extension_is_named_with_its_fault(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, line, fault = BROKEN[name]
    monkeypatch.setenv(
        "PYTHONPATH", path_with(install(tmp_path / "site", "toy_output", source, {"udig_recon.outputs": line}))
    )
    program = [sys.executable, "-c", "import udig_recon.core.results.outputs"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    message = ended.stderr.splitlines()[-1]
    assert "BrokenExtension: " in message
    assert line.partition(" ")[0] in message
    assert fault in message
