"""A service on a bucket: jobs, results in ranges and by redirect, large uploads, and a store that goes away."""

import hashlib
import io
import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from tests.support.keyed_client import KeyedApi
from tests.support.moto_bucket import Moto
from tests.support.worker_processes import until, working
from udig_recon.api.app import create_app
from udig_recon.core import formats
from udig_recon.core.parameters import SIRT
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.worker.database.tables import Job, JobSlice, Preview, ResumableUpload
from udig_recon.worker.jobs import retention
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import direct_uploads, keys
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.orphans import delete_orphans

METHOD = SIRT(iterations=300, holdout_share=0)
TUS = {"Tus-Resumable": "1.0.0"}
LONG = {"method": "sirt", "iterations": 3000, "holdout_share": 0}


@pytest.fixture
def settings(settings: Settings, bucket_url: str) -> Settings:
    quick = {"store_timeout_seconds": 1, "store_retry_seconds": 1}
    return settings.model_copy(update={"data_store": bucket_url, **quick})


@pytest.fixture
def bucket(settings: Settings) -> Storage:
    return open_storage(settings)


def posted(client: TestClient, content: bytes, parameters: dict[str, Any], slices: list[int]) -> dict[str, Any]:
    scan = client.post("/v1/scans", content=content).json()
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": parameters, "slices": slices})
    assert job.status_code == 202, job.text
    found: dict[str, Any] = job.json()
    return found


def status(client: TestClient, job: dict[str, Any]) -> str:
    return str(client.get(job["links"]["self"]).json()["status"])


def test_a_job_has_the_bits_of_one_on_a_folder_and_outlives_the_store_s_absence(
    settings: Settings,
    client: TestClient,
    bucket: Storage,
    database: sessionmaker[Session],
    moto: Moto,
    ct_file: bytes,
    tmp_path: Path,
) -> None:
    with working(settings) as (worker,):
        job = posted(client, ct_file, METHOD.model_dump(), [0, 1])
        until(lambda: status(client, job) == "succeeded")
        answer = client.get(job["links"]["result"], params={"format": "npy"})
        delayed = posted(client, ct_file, LONG, [0])
        until(lambda: status(client, delayed) == "running")
        until(lambda: client.get(delayed["links"]["preview.png"]).status_code == 200)
        with database() as session:
            assert session.scalar(select(func.count()).select_from(Preview)) == 1
        os.kill(moto.process.pid, signal.SIGSTOP)
        try:
            until(lambda: worker.said("storage.unavailable"))
            assert status(client, delayed) == "running"
        finally:
            os.kill(moto.process.pid, signal.SIGCONT)
        until(lambda: status(client, delayed) == "succeeded")
        told = "".join(worker.lines)
    torch.set_num_threads(settings.threads)
    (tmp_path / "scan").write_bytes(ct_file)
    for slice_, image in enumerate(np.load(io.BytesIO(answer.content))):
        problem = slice_problem(formats.read(tmp_path / "scan", [slice_]), 0, torch.device("cpu"))
        *_, last = reconstruct(problem, METHOD, seed=0)
        np.testing.assert_array_equal(image, problem.magnitude(last.image))
    kinds = {each.key.split("/")[2] for each in bucket.list(keys.JOBS)}
    assert kinds == {"results"}
    # Nothing but copies and what no row names lies on the machine.
    assert {path.name for path in settings.data.iterdir()} <= {"incoming", "cache", "projectors"}
    assert list((settings.data / "incoming").iterdir()) == []
    with database() as session:
        assert session.scalar(select(func.count()).select_from(Preview)) == 0
        assert session.scalars(select(JobSlice.crashes)).all() == [0, 0, 0]
        rows = str(session.execute(text("SELECT to_jsonb(j)::text FROM jobs j")).all())
    assert "secret-of-the-bucket" not in told + rows


