"""Events of webhooks: starts of jobs, ends of comparisons, and what each tells."""

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.api.comparisons.queries import comparison_row
from udig_recon.api.webhooks import delivery
from udig_recon.api.webhooks.delivery import WebhookDispatcher
from udig_recon.api.webhooks.events import ComparisonWebhookEvent, WebhookEvent
from udig_recon.core.quality.rating import LEVELS, Rating, worst
from udig_recon.worker.database.tables import Comparison, Job, Status, WebhookDelivery
from udig_recon.worker.jobs import comparisons
from udig_recon.worker.jobs.webhook_outbox import WEBHOOKS
from udig_recon.worker.settings import Settings

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB3ZWJob29rcw=="
URL = "https://receiver.test/hook"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SecretStr(SECRET)})


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The API; nobody delivers what it files."""

    async def run(_: WebhookDispatcher) -> None:
        pass

    monkeypatch.setattr(WebhookDispatcher, "run", run)
    with TestClient(create_app(settings)) as made:
        yield made


def told(database: sessionmaker[Session]) -> list[dict[str, Any]]:
    """Bodies of all webhooks that were filed, in the order of their events."""
    with database.begin() as session:
        taken = WEBHOOKS.take(session, 64, 60)
        session.rollback()
    return [json.loads(delivery.payload(each)) for each in sorted(taken, key=lambda each: each.created_at)]


def submit(client: TestClient, scan: dict[str, Any], **options: Any) -> dict[str, Any]:
    asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "webhook_url": URL, **options}
    answer = client.post("/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_the_start_of_a_job_is_told_once_to_who_wants_it(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    wanted = submit(client, scan, webhook_events=["job.started", "job.failed"], tags={"study": "knee-7"})
    drive.complete(submit(client, scan))
    drive.fail(wanted)
    client.post(f"/v1/jobs/{wanted['id']}/retry")
    drive.complete(wanted)
    found = [(each["type"], each["data"]["status"]) for each in told(database)]
    assert sorted(found) == [("job.failed", "failed"), ("job.started", "running"), ("job.succeeded", "succeeded")]
    (started,) = [each for each in told(database) if each["type"] == "job.started"]
    assert started["data"]["job_id"] == wanted["id"]
    assert started["data"]["tags"] == {"study": "knee-7"}
    assert WebhookEvent.model_validate(started).data.scan_id == uuid.UUID(scan["id"])


def test_a_webhook_tells_the_rating_that_the_job_has(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    pairs = [(first, second) for first in LEVELS for second in ("good", "check")]
    expected = {}
    for levels in pairs:
        job = submit(client, scan, tags={"a": levels[0]})
        ratings = [Rating(level, ()) for level in levels]
        for number, rating in enumerate(ratings):
            drive.finish(drive.claim(job, number), rating=rating)
        expected[job["id"]] = worst(dict(enumerate(ratings))).as_json()["rating"]
    found = told_all(database)
    assert {each["data"]["job_id"]: each["data"]["rating"] for each in found} == expected
    client.delete(f"/v1/scans/{scan['id']}")
    assert told_all(database) == found


def told_all(database: sessionmaker[Session]) -> list[dict[str, Any]]:
    """The same for more webhooks than a process sends of one tenant."""
    with database() as session:
        rows = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)).all()
        return [
            json.loads(
                delivery.payload(
                    delivery.Delivery(
                        id=row.id,
                        attempt=1,
                        tenant=row.tenant,
                        receiver="",
                        created_at=row.created_at,
                        url=row.url,
                        event=row.event,
                        job_id=row.job_id,
                        data=row.data,
                    )
                )
            )
            for row in rows
        ]


@pytest.fixture
def compared(database: sessionmaker[Session]) -> tuple[uuid.UUID, list[uuid.UUID]]:
    """A comparison of three queued jobs that wants a webhook."""
    row = {"status": Status.QUEUED, "parameters": {}, "outputs": [], "slices": [0], "seed": 0, "tags": {}}
    with database.begin() as session:
        comparison = Comparison(request={"tags": {"study": "knee-7"}}, webhook_url=URL)
        session.add(comparison)
        session.flush()
        jobs = [Job(**row, comparison_id=comparison.id) for _ in range(3)]
        session.add_all(jobs)
        session.flush()
        return comparison.id, [job.id for job in jobs]


def end(database: sessionmaker[Session], status: Status, *job_ids: uuid.UUID) -> None:
    with database.begin() as session:
        for job_id in job_ids:
            session.get_one(Job, job_id).status = status


@pytest.mark.parametrize(
    ("last", "event"),
    [
        (Status.SUCCEEDED, "comparison.succeeded"),
        (Status.FAILED, "comparison.failed"),
        (Status.CANCELLED, "comparison.cancelled"),
    ],
)
def test_a_comparison_is_told_of_once_when_its_last_job_has_ended(
    database: sessionmaker[Session], compared: tuple[uuid.UUID, list[uuid.UUID]], last: Status, event: str
) -> None:
    comparison_id, jobs = compared
    end(database, Status.SUCCEEDED, jobs[0])
    assert told(database) == []
    end(database, last, *jobs[1:])  # both in one transaction
    (found,) = told(database)
    assert found["type"] == event
    assert found["data"]["comparison_id"] == str(comparison_id)
    assert found["data"]["tags"] == {"study": "knee-7"}
    assert found["data"]["links"]["table"] == f"/v1/comparisons/{comparison_id}/table"
    assert ComparisonWebhookEvent.model_validate(found).data.status == last
    if last is Status.FAILED:
        end(database, Status.QUEUED, jobs[1])
        end(database, Status.SUCCEEDED, jobs[1])
        assert len(told(database)) == 2


def test_jobs_that_end_at_once_are_one_end_of_their_comparison(
    database: sessionmaker[Session], compared: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    _, jobs = compared
    sessions = [database() for _ in jobs]
    for session, job_id in zip(sessions, jobs, strict=True):
        session.get_one(Job, job_id).status = Status.SUCCEEDED
        session.flush()
    threads = [threading.Thread(target=session.commit) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each["type"] for each in told(database)] == ["comparison.succeeded"]


def test_a_comparison_is_cancelled_while_a_worker_ends_its_job(
    database: sessionmaker[Session], compared: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    """Who cancels holds the comparison; the webhook of its end refers to it."""
    comparison_id, jobs = compared
    with database() as session:
        for job_id in jobs[1:]:
            session.get_one(Job, job_id).status = Status.SUCCEEDED
        session.commit()
        session.get_one(Job, jobs[0]).status = Status.SUCCEEDED
        session.flush()
        with database() as other:
            comparison_row(other, "default", comparison_id, for_change=True)
            session.commit()
    assert [each["type"] for each in told(database)] == ["comparison.succeeded"]


def test_the_last_open_job_of_a_comparison_may_be_deleted_and_so_may_all_of_it(
    database: sessionmaker[Session], compared: tuple[uuid.UUID, list[uuid.UUID]]
) -> None:
    comparison_id, jobs = compared
    end(database, Status.SUCCEEDED, *jobs[:2])
    with database.begin() as session:
        session.delete(session.get_one(Job, jobs[2]))
    assert [each["type"] for each in told(database)] == ["comparison.succeeded"]
    with database.begin() as session:
        comparisons.delete(session, comparison_row(session, "default", comparison_id, for_change=True))
    assert told(database) == []


def test_a_comparison_names_its_receiver(
    client: TestClient, scan: dict[str, Any], database: sessionmaker[Session]
) -> None:
    asked = {"scan_ids": [scan["id"]], "methods": [{"parameters": {"method": "zero_filled"}}], "slices": [0]}
    refused = client.post("/v1/comparisons", json={**asked, "webhook_url": "http://127.0.0.1/"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "webhook_url")
    keys = [client.post("/v1/comparisons", json={**asked, "webhook_url": URL}, headers={"Idempotency-Key": "k"})]
    keys += [client.post("/v1/comparisons", json=asked, headers={"Idempotency-Key": "k"})]
    assert [answer.status_code for answer in keys] == [202, 409]
    made = keys[0].json()
    assert "webhook_url" not in made
    client.post(f"/v1/comparisons/{made['id']}/cancel")
    assert [each["type"] for each in told(database)] == ["comparison.cancelled"]
