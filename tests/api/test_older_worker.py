"""Workers of older versions beside the API of now: they finish its jobs, or, before tables were renamed, do no harm."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import h5py
import httpx2
import pytest

from tests.support.api_server import serving
from tests.support.worker_processes import ROOT, until, working
from udig_recon.worker.database.tables import Status
from udig_recon.worker.settings import Settings

SLICES = 2
NEWEST = ""
RENAMED = "0013"  # the migration that gave tables other names: workers of before cannot use them
AFTER_RELEASE = "0008"  # the first migration that the released tables (0007) do not know
# Methods without a new parameter since: for one an older version leaves the job to a newer one.
ASKED: list[dict[str, Any]] = [
    {"parameters": {"method": "udig_dip", "outer_iterations": 12}, "outputs": ["h5", "png", "nifti"]},
    {"parameters": {"method": "fbp"}, "slices": [1], "tags": {"study": "7"}},
]
PATHS = ("api", "core", "worker", "migrations", "src", "pyproject.toml")


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The sources of the commit before a migration was added: of the newest one, or of what its name begins with."""
    try:
        how = ("--no-patch", "--format=%H", "--first-parent", "--diff-merges=first-parent", "--diff-filter=A")
        newest_first = git("log", *how, "--", f"migrations/versions/{request.param}*").decode().split()
        added = newest_first[0 if request.param == NEWEST else -1]
        there = git("ls-tree", "--name-only", f"{added}^").decode().split()
        sources = git("archive", "--format=tar", f"{added}^", *(path for path in PATHS if path in there))
    except (OSError, IndexError, subprocess.CalledProcessError):
        pytest.skip("the history of the repository is not here")
    with tarfile.open(fileobj=io.BytesIO(sources)) as archive:
        archive.extractall(tmp_path / "older", filter="data")
    return tmp_path / "older"


def revisions(checkout: Path) -> list[str]:
    return sorted(path.name[:4] for path in (checkout / "migrations" / "versions").glob("[0-9]*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("older", [NEWEST], indirect=True)
def test_it_finishes_jobs_that_the_api_of_now_takes(settings: Settings, older: Path, ct_file: bytes) -> None:
    theirs, ours = revisions(older), revisions(ROOT)
    assert theirs == ours[:-1]
    if ours[-1] == RENAMED:
        pytest.skip("the newest migration is the one that renamed tables")
    with (
        serving(settings) as served,
        httpx2.Client(base_url=served.url, timeout=60) as client,
        working(settings, checkout=older) as (worker,),
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


@pytest.mark.slow
@pytest.mark.parametrize("older", [RENAMED, AFTER_RELEASE], ids=["before the rename", "released"], indirect=True)
def test_one_that_knows_the_tables_by_other_names_does_no_harm(settings: Settings, older: Path, ct_file: bytes) -> None:
    """It ends by itself, without having taken, changed or lost a job, which a worker of now finishes."""
    assert revisions(older)[-1] < RENAMED
    with serving(settings) as served, httpx2.Client(base_url=served.url, timeout=60) as client:
        scan = client.post("/v1/scans", content=ct_file).json()
        first, second = (client.post("/v1/jobs", json={"scan_id": scan["id"], **asked}).json() for asked in ASKED)
        with working(settings, checkout=older) as (worker,):
            until(lambda: worker.process.poll() is not None)
        for job in (first, second):
            found = client.get(job["links"]["self"]).json()
            assert (found["status"], found["attempt"]) == ("queued", 0)
        # A second one beside a worker of now, which it must not disturb.
        with working(settings), working(settings, checkout=older):
            for job in (first, second):
                found = until(lambda job=job: _ended(client, job["links"]["self"]))
                assert (found["status"], found["error"], found["attempt"]) == ("succeeded", None, 1), found
        assert client.get(f"/v1/scans/{scan['id']}").status_code == 200
        assert client.get(first["links"]["result"], params={"format": "nifti"}).status_code == 200


def _ended(client: httpx2.Client, path: str) -> dict[str, Any] | None:
    job: dict[str, Any] = client.get(path).json()
    return job if Status(job["status"]).ended else None
