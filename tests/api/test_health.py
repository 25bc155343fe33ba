from typing import Any

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.worker.jobs.sweep import register
from udig_recon.worker.settings import Settings


def test_it_lives_without_anybody(settings: Settings) -> None:
    gone = {"database_url": "postgresql://nobody@/none?host=/nowhere", "redis_url": "unix:///nowhere/valkey.sock"}
    with TestClient(create_app(settings.model_copy(update=gone))) as client:
        assert client.get("/healthz").json()["status"] == "ok"
        ready = client.get("/readyz")
        assert ready.status_code == 503
        checks = ready.json()["checks"]
        assert [name for name in checks if checks[name] == "ok"] == ["disk", "sandbox"]
        away = client.get("/v1/jobs")
        assert away.status_code == 503
        assert int(away.headers["retry-after"]) > 0
        assert away.headers["content-type"] == "application/problem+json"


def test_it_is_ready_only_when_a_job_would_run(client: TestClient, drive: Drive) -> None:
    without = client.get("/readyz")
    assert without.status_code == 503
    assert "no worker" in without.json()["checks"].pop("workers")
    drive.worker()
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert set(ready.json()["checks"].values()) == {"ok"}


def test_checks_that_are_left_out_do_not_count(client: TestClient) -> None:
    ready = client.get("/readyz?exclude=workers&exclude=queue")
    assert (ready.status_code, set(ready.json()["checks"])) == (200, {"database", "disk", "storage", "sandbox"})
    assert client.get("/readyz?exclude=disk").status_code == 503
    wrong = client.get("/readyz?exclude=worker")
    assert wrong.status_code == 422
    assert "'workers'" in wrong.text


def test_a_worker_that_was_not_seen_lately_does_not_count(
    client: TestClient, drive: Drive, database: sessionmaker[Session]
) -> None:
    drive.worker()
    with database.begin() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 hour'"))
    assert client.get("/readyz").status_code == 503


def test_tables_of_another_version_are_not_ready(
    client: TestClient, drive: Drive, owner_database: sessionmaker[Session]
) -> None:
    drive.worker()
    with owner_database.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "run udig migrate" in ready.json()["checks"]["database"]


def test_a_full_disk_is_not_ready(settings: Settings, drive: Drive) -> None:
    drive.worker()
    with TestClient(create_app(settings.model_copy(update={"disk_reserve_bytes": 1 << 60}))) as client:
        assert client.get("/readyz").json()["checks"]["disk"] != "ok"
        assert client.get("/readyz").status_code == 503


def test_prometheus_reads_what_goes_on(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}})
    client.get("/v1/jobs/nonsense")
    client.head(f"/v1/scans/{scan['id']}")
    drive.worker()
    exposed = client.get("/metrics")
    found = samples(exposed.text)
    assert found["udig_jobs", "queued"] == 1
    assert found["udig_jobs", "failed"] == 0
    assert found["udig_workers",] == 1
    assert found["udig_queue_oldest_waiting_seconds",] >= 0
    assert found["udig_disk_free_bytes",] > 0
    assert found["udig_http_requests_total", "POST", "/v1/jobs", "202"] == 1
    assert found["udig_http_requests_total", "GET", "/v1/jobs/{job_id}", "422"] == 1
    assert found["udig_http_requests_total", "HEAD", "/v1/scans/{scan_id}", "200"] == 1
    assert scan["id"] not in exposed.text


def samples(exposed: str) -> dict[tuple[str, ...], float]:
    """(name, value of the label) -> value."""
    families = text_string_to_metric_families(exposed)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_metrics_answer_what_an_operator_asks(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    before = samples(client.get("/metrics").text)
    assert before["udig_job_failures_total", "worker-lost"] == before["udig_slices_completed_total",] == 0
    for _ in range(2):
        asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "webhook_url": None}
        job = client.post("/v1/jobs", json=asked).json()
    drive.claim(job)
    with database.begin() as session:
        session.execute(text("UPDATE job_slices SET queued_at = now() - interval '1 hour' WHERE status = 'queued'"))
        for name, used in (("a:1:x", 7 << 30), ("a:2:x", 6 << 30)):  # two workers, one GPU
            memory = {"gpu_memory_used_bytes": used, "gpu_memory_total_bytes": 8 << 30}
            register(session, name, "gpu", gpu="GPU-1", gpu_utilisation_percent=85, **memory)
        register(session, "a:4:x", "gpu", gpu="MIG-1", gpu_utilisation_percent=None)
        register(session, "a:3:x", "cpu")
    found = samples(client.get("/metrics").text)
    assert (found["udig_slices", "queued"], found["udig_slices", "running"]) == (3, 1)
    assert 3600 <= found["udig_queue_oldest_waiting_seconds",] < 7200
    assert found["udig_gpu_memory_used_bytes", "GPU-1"] == 7 << 30
    assert found["udig_gpu_memory_total_bytes", "GPU-1"] == 8 << 30
    assert found["udig_gpu_utilisation_ratio", "GPU-1"] == 0.85
    assert ("udig_gpu_utilisation_ratio", "MIG-1") not in found
    assert found["udig_gpu_workers", "GPU-1"] == 2
    assert found["udig_workers",] == 4
    drive.complete(client.post("/v1/jobs", json=asked).json())
    client.delete(f"/v1/jobs/{job['id']}")
    done = samples(client.get("/metrics").text)
    assert done["udig_slices_completed_total",] == 2
    assert done["udig_slice_compute_seconds_total",] == 10
    assert done["udig_jobs_finished_total", "succeeded"] == 1


def test_metrics_say_what_is_away(settings: Settings) -> None:
    gone = {"database_url": "postgresql://nobody@/none?host=/nowhere", "redis_url": "unix:///nowhere/valkey.sock"}
    with TestClient(create_app(settings.model_copy(update=gone))) as client:
        found = samples(client.get("/metrics").text)
    assert (found["udig_dependency_up", "database"], found["udig_dependency_up", "queue"]) == (0, 0)
    assert found["udig_disk_free_bytes",] > 0
    assert ("udig_workers",) not in found
