"""A worker of the version before the last migration finishes its jobs beside the API of now."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import h5py
import httpx
import pytest
from running import ROOT, until, working
from serving import serving

from worker.models import Status
from worker.settings import Settings

SLICES = 2
# Methods without a new knob since: for one the version before 0007 fails the job, where later ones leave it to others.
ASKED: list[dict[str, Any]] = [
    {"parameters": {"method": "udig_dip", "outer_iterations": 12}, "outputs": ["h5", "png", "nifti"]},
    {"parameters": {"method": "fbp"}, "slices": [1], "tags": {"study": "7"}},
]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The sources of the commit before the newest migration was added, which do not know it."""
    try:
        how = ("-1", "--format=%H", "--first-parent", "--diff-merges=first-parent", "--diff-filter=A")
        added = git("log", *how, "--", "migrations/versions").decode().split()[0]
        sources = git("archive", "--format=tar", f"{added}^", "api", "core", "worker", "migrations", "pyproject.toml")
    except (OSError, IndexError, subprocess.CalledProcessError):
        pytest.skip("the history of the repository is not here")
    with tarfile.open(fileobj=io.BytesIO(sources)) as archive:
        archive.extractall(tmp_path / "before", filter="data")
    return tmp_path / "before"


def revisions(checkout: Path) -> set[str]:
    return {path.name for path in (checkout / "migrations" / "versions").glob("*.py")}


@pytest.mark.slow
def test_it_finishes_jobs_that_the_api_of_now_takes(settings: Settings, before: Path, ct_file: bytes) -> None:
    assert len(revisions(ROOT) - revisions(before)) == 1
    with (
        serving(settings) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
        working(settings, checkout=before) as (worker,),
    ):
        scan = client.post("/v1/scans", content=ct_file).json()
        jobs = [client.post("/v1/jobs", json={"scan_id": scan["id"], **asked}).json() for asked in ASKED]
        ended = [until(lambda each=each: _ended(client, each["links"]["self"])) for each in jobs]
        for job, asked in zip(ended, ASKED, strict=True):
            assert (job["status"], job["error"], job["attempt"]) == ("succeeded", None, 1), job
            assert job["progress"]["slices_done"] == len(asked.get("slices", range(SLICES)))
            assert 0 < job["metrics"]["data_residual"] < 1
            answer = client.get(job["links"]["result"], params={"format": "h5"})
            with h5py.File(io.BytesIO(answer.content)) as file:
                assert file["reconstruction"].shape[0] == job["progress"]["slices"]
            assert client.get(job["links"]["progress"]).json()["items"]
        assert client.get(ended[0]["links"]["result"], params={"format": "nifti"}).status_code == 200
    said = [json.loads(line) for line in worker.lines if line.startswith("{")]
    assert [line for line in said if line["level"] in ("error", "critical")] == []


def _ended(client: httpx.Client, path: str) -> dict[str, Any] | None:
    job: dict[str, Any] = client.get(path).json()
    return job if Status(job["status"]).ended else None
