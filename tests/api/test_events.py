import json
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import serving
from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.worker.settings import Settings

NO_IDS = ["x", "-1", "1.5", "9" * 30]


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: dict[str, Any]
    id: str | None


def events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}


@pytest.fixture
def job(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    """A queued job of one slice."""
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "slices": [0]}
    posted: dict[str, Any] = client.post("/v1/jobs", json=body).json()
    return posted


def told(client: TestClient, job: dict[str, Any], last: str | None = None) -> list[Event]:
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = client.get(job["links"]["events"], headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return list(events(iter(answer.text.splitlines())))


def test_snapshots_are_listed_from_any_point(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
    job = client.post("/v1/jobs", json=body).json()
    claims = [drive.claim(job, number) for number in (0, 1)]
    for iteration in (1, 2, 3):
        for claim in claims:
            drive.report(claim, iteration)

    def seen(**query: int) -> list[tuple[int, int, int]]:
        items = client.get(job["links"]["progress"], params=query).json()["items"]
        return [(item["seq"], item["slice"], item["iteration"]) for item in items]

    everything = seen()
    assert everything == [(1, 0, 1), (2, 1, 1), (3, 0, 2), (4, 1, 2), (5, 0, 3), (6, 1, 3)]
    assert seen(after=4) == everything[4:]
    assert seen(slice=1) == everything[1::2]
    assert seen(slice=1, after=2) == everything[3::2]
    assert seen(after=6) == []
    assert seen(slice=(1 << 31) - 1) == []
    assert client.get(job["links"]["progress"], params={"slice": 1 << 31}).status_code == 422
    page = client.get(job["links"]["progress"], params={"limit": 4})
    assert page.json()["items"][0]["psnr"] is None
    rest = client.get(page.links["next"]["url"])
    assert [item["seq"] for item in rest.json()["items"]] == [5, 6]
    assert "link" not in rest.headers


def test_the_events_of_an_ended_job_end(client: TestClient, drive: Drive, job: dict[str, Any]) -> None:
    drive.complete(job)
    assert [(event.name, event.id) for event in told(client, job)] == [
        ("status", None),
        ("snapshot", "1"),
        ("snapshot", "2"),
        ("done", "2.done"),
    ]
    last = told(client, job)[-1]
    assert last.data["status"] == "succeeded"
    assert last.data["progress"]["fraction"] == 1.0


def test_a_stream_goes_on_where_it_broke_off(client: TestClient, drive: Drive, job: dict[str, Any]) -> None:
    drive.complete(job)
    assert [event.id for event in told(client, job, "1")] == [None, "2", "2.done"]
    assert [event.name for event in told(client, job, "2")] == ["status", "done"]
    assert client.get(job["links"]["events"], headers={"Last-Event-ID": "2.done"}).status_code == 204


def test_an_id_of_no_event_is_422(client: TestClient, job: dict[str, Any]) -> None:
    for last in NO_IDS:
        answer = client.get(job["links"]["events"], headers={"Last-Event-ID": last})
        assert answer.status_code == 422, last
        assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_head_of_a_stream_does_not_wait(client: TestClient, job: dict[str, Any]) -> None:
    head = client.head(job["links"]["events"])
    assert (head.status_code, head.content) == (200, b"")


def test_a_stream_tells_everything_once_over_any_number_of_drops(
    server: str, client: TestClient, drive: Drive, job: dict[str, Any]
) -> None:
    heard: list[Event] = []

    def listen(until: int | None) -> None:
        """Listen until so many snapshots were heard, then drop the connection; None: to the end."""
        ids = [event.id for event in heard if event.id]
        headers = {"Last-Event-ID": ids[-1]} if ids else {}
        with httpx2.stream("GET", server + job["links"]["events"], headers=headers, timeout=30) as answer:
            for event in events(answer.iter_lines()):
                heard.append(event)
                if until is not None and sum(each.name == "snapshot" for each in heard) >= until:
                    return

    claim = drive.claim(job)
    for iteration in range(1, 8):
        drive.report(claim, iteration)
        listen(until=iteration)
    ending = threading.Timer(0.5, lambda: drive.finish(claim))
    ending.start()
    listen(until=None)
    ending.join()
    assert [event.id for event in heard if event.name == "snapshot"] == [str(seq) for seq in range(1, 8)]
    assert [event.data["status"] for event in heard if event.name == "status"][-1] == "succeeded"
    assert (heard[-1].name, heard[-1].data["status"]) == ("done", "succeeded")


def test_a_stream_is_kept_alive_by_comments(settings: Settings, job: dict[str, Any], drive: Drive) -> None:
    ending = threading.Timer(0.5, lambda: drive.complete(job))
    with TestClient(create_app(settings.model_copy(update={"event_keep_alive_seconds": 0.05}))) as client:
        ending.start()
        text = client.get(job["links"]["events"]).text
        ending.join()
    assert ": still here\n\n" in text
    assert text.rstrip().endswith("id: 2.done")


def test_a_stream_outlives_a_database_that_goes_away(
    client: TestClient, job: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    def everything() -> None:
        with database() as session:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        drive.complete(job)

    breaking = threading.Timer(0.5, everything)
    breaking.start()
    heard = told(client, job)
    breaking.join()
    assert [event.id for event in heard if event.name != "status"] == ["1", "2", "2.done"]


def test_a_stream_of_a_deleted_job_ends(client: TestClient, job: dict[str, Any]) -> None:
    deleting = threading.Timer(0.5, lambda: client.delete(job["links"]["self"]))
    deleting.start()
    heard = told(client, job)
    deleting.join()
    assert heard[-1] == Event("done", {"status": "deleted"}, None)


def test_a_server_that_goes_down_ends_its_streams_and_waits(
    settings: Settings, client: TestClient, job: dict[str, Any]
) -> None:
    with serving(settings) as (url, process, _):
        waited: list[httpx2.Response] = []
        wait = url + job["links"]["self"] + "?wait=60"
        waiting = threading.Thread(target=lambda: waited.append(httpx2.get(wait, timeout=60)))
        waiting.start()
        with httpx2.stream("GET", url + job["links"]["events"], timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(events(lines)).data["status"] == "queued"
            process.terminate()
            assert list(events(lines)) == []
        waiting.join()
        process.wait(timeout=10)
    assert waited[0].json()["status"] == "queued"
