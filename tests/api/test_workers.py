"""Workers and the queue as a tenant may see them."""

import uuid
from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from tests.support.keyed_client import KeyedApi, ask, bring
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.database.tables import JobSlice, Worker


def worker(database: sessionmaker[Session], name: str, seconds_ago: float = 0, **columns: Any) -> None:
    with database.begin() as session:
        seen = func.now() - timedelta(seconds=seconds_ago)
        session.add(Worker(name=name, device="cpu", seen_at=seen, **columns))


def work(database: sessionmaker[Session], drive: Drive, job: dict[str, Any], name: str) -> None:
    claim = drive.claim(job)
    drive.report(claim, 4)
    with database.begin() as session:
        session.execute(update(JobSlice).where(JobSlice.job_id == claim.job_id, claim.is_mine()).values(worker=name))


def test_each_worker_tells_what_it_is_and_what_it_is_at(
    client: TestClient, drive: Drive, scan: dict[str, Any], database: sessionmaker[Session]
) -> None:
    memory = {"memory_bytes": 1 << 33, "gpu": "GPU-1", "gpu_memory_used_bytes": 5, "gpu_memory_total_bytes": 7}
    worker(database, "host:1:a", **memory)
    worker(database, "host:2:b")
    worker(database, "host:3:c", seconds_ago=600)
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}).json()
    work(database, drive, job, "host:1:a")
    answer = client.get("/v1/workers")
    assert answer.headers["cache-control"] == "no-store"
    busy, idle, lost = answer.json()["items"]
    assert (busy["name"], busy["state"], busy["device"]) == ("host:1:a", "busy", "cpu")
    assert {name: busy[name] for name in memory} == memory
    at = busy["slice"]
    assert (at["job_id"], at["slice"], at["iteration"], at["iterations"]) == (job["id"], 0, 4, 10)
    assert 0 <= busy["heartbeat_age_seconds"] < 60
    assert (idle["state"], idle["slice"]) == ("idle", None)
    assert (lost["state"], lost["heartbeat_age_seconds"] >= 600) == ("lost", True)


def test_the_queue_is_told_by_priority(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
    routine = client.post("/v1/jobs", json=body).json()
    client.post("/v1/jobs", json={**body, "priority": "urgent", "slices": [1]})
    drive.claim(routine)
    urgent, other = client.get("/v1/workers").json()["queue"]
    assert (urgent["priority"], urgent["queued_slices"], urgent["running_slices"], urgent["waiting_jobs"]) == (
        "urgent", 1, 0, 1,
    )  # fmt: skip
    assert (other["priority"], other["queued_slices"], other["running_slices"], other["waiting_jobs"]) == (
        "routine", 1, 1, 1,
    )  # fmt: skip
    assert other["oldest_waiting_seconds"] >= 0
    drive.finish(drive.claim(routine, 1))
    assert client.get("/v1/workers").json()["queue"][1]["oldest_waiting_seconds"] is None


def test_of_another_tenants_slice_only_that_a_worker_is_busy_is_told(
    keyed_api: KeyedApi, drive: Drive, mri_file: bytes
) -> None:
    _, headers = keyed_api.key("a")
    job = ask(keyed_api, headers, bring(keyed_api, headers, mri_file))
    worker(keyed_api.database, "host:1:a")
    work(keyed_api.database, drive, job, "host:1:a")
    (own,) = keyed_api.client.get("/v1/workers", headers=headers).json()["items"]
    assert uuid.UUID(own["slice"]["job_id"]) == uuid.UUID(job["id"])
    answer = keyed_api.client.get("/v1/workers", headers=keyed_api.key("b", Scope.READ)[1])
    (seen,) = answer.json()["items"]
    assert (seen["state"], seen["slice"]) == ("busy", None)
    assert job["id"] not in answer.text
    assert keyed_api.client.get("/v1/workers", headers=keyed_api.key("b", Scope.WRITE)[1]).status_code == 403
