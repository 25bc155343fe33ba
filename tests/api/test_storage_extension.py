"""A storage backend of another distribution, through the service: DATA_STORE chooses it by its scheme."""

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans, sqlite_storage
from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.sqlite_storage import SqliteStorage
from tests.support.worker_processes import until, working
from udig_recon.core import formats
from udig_recon.core.parameters import SIRT
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.orphans import delete_orphans

METHOD = SIRT(iterations=300, holdout_share=0)
JOB: dict[str, Any] = {
    "parameters": METHOD.model_dump(),
    "slices": [0, 1],
    "outputs": ["h5", "png"],
}


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a service whose objects lie in a SQLite database, by a backend that processes find."""
    source = Path(sqlite_storage.__file__).read_text()
    points = {"udig_recon.storage": "sqlite = toy_storage:SqliteStorage"}
    monkeypatch.setenv("PYTHONPATH", path_with(install(tmp_path / "site", "toy_storage", source, points)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return settings.model_copy(update={"data": tmp_path / "scratch", "data_store": f"sqlite:{tmp_path / 'objects'}"})


def result_of(settings: Settings) -> np.ndarray:
    """The images of the job by a service with these settings, after its previews and downloads were looked at."""
    with serving(settings) as served, working(settings), httpx2.Client(base_url=served.url, timeout=60) as client:
        scan = client.post("/v1/scans", content=scans.GOOD["sinogram"](settings.data / "scan").read_bytes()).json()
        job = client.post("/v1/jobs", json={**JOB, "scan_id": scan["id"]}).json()
        links = job["links"]
        until(lambda: client.get(links["preview.png"]).status_code == 200)
        until(lambda: client.get(links["self"]).json()["status"] == "succeeded")
        assert client.get(links["preview.png"]).status_code == 200
        for name in ("h5", "png", "nifti"):
            assert client.get(links["result"], params={"format": name}).status_code == 200
        part = client.get(links["result"], params={"format": "npy"}, headers={"Range": "bytes=0-9"})
        whole = client.get(links["result"], params={"format": "npy"})
        assert (part.status_code, part.content) == (206, whole.content[:10])
    return np.load(io.BytesIO(whole.content))


def test_a_job_runs_on_a_foreign_backend_to_the_same_bits_and_leaves_no_other_file(
    elsewhere: Settings, database: sessionmaker[Session]
) -> None:
    elsewhere.data.mkdir()
    images = result_of(elsewhere)
    torch.set_num_threads(elsewhere.threads)
    for slice_, image in enumerate(images):
        problem = slice_problem(formats.read(elsewhere.data / "scan", [slice_]), 0, torch.device("cpu"))
        *_, last = reconstruct(problem, METHOD, seed=0)
        np.testing.assert_array_equal(image, problem.magnitude(last.image))
    storage = open_storage(elsewhere)
    assert type(storage).__name__ == SqliteStorage.__name__
    assert sorted(p.name for p in elsewhere.data.rglob("*") if p.suffix != ".pair") == [
        "incoming",
        "projectors",
        "scan",
    ]
    with closing(sqlite3.connect(str(elsewhere.data_store).removeprefix("sqlite:"))) as rows:
        stored = [key for (key,) in rows.execute("SELECT key FROM objects")]
    kinds = {key.split("/")[0] for key in stored}
    assert kinds == {keys.SCANS, keys.PREPARED, keys.JOBS, keys.IDENTITY}
    assert {key.split("/")[2] for key in stored if key.startswith(keys.JOBS)} == {"results"}
    storage.put(keys.scan("0" * 64), b"of no row")
    assert delete_orphans(database, storage, seconds=-1) == 1
    assert not storage.exists(keys.scan("0" * 64))


def test_an_unknown_scheme_is_refused_with_those_there_are(elsewhere: Settings) -> None:
    wrong = elsewhere.model_copy(update={"data_store": "tape:/dev/st0"})
    with pytest.raises(SystemExit, match=r"DATA_STORE: found scheme 'tape', expected one of az, .*, sqlite"):
        open_storage(wrong)


def test_a_broken_backend_is_named_with_its_fault(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"udig_recon.storage": "tape = toy_tape:Tape"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "toy_tape", "import not_there", points))
    with pytest.raises(SystemExit, match=r"error: DATA_STORE: .*tape.*ModuleNotFoundError"):
        open_storage(settings.model_copy(update={"data_store": "tape:/dev/st0"}))