def test_results_come_in_ranges_with_our_tag_or_by_a_redirect_whose_digest_is_told(
    settings: Settings, client: TestClient, bucket: Storage, database: sessionmaker[Session], mri_file: bytes
) -> None:
    drive = Drive(database, bucket)
    job = posted(client, mri_file, {"method": "zero_filled"}, [0])
    drive.finish(drive.claim(job))
    whole = client.get(job["links"]["result"])
    digest = hashlib.sha256(whole.content).hexdigest()
    part = client.get(job["links"]["result"], headers={"Range": "bytes=3-9"})
    assert (part.status_code, part.content, part.headers["etag"]) == (206, whole.content[3:10], f'"{digest}"')
    known = {"If-None-Match": f'"{digest}"'}
    assert client.get(job["links"]["result"], headers=known).status_code == 304
    with TestClient(create_app(settings.model_copy(update={"result_redirect": True}))) as redirecting:
        answer = redirecting.get(job["links"]["result"], follow_redirects=False)
        assert (answer.status_code, answer.headers["etag"]) == (307, f'"{digest}"')
        assert httpx2.get(answer.headers["location"], headers={"Range": "bytes=3-9"}).content == part.content
        assert redirecting.get(job["links"]["result"], headers=known).status_code == 304
        head = redirecting.head(job["links"]["result"], follow_redirects=False).headers["location"]
        assert int(httpx2.head(head).headers["content-length"]) == len(whole.content)
        made = redirecting.get(job["links"]["result"], params={"format": "npy"}, follow_redirects=False)
        content = httpx2.get(made.headers["location"]).content
        assert made.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'


