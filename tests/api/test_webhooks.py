"""Webhooks: signed, told until they are heard, to nobody who should not hear them."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.fake_worker import Drive
from tests.support.webhook_receiver import CERTIFICATE, Heard, Receiver, receiving
from udig_recon.api.http.problems import Invalid
from udig_recon.api.webhooks import delivery
from udig_recon.api.webhooks.delivery import WebhookDispatcher
from udig_recon.api.webhooks.url_guard import is_public
from udig_recon.worker.database.tables import DEFAULT_TENANT, DeliveryState, Job, Status, WebhookDelivery
from udig_recon.worker.jobs import outbox, webhook_outbox
from udig_recon.worker.jobs.webhook_outbox import WEBHOOKS, Delivery
from udig_recon.worker.settings import BadSetting, Settings, read_settings

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB3ZWJob29rcw=="
OLD_SECRET = "whsec_" + "YW4gb2xkIHNlY3JldCwgb24gaXRzIHdheSBvdXQuLi4="
NAME = "Doe^Jane"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Webhooks to this machine, told again at once."""
    told = {"webhook_secret": SecretStr(f"{SECRET} {OLD_SECRET}"), "webhook_allow_private": True}
    return settings.model_copy(update={**told, "webhook_retry_seconds": 0.01, "webhook_poll_seconds": 0.02})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


