"""An answer that is held back holds its place only as long as somebody waits for it and may have it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import Served, serving
from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.api.jobs import queries
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.settings import Settings

LONG = 60  # seconds of a wait, far longer than any of these tests waits for its end


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def cramped(settings: Settings) -> Iterator[Served]:
    """A server where each client may have one answer held back."""
    with serving(settings.model_copy(update={"max_long_polls": 2})) as served:
        yield served


def test_a_client_that_leaves_gives_its_place_back(cramped: Served, mri_file: bytes) -> None:
    scan = httpx2.post(cramped.url + "/v1/scans", content=mri_file, timeout=30).json()
    job = httpx2.post(
        cramped.url + "/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}, timeout=30
    ).json()

    def refused() -> bool:
        return httpx2.get(f"{cramped.url}{job['links']['self']}?wait=1", timeout=30).status_code == 429

    address = urlsplit(cramped.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(f"GET {job['links']['self']}?wait={LONG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until(refused)
    until(lambda: not refused())


@pytest.fixture
def job(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "slices": [0]}
    posted: dict[str, Any] = client.post("/v1/jobs", json=body).json()
    return posted


def test_many_who_wait_read_the_job_once_and_again_only_when_more_than_its_progress_changed(
    client: TestClient, drive: Drive, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read_job_async = queries.read_job_async

    async def counted(*given: Any) -> Any:
        reads.append(1)
        return await read_job_async(*given)

    monkeypatch.setattr(queries, "read_job_async", counted)
    claim = drive.claim(job)
    notifications = client.app.state.context.notifications  # type: ignore[attr-defined]
    answers: list[dict[str, Any]] = []

    def wait() -> None:
        answers.append(client.get(job["links"]["self"], params={"wait": LONG}).json())

    waiting = [threading.Thread(target=wait) for _ in range(5)]
    for thread in waiting:
        thread.start()
    until(lambda: notifications.subscribers == 5)
    time.sleep(0.5)
    before = len(reads)
    for iteration in range(1, 9):
        drive.report(claim, iteration)
    time.sleep(0.5)
    assert len(reads) == before
    drive.finish(claim)
    for thread in waiting:
        thread.join()
    assert {answer["status"] for answer in answers} == {"succeeded"}
    assert len(reads) - before < 5 * 2


@pytest.mark.parametrize("how", ["revoke", "rotate"])
def test_a_refused_key_ends_what_waits_for_it(
    settings: Settings, database: sessionmaker[Session], mri_file: bytes, how: str
) -> None:
    with database.begin() as session:
        key, secret = keys.make(session, "a", NewKey(name="test", scopes=list(Scope)))
    headers = {"Authorization": f"Bearer {secret}"}
    ended: dict[str, Any] = {}

    def refuse() -> None:
        with database.begin() as session:
            known = keys.one(session, key.id)
            assert known is not None
            if how == "revoke":
                keys.revoke(session, known)
            else:
                keys.rotate(session, known, timedelta())

    app = create_app(settings.model_copy(update={"authentication": "on"}))
    with TestClient(app) as client:
        scan = client.post("/v1/scans", content=mri_file, headers=headers).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
        job = client.post("/v1/jobs", json=body, headers=headers).json()

        def wait() -> None:
            ended["wait"] = client.get(job["links"]["self"], params={"wait": LONG}, headers=headers).status_code

        def listen() -> None:
            ended["stream"] = client.get(job["links"]["events"], headers=headers).text

        both = [threading.Thread(target=each) for each in (wait, listen)]
        for thread in both:
            thread.start()
        until(lambda: app.state.context.notifications.subscribers == 2)
        refuse()
        for thread in both:
            thread.join(20)
    assert ended["wait"] == 401
    assert "event: status" in ended["stream"]
    assert "event: done" not in ended["stream"]