def test_a_store_that_is_away_is_told_by_readiness_and_as_503(
    client: TestClient, moto: Moto, database: sessionmaker[Session], bucket: Storage, mri_file: bytes
) -> None:
    job = posted(client, mri_file, {"method": "zero_filled"}, [0])
    os.kill(moto.process.pid, signal.SIGSTOP)
    try:
        answer = client.post("/v1/scans", content=mri_file)
        assert (answer.status_code, answer.json()["title"]) == (503, "Service Unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "does not answer" in answer.json()["detail"]
        assert client.get("/readyz").json()["checks"]["storage"] != "ok"
        # The row goes at once; what is left of its files goes as orphans.
        assert client.delete(job["links"]["self"]).status_code == 204
    finally:
        os.kill(moto.process.pid, signal.SIGCONT)
    assert client.get("/readyz").json()["checks"]["storage"] == "ok"
    assert client.post("/v1/scans", content=mri_file).status_code == 200
    # Unless the store has seen to a deletion whose answer nobody waited for any more.
    assert {group for group, _ in bucket.groups()} <= {f"jobs/{job['id']}"}
    delete_orphans(database, bucket, seconds=-1)
    assert list(bucket.groups()) == []


def test_objects_of_an_expired_job_go_though_its_row_stays(
    client: TestClient, database: sessionmaker[Session], bucket: Storage, mri_file: bytes
) -> None:
    job = posted(client, mri_file, {"method": "zero_filled"}, [0])
    with database.begin() as session:
        session.execute(update(Job).values(expired=True))
    bucket.put(f"jobs/{job['id']}/checkpoints/0.1.x.pt", b"late")
    delete_orphans(database, bucket, seconds=-1)
    assert list(bucket.groups()) == []


def test_the_age_of_an_orphan_is_by_the_store_s_clock(
    database: sessionmaker[Session], bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(keys.scan("0" * 64), b"of no row yet")
    now, later = bucket.now(), time.time() + 86400
    with monkeypatch.context() as machine:
        machine.setattr(time, "time", lambda: later)
        assert delete_orphans(database, bucket, seconds=3600) == 0
    monkeypatch.setattr(bucket, "now", lambda: now + 4000)
    assert delete_orphans(database, bucket, seconds=3600) == 1


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_uploads, "LEAST_PART_BYTES", 4096)


def send(parts: list[dict[str, Any]], content: bytes) -> None:
    for part in parts:
        body = content[part["offset"] : part["offset"] + part["size_bytes"]]
        assert httpx2.request(part["method"], part["url"], content=body, headers=part["headers"]).status_code == 200


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_goes_straight_to_the_bucket_and_becomes_a_scan(
    client: TestClient, bucket: Storage, database: sessionmaker[Session], mri_file: bytes
) -> None:
    asked = {"size_bytes": len(mri_file), "filename": "brain.h5", "sha256": hashlib.sha256(mri_file).hexdigest()}
    begun = client.post("/v1/direct-uploads", json=asked)
    assert begun.status_code == 201
    upload, where = begun.json(), begun.headers["location"]
    first, *others = upload["missing"]
    assert len(others) > 1
    send(others, mri_file)
    early = client.post("/v1/scans", json={"upload_id": upload["id"]})
    assert (early.status_code, early.json()["missing"]) == (409, [1])
    assert client.get(f"/v1/uploads/{upload['id']}").status_code == 200
    left = client.get(where).json()
    assert [part["number"] for part in left["missing"]] == [1]
    assert left["offset_bytes"] == len(mri_file) - first["size_bytes"]
    send(left["missing"], mri_file)
    scan = client.post("/v1/scans", json={"upload_id": upload["id"]})
    assert (scan.status_code, scan.json()["sha256"], scan.json()["filename"]) == (201, asked["sha256"], "brain.h5")
    assert list(bucket.list(keys.PARTS)) == []
    assert client.get(where).json()["scan_id"] == scan.json()["id"]
    # A request that was signed before still works: what it leaves is an orphan.
    send([first], mri_file)
    assert delete_orphans(database, bucket, seconds=-1) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_direct_upload_has_the_limits_and_the_end_of_any_other(
    settings: Settings, client: TestClient, bucket: Storage, database: sessionmaker[Session], mri_file: bytes
) -> None:
    assert client.post("/v1/direct-uploads", json={"size_bytes": settings.max_upload_bytes + 1}).status_code == 413
    wrong = {"size_bytes": len(mri_file), "sha256": "0" * 64}
    upload = client.post("/v1/direct-uploads", json=wrong).json()
    send(upload["missing"], mri_file)
    assert client.post("/v1/scans", json={"upload_id": upload["id"]}).status_code == 422
    assert list(bucket.list(keys.PARTS)) == []
    upload = client.post("/v1/direct-uploads", json={"size_bytes": 5000}).json()
    send(upload["missing"][:1], bytes(5000))
    patch = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert client.patch(f"/v1/uploads/{upload['id']}", content=b"x", headers=patch).status_code == 409
    with database.begin() as session:
        session.execute(update(ResumableUpload).values(expires_at=func.now() - timedelta(seconds=1)))
    assert retention.expire(database, bucket) == 1
    assert client.get(f"/v1/direct-uploads/{upload['id']}").status_code == 410
    assert list(bucket.list(keys.PARTS)) == []


def test_a_direct_upload_counts_against_the_quotas_from_its_beginning(keyed_api: KeyedApi) -> None:
    _, headers = keyed_api.key("a")
    client = keyed_api.client
    keyed_api.limit("a", max_stored_bytes=10_000)
    begun = client.post("/v1/direct-uploads", json={"size_bytes": 6000}, headers=headers)
    assert begun.status_code == 201
    refused = client.post("/v1/direct-uploads", json={"size_bytes": 6000}, headers=headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    assert "max_stored_bytes" in refused.json()["detail"]
    keyed_api.limit("a", max_stored_bytes=None, max_unfinished_uploads=1)
    refused = client.post("/v1/direct-uploads", json={"size_bytes": 6000}, headers=headers)
    assert (refused.status_code, "max_unfinished_uploads" in refused.json()["detail"]) == (429, True)
    assert client.delete(f"/v1/uploads/{begun.json()['id']}", headers={**headers, **TUS}).status_code == 204
    assert client.post("/v1/direct-uploads", json={"size_bytes": 6000}, headers=headers).status_code == 201


@pytest.mark.usefixtures("small_parts")
def test_direct_uploads_begin_and_end_while_the_store_is_away(
    client: TestClient, moto: Moto, bucket: Storage, database: sessionmaker[Session]
) -> None:
    first = client.post("/v1/direct-uploads", json={"size_bytes": 5000}).json()
    send(first["missing"][:1], bytes(5000))
    os.kill(moto.process.pid, signal.SIGSTOP)
    try:
        second = client.post("/v1/direct-uploads", json={"size_bytes": 5000})
        assert (second.status_code, len(second.json()["missing"])) == (201, 2)
        assert client.get(second.headers["location"]).status_code == 503
        assert client.delete(f"/v1/uploads/{first['id']}", headers=TUS).status_code == 204
    finally:
        os.kill(moto.process.pid, signal.SIGCONT)
    assert client.get(f"/v1/direct-uploads/{first['id']}").status_code == 404
    delete_orphans(database, bucket, seconds=-1)
    assert list(bucket.list(keys.PARTS)) == []


def test_an_upload_that_becomes_a_scan_while_its_parts_are_asked_for_is_told_as_busy(
    client: TestClient, database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = client.post("/v1/direct-uploads", json={"size_bytes": 5000}).json()

    def overtaken(*_: object) -> list[direct_uploads.Part]:
        with database.begin() as session:
            session.execute(update(ResumableUpload).values(stored_at=func.now()))
        return []

    monkeypatch.setattr(direct_uploads, "missing_parts", overtaken)
    assert client.get(f"/v1/direct-uploads/{upload['id']}").status_code == 423
    assert client.get(f"/v1/direct-uploads/{upload['id']}").json()["missing"] == []


def test_a_service_on_a_folder_says_how_it_takes_large_files(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    with TestClient(create_app(settings.model_copy(update={"data_store": None}))) as client:
        answer = client.post("/v1/direct-uploads", json={"size_bytes": 5000})
        assert answer.status_code == 409
        assert "/v1/uploads" in json.dumps(answer.json())