def file(client: TestClient, scan: dict[str, Any], url: str) -> dict[str, Any]:
    asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "webhook_url": url, "tags": {"name": NAME}}
    answer = client.post("/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def told(client: TestClient, job: dict[str, Any], state: str) -> dict[str, Any]:
    """How the telling stands, as soon as it is in this state."""
    found = until(lambda: (w := client.get(f"/v1/jobs/{job['id']}").json()["webhook"]) and w["state"] == state and w)
    assert isinstance(found, dict)
    return found


def verified(heard: Heard, secret: str = SECRET) -> dict[str, Any]:
    """The payload, when its signature is right."""
    payload: dict[str, Any] = Webhook(theirs(secret)).verify(heard.body, heard.headers)
    return payload


def theirs(secret: str, tenant: str = DEFAULT_TENANT) -> str:
    """What a tenant's receivers verify with."""
    (made,) = webhook_outbox.signing_secrets(Settings(webhook_secret=SecretStr(secret)), tenant)
    return made


def test_each_end_of_a_job_is_told_once_and_signed(
    client: TestClient, scan: dict[str, Any], drive: Drive, receiver: Receiver
) -> None:
    good, bad, unwanted = (file(client, scan, receiver.url) for _ in range(3))
    assert good["webhook"] is None
    drive.complete(good)
    drive.fail(bad)
    client.post(f"/v1/jobs/{unwanted['id']}/cancel")
    for job in (good, bad, unwanted):
        told(client, job, "delivered")
    client.post(f"/v1/jobs/{bad['id']}/retry")
    drive.complete(bad)
    until(lambda: len(receiver.heard) == 4)
    payloads = {(p["data"]["job_id"], p["type"]): p for p in map(verified, receiver.heard)}
    assert set(payloads) == {
        (good["id"], "job.succeeded"),
        (bad["id"], "job.failed"),
        (unwanted["id"], "job.cancelled"),
        (bad["id"], "job.succeeded"),
    }
    whole = payloads[good["id"], "job.succeeded"]
    job = client.get(f"/v1/jobs/{good['id']}").json()
    assert datetime.fromisoformat(whole["timestamp"]) == datetime.fromisoformat(job["finished_at"])
    assert whole["data"]["links"] == {"self": f"/v1/jobs/{good['id']}", "result": f"/v1/jobs/{good['id']}/result"}
    assert len({heard.headers["webhook-id"] for heard in receiver.heard}) == 4
    for heard in receiver.heard:
        assert verified(heard, OLD_SECRET) == json.loads(heard.body)
        data = json.loads(heard.body)["data"]
        rating = "unrated" if data["status"] == "succeeded" else None
        assert (data["tags"], data["scan_id"], data["rating"]) == ({"name": NAME}, scan["id"], rating)
        with pytest.raises(WebhookVerificationError):
            Webhook(theirs(SECRET)).verify(heard.body.replace("job", "jab", 1), heard.headers)
        for unfit in (SECRET, theirs(SECRET, "another")):
            with pytest.raises(WebhookVerificationError):
                Webhook(unfit).verify(heard.body, heard.headers)


def test_the_signature_is_the_one_of_the_standard() -> None:
    then = datetime.fromtimestamp(1614265330, UTC)
    failed = a_delivery("https://x.test", id=uuid.UUID(int=1), event="job.failed", created_at=then)
    body = delivery.payload(failed)
    sent = delivery.headers(failed, body, [SECRET], then)
    signed = f"{uuid.UUID(int=1)}.1614265330.{body}".encode()
    assert sent["webhook-signature"] == expected_signature(signed)
    assert sent["webhook-timestamp"] == "1614265330"


def expected_signature(signed: bytes) -> str:
    """By the words of the specification."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def test_a_receiver_that_was_away_hears_of_it_later_under_the_same_id(
    client: TestClient, scan: dict[str, Any], drive: Drive
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    job = file(client, scan, f"http://127.0.0.1:{port}/hook")
    drive.complete(job)
    away = until(lambda: (w := client.get(f"/v1/jobs/{job['id']}").json()["webhook"]) and w["attempts"] > 1 and w)
    assert away["state"] == "pending"
    assert away["error"] == "no answer"
    with receiving(port) as receiver:
        receiver.answers = [503, 500, 204]
        heard = told(client, job, "delivered")
    assert heard["error"] is None
    assert heard["delivered_at"]
    assert len({(each.headers["webhook-id"], each.body) for each in receiver.heard}) == 1
    assert len(receiver.heard) == 3
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded"


def test_a_receiver_that_is_gone_is_asked_no_more(
    client: TestClient, scan: dict[str, Any], drive: Drive, receiver: Receiver
) -> None:
    receiver.answers = [410]
    first, second = file(client, scan, receiver.url), file(client, scan, receiver.url)
    drive.complete(first)
    assert told(client, first, "disabled")["error"] == "answered 410 Gone"
    drive.complete(second)
    dropped = told(client, second, "disabled")
    assert (dropped["attempts"], len(receiver.heard)) == (0, 1)
    assert "earlier" in dropped["error"]


def test_a_receiver_that_is_gone_for_one_tenant_hears_the_others(
    client: TestClient, scan: dict[str, Any], drive: Drive, receiver: Receiver, database: sessionmaker[Session]
) -> None:
    receiver.answers = [410, 204]
    first, others = file(client, scan, receiver.url), file(client, scan, receiver.url)
    with database.begin() as session:
        session.get_one(Job, uuid.UUID(others["id"])).tenant = "another"
    drive.complete(first)
    told(client, first, "disabled")
    with database.begin() as session:
        session.get_one(Job, uuid.UUID(others["id"])).status = Status.SUCCEEDED
    until(lambda: len(receiver.heard) == 2)
    assert Webhook(theirs(SECRET, "another")).verify(receiver.heard[1].body, receiver.heard[1].headers)


def test_a_redirect_is_not_followed(client: TestClient, scan: dict[str, Any], drive: Drive, receiver: Receiver) -> None:
    with receiving() as other:
        receiver.answers = [other.url, 204]
        job = file(client, scan, receiver.url)
        drive.complete(job)
        assert told(client, job, "delivered")["attempts"] == 2
    assert other.heard == []


PRIVATE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "10.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
]
PRIVATE += [
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a00:1]",
    "[fe80::1]",
    "[fd00::1]",
    "[::127.0.0.1]",
    "[2002:a00:1::]",
]
PRIVATE += ["localhost", "a.localhost."]
WRONG = [
    "http://example.org",
    "ftp://example.org",
    "https://",
    "example.org",
    "https://a:b@example.org",
    "https://x.org/#a",
]
WRONG += [
    "https://example.org:99999",
    f"https://{'a' * 64}.org",
    "https://a..org",
    "https://example.org/" + "x" * 2048,
    "",
]


@pytest.mark.parametrize("url", [*(f"https://{host}/x" for host in PRIVATE), *WRONG])
def test_a_url_that_shows_where_it_may_not_go_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        delivery.check_webhook_url(Settings(webhook_secret=SecretStr(SECRET)), url)
    (error,) = refused.value.errors
    assert (error.field, error.expected) == ("webhook_url", "a public https URL")


def test_a_job_whose_webhook_is_refused_leaves_nothing_behind(client: TestClient, mri_file: bytes) -> None:
    job = {"parameters": {"method": "zero_filled"}, "webhook_url": "ftp://example.org"}
    answer = client.post("/v1/jobs", files={"scan": mri_file}, data={"job": json.dumps(job)})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["found"] == "ftp://example.org"
    assert client.get("/v1/scans").json()["items"] == []


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_without_a_secret_there_are_no_webhooks() -> None:
    with pytest.raises(Invalid, match="WEBHOOK_SECRET"):
        delivery.check_webhook_url(Settings(), "https://example.org")


@pytest.mark.parametrize("secret", ["whsec_c2hvcnQ=", f"{SECRET[:39]}", "hush" * 20, f"{SECRET} whsec_", " "])
def test_a_secret_that_is_none_is_refused_without_being_told(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    with pytest.raises(BadSetting) as refused:
        read_settings()
    told = str(refused.value)
    assert told.startswith("WEBHOOK_SECRET: ")
    assert not secret.strip() or secret not in told


def a_delivery(url: str, **fields: Any) -> Delivery:
    told = {"id": uuid.uuid4(), "job_id": uuid.uuid4(), "event": "job.succeeded", "created_at": datetime.now(UTC)}
    return Delivery(url=url, attempt=1, tenant=DEFAULT_TENANT, receiver="", **told | fields)


class Names:
    """A directory of names that remembers how often it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return [self.answers.pop(0)]


def attempt(settings: Settings, database: sessionmaker[Session], names: Names, url: str) -> str | None:
    return asyncio.run(WebhookDispatcher(settings, database, names).attempt(a_delivery(url)))


def test_a_name_that_leads_to_this_machine_is_not_followed(
    settings: Settings, database: sessionmaker[Session], receiver: Receiver
) -> None:
    careful = settings.model_copy(update={"webhook_allow_private": False})
    error = attempt(careful, database, Names("127.0.0.1"), f"https://receiver.test:{receiver.port}/hook")
    assert error is not None
    assert "private" in error
    assert receiver.heard == []


def test_the_address_that_was_checked_is_the_one_that_is_called(
    settings: Settings, database: sessionmaker[Session], receiver: Receiver
) -> None:
    names = Names("127.0.0.1", "127.0.0.2")
    assert attempt(settings, database, names, f"http://receiver.test:{receiver.port}/hook") is None
    assert names.asked == 1
    assert receiver.heard[0].headers["host"] == f"receiver.test:{receiver.port}"


@pytest.mark.parametrize(("host", "heard"), [("receiver.test", 1), ("other.test", 0)])
def test_a_certificate_must_bear_the_name_of_the_url(
    settings: Settings, database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch, host: str, heard: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with receiving(tls=True) as receiver:
        error = attempt(settings, database, Names("127.0.0.1"), f"https://{host}:{receiver.port}/hook")
    assert (error is None, len(receiver.heard)) == (bool(heard), heard)


def test_a_receiver_that_dribbles_is_left(settings: Settings, database: sessionmaker[Session]) -> None:
    settings = settings.model_copy(update={"webhook_timeout_seconds": 0.5})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def dribble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(0.1):
                    connection.send(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        error = attempt(settings, database, Names("127.0.0.1"), f"http://receiver.test:{listener.getsockname()[1]}/")
        ended.set()
        thread.join()
    assert error == "no answer"


def filed(client: TestClient, scan: dict[str, Any], drive: Drive) -> None:
    drive.complete(file(client, scan, "http://127.0.0.1:1/"))


@pytest.fixture
def nobody_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: WebhookDispatcher) -> None:
        pass

    monkeypatch.setattr(WebhookDispatcher, "run", run)


@pytest.mark.usefixtures("nobody_delivers")
def test_what_a_dead_courier_had_is_delivered_by_another_and_its_word_counts_no_more(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    filed(client, scan, drive)
    with database.begin() as session:
        (first,) = WEBHOOKS.take(session, 10, 60)
        assert WEBHOOKS.take(session, 10, 60) == []
        session.execute(update(WebhookDelivery).values(due_at=func.now() - timedelta(seconds=1)))
        (second,) = WEBHOOKS.take(session, 10, 60)
        assert (second.id, second.attempt) == (first.id, 2)
        assert WEBHOOKS.settle(session, first, "no connection", 5) is None
        assert WEBHOOKS.settle(session, second, None, 5) is DeliveryState.DELIVERED
        assert WEBHOOKS.settle(session, second, "answered 500", 5) is None


@pytest.mark.usefixtures("nobody_delivers")
def test_pauses_double_and_after_a_day_it_is_given_up(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    filed(client, scan, drive)
    pauses = []
    while True:
        with database.begin() as session:
            session.execute(update(WebhookDelivery).values(due_at=func.now()))
            (taken,) = WEBHOOKS.take(session, 10, 60)
            if WEBHOOKS.settle(session, taken, "answered 503", 5) is DeliveryState.FAILED:
                break
            pause = session.scalar(select(func.extract("epoch", WebhookDelivery.due_at - func.now())))
            pauses.append(float(pause or 0))
    assert taken.attempt == len(pauses) + 1 == WEBHOOKS.most_attempts
    assert all(5 * 2**n <= pause <= 5 * 2**n * (1 + outbox.JITTER) for n, pause in enumerate(pauses))
    assert 20 < sum(pauses) / 3600 < 30


def test_a_deleted_job_is_told_of_no_more(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    job = file(client, scan, "http://127.0.0.1:1/")
    drive.complete(job)
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["webhook"]["attempts"])
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    with database() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []
