"""A queue or database that hangs (which is not down: its sockets stay open) makes no answer lie, and none wait for it.

Every answer here comes while the server is stopped, and so without it.
"""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import serving
from udig_recon.api.app import create_app
from udig_recon.api.jobs.enqueue import Publisher
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import SERVICE
from udig_recon.worker.database.tables import Job
from udig_recon.worker.jobs import queue
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import EmbeddedServers

pytestmark = pytest.mark.service

PATIENCE_SECONDS = 20.0  # of the client, far above what the answers take: they are to come at all


class Own(NamedTuple):
    """A service on servers of its own, and their processes."""

    url: str
    valkey: list[int]
    postgres: list[int]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    folder = tmp_path_factory.mktemp("own")
    servers = EmbeddedServers(folder / "data")
    servers.start()
    try:
        migrate(servers.migration_database_url, service=SERVICE)
        settings = Settings(
            database_url=servers.database_url,
            redis_url=servers.redis_url,
            data=folder / "data",
            port=0,
            disk_reserve_bytes=0,
        )
        with serving(settings) as served:
            yield Own(served.url, *(processes_of(folder, name) for name in ("valkey.pid", "postmaster.pid")))
    finally:
        servers.stop()


def processes_of(folder: Path, pid_file: str) -> list[int]:
    (found,) = folder.rglob(pid_file)
    return [int(found.read_text().split()[0])]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes and their children that do nothing meanwhile."""
    held: list[int] = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # first, so that it makes no further children
            held += [pid, *children_of(pid)]
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in held:
            os.kill(pid, signal.SIGCONT)


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(status.parent.name)] if int(fields[1]) == pid else []
    return found


@pytest.fixture
def scan_id(own: Own, mri_file: bytes) -> str:
    answer = httpx2.post(own.url + "/v1/scans", content=mri_file, timeout=60)
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def asked(scan_id: str) -> dict[str, Any]:
    return {"scan_id": scan_id, "parameters": {"method": "zero_filled"}, "slices": [0]}


def test_a_job_is_accepted_at_once_and_once_while_the_queue_hangs(own: Own, scan_id: str) -> None:
    with httpx2.Client(base_url=own.url, timeout=PATIENCE_SECONDS) as client:
        before = {job["id"] for job in client.get("/v1/jobs").json()["items"]}
        with stopped(own.valkey):
            made = [client.post("/v1/jobs", json=asked(scan_id)) for _ in range(3)]
            ready, metrics = client.get("/readyz"), client.get("/metrics")
        now = {job["id"] for job in client.get("/v1/jobs").json()["items"]}
    assert [answer.status_code for answer in made] == [202] * 3
    assert now - before == {answer.json()["id"] for answer in made}
    assert ready.status_code == 503
    checks = ready.json()["checks"]
    assert (checks["database"], checks["disk"]) == ("ok", "ok")
    assert checks["queue"] != "ok"
    assert 'udig_dependency_up{dependency="queue"} 0.0' in metrics.text
    assert 'udig_dependency_up{dependency="database"} 1.0' in metrics.text


def test_nothing_waits_for_a_database_that_hangs_and_nothing_is_done_that_was_denied(own: Own, scan_id: str) -> None:
    with httpx2.Client(base_url=own.url, timeout=PATIENCE_SECONDS) as client:
        job = client.post("/v1/jobs", json=asked(scan_id)).json()
        before = client.get("/v1/jobs").json()
        with stopped(own.postgres):
            denied = [
                client.get(job["links"]["self"]),
                client.get("/v1/jobs"),
                client.post("/v1/jobs", json=asked(scan_id)),
                client.post(job["links"]["cancel"]),
            ]
            ready, metrics, alive = (client.get(path) for path in ("/readyz", "/metrics", "/healthz"))
        until_answered(client, job["links"]["self"])
        assert client.get("/v1/jobs").json() == before
    assert [answer.status_code for answer in denied] == [503] * len(denied)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in denied)
    assert ready.json()["checks"]["queue"] == "ok"
    assert ready.json()["checks"]["database"] != "ok"
    assert 'udig_dependency_up{dependency="database"} 0.0' in metrics.text
    assert (ready.status_code, alive.status_code) == (503, 200)


def test_many_who_ask_a_database_that_hangs_are_all_answered(own: Own, scan_id: str) -> None:
    statuses: list[int] = []

    def ask(path: str) -> None:
        statuses.append(httpx2.get(own.url + path, timeout=PATIENCE_SECONDS).status_code)

    with stopped(own.postgres):
        asking = [
            threading.Thread(target=ask, args=[path]) for path in ["/v1/jobs", "/v1/scans", f"/v1/jobs/{scan_id}"] * 30
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    assert statuses == [503] * 90
    with httpx2.Client(base_url=own.url, timeout=PATIENCE_SECONDS) as client:
        until_answered(client, "/v1/jobs")


def until_answered(client: httpx2.Client, path: str) -> None:
    for _ in range(200):
        if client.get(path).status_code == 200:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the database is back, and nobody asks it")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


def test_who_cannot_know_what_was_done_says_so(app: FastAPI, database: sessionmaker[Session], mri_file: bytes) -> None:
    """The connection is lost in the very commit."""
    with TestClient(app) as client:
        scan_id = client.post("/v1/scans", content=mri_file).json()["id"]
        cut = [True]

        def lose(connection: Any) -> None:
            if cut:
                cut.clear()
                pid = connection.connection.driver_connection.info.backend_pid
                with database() as session:
                    session.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))

        event.listen(app.state.service.engine, "commit", lose)
        unknown = client.post("/v1/jobs", json=asked(scan_id))
        cut.append(True)
        safe = client.post("/v1/jobs", json=asked(scan_id), headers={"Idempotency-Key": "a"})
        again = client.post("/v1/jobs", json=asked(scan_id), headers={"Idempotency-Key": "a"})
    assert (unknown.status_code, safe.status_code, again.status_code) == (503, 503, 202)
    assert "retry-after" not in unknown.headers
    assert "look whether it did" in unknown.json()["detail"]
    assert int(safe.headers["retry-after"]) > 0
    with database() as session:
        assert len(session.scalars(select(Job)).all()) == 1


def test_messages_that_come_while_others_are_sent_go_together_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    sent: list[list[Any]] = []

    def enqueue(job_slices: list[Any]) -> bool:
        sent.append(job_slices)
        begun.set()
        return go_on.wait(20)

    monkeypatch.setattr(queue, "enqueue", enqueue)
    publisher, job_id = Publisher(), uuid.uuid4()
    publisher.publish([(job_id, 0)])
    assert begun.wait(20)
    for number in (1, 2, 3):
        publisher.publish([(job_id, number)])
    go_on.set()
    publisher.close()
    assert sent == [[(job_id, 0)], [(job_id, 1), (job_id, 2), (job_id, 3)]]
