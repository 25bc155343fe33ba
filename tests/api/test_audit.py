"""Who read and who was refused is written down, and nobody floods the log or waits for it."""

import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.access.audit import READS, AuditRecorder
from udig_recon.api.app import create_app
from udig_recon.api.http.repeated_events import MINUTE, MOST_KINDS, EventDeduplicator
from udig_recon.api.pages import list_routes
from udig_recon.api.pages import routes as page_routes
from udig_recon.worker.access import keys
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database import locks
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Audit
from udig_recon.worker.settings import Settings

OWN_ENTRIES = {"file", "result", "preview.png", "panel.png"}
PAGES = {path for path in READS if not path.startswith("/v1/")}  # they show what these name
OF_NOBODY = {"/v1/methods", "/v1/priors"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=200))
def test_everything_is_counted_once_and_told_at_most_twice_a_minute(came: list[tuple[str, float]]) -> None:
    clock = Clock()
    folding: EventDeduplicator[str] = EventDeduplicator(clock)
    told: list[tuple[float, str, int]] = []
    for kind, pause in came:
        clock.now += pause
        told += [(clock.now, each.kind, each.times) for each in folding.due()]
        if folding.is_first(kind):
            told.append((clock.now, kind, 1))
    told += [(clock.now, each.kind, each.times) for each in folding.due(at_once=True)]
    for kind in "abc":
        mine = [(when, times) for when, each, times in told if each == kind]
        assert sum(times for _, times in mine) == sum(each == kind for each, _ in came)
        assert all(mine[index + 2][0] - mine[index][0] >= MINUTE for index in range(len(mine) - 3))


def test_what_was_the_same_in_all_is_told_with_their_number() -> None:
    folding: EventDeduplicator[str] = EventDeduplicator(Clock())
    assert folding.is_first("a", scan="1")
    for job in ("2", "3"):
        assert not folding.is_first("a", scan="1", job=job)
    (told,) = folding.due(at_once=True)
    assert (told.times, told.same) == (2, {"scan": "1"})


def test_there_is_an_end_to_the_kinds_that_are_followed() -> None:
    folding: EventDeduplicator[int] = EventDeduplicator(Clock())
    assert sum(folding.is_first(kind) for kind in range(2 * MOST_KINDS)) == MOST_KINDS


def test_who_reads_very_much_hides_no_other_reading(database: sessionmaker[Session]) -> None:
    recorder = AuditRecorder(database, max_kinds=2)
    for job in ("1", "2", "3"):
        recorder.note(Who("a", "key:1"), "result.read", job=job)
    for _ in range(2):
        recorder.note(Who("b", "key:2"), "result.read", job="4")
    with database() as session:
        tenants = session.scalars(select(Audit.tenant).where(Audit.action == "result.read")).all()
    assert tenants == ["a", "a", "a", "b", "b"]


@pytest.fixture
def keyed(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update={"authentication": "on"}))) as client:
        yield client


@pytest.fixture
def headers(database: sessionmaker[Session]) -> dict[str, str]:
    with database.begin() as session:
        _, secret = keys.make(session, "a", NewKey(name="test", scopes=[Scope.READ, Scope.WRITE]))
    return {"Authorization": f"Bearer {secret}"}


def written(client: TestClient, database: sessionmaker[Session]) -> list[tuple[str, str, dict[str, str]]]:
    client.app.state.context.audit.write(at_once=True)  # type: ignore[attr-defined]
    with database() as session:
        rows = session.scalars(select(Audit).order_by(Audit.seq)).all()
    return [(row.tenant, row.action, row.ids) for row in rows]


def test_reads_of_metadata_are_written_down_and_folded(
    keyed: TestClient, database: sessionmaker[Session], headers: dict[str, str], mri_file: bytes
) -> None:
    scan = keyed.post("/v1/scans", content=mri_file, headers=headers).json()["id"]
    for _ in range(5):
        assert keyed.get(f"/v1/scans/{scan}", headers=headers).status_code == 200
    assert keyed.get("/v1/jobs", headers=headers).status_code == 200
    assert sorted(map(str, written(keyed, database))) == sorted(
        map(
            str,
            [
                ("a", "scan.uploaded", {"scan": scan}),
                ("a", "scan.read", {"scan": scan}),
                ("a", "scan.read", {"scan": scan, "count": "4"}),
                ("a", "jobs.listed", {}),
            ],
        )
    )


def test_asking_for_random_ids_neither_floods_the_log_nor_waits_for_it(
    keyed: TestClient, database: sessionmaker[Session], headers: dict[str, str]
) -> None:
    with database() as session:
        locks.acquire(session, Lock.AUDIT)  # somebody writes, and takes long
        for _ in range(100):
            assert keyed.get(f"/v1/scans/{uuid.uuid4()}", headers=headers).status_code == 404
            assert keyed.get("/v1/scans").status_code == 401
    refused = [each for each in written(keyed, database) if each[1].startswith("refused.")]
    assert len(refused) <= 4
    counts = {(tenant, action): 0 for tenant, action, _ in refused}
    for tenant, action, ids in refused:
        counts[tenant, action] += int(ids.get("count", "1"))
    assert counts == {("a", "refused.404"): 100, ("", "refused.401"): 100}


def test_every_read_of_a_tenants_data_is_written_down(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    reads = {path for path, item in paths.items() if path.startswith("/v1/") and "get" in item}
    assert {path for path in reads if path.rpartition("/")[2] not in OWN_ENTRIES} - OF_NOBODY == set(READS) - PAGES
    assert {READS[page] for page in PAGES} <= {READS[path] for path in set(READS) - PAGES}


def test_every_page_of_a_tenants_data_is_written_down() -> None:
    routes = [route for each in (list_routes, page_routes) for route in each.router.routes]
    assert {getattr(route, "path", "") for route in routes} - {"/", "/priors"} == PAGES


def test_a_line_of_the_request_log_says_who_asked_from_where(
    keyed: TestClient, database: sessionmaker[Session], headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "udig_recon.api.requests")
    keyed.get("/v1/jobs", headers=headers)
    for _ in range(50):
        keyed.get("/v1/jobs")
        keyed.get("/healthz")
    lines: list[Any] = [record for record in caplog.records if record.name == "udig_recon.api.requests"]
    with database() as session:
        (key_id,) = session.scalars(select(keys.Key.id))
    assert [(line.route, line.status, line.client, getattr(line, "key_id", None)) for line in lines] == [
        ("/v1/jobs", 200, "testclient", str(key_id)),
        ("/v1/jobs", 401, "testclient", None),
    ]
