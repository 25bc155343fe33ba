"""Destinations of jobs: who may name them, and that an archive gets each result once, whatever happens to it."""

import asyncio
import io
import logging
import threading
import uuid
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from tests.core.test_dicom import template
from tests.support import orthanc
from tests.support.dicom_objects import AE_TITLE, peer
from tests.support.fake_worker import Drive
from tests.support.keyed_client import KeyedApi
from tests.support.worker_processes import until
from udig_recon.api.app import create_app
from udig_recon.api.destinations.courier import DestinationCourier
from udig_recon.worker.access import audit
from udig_recon.worker.database.tables import DeliveryState, DestinationDelivery, Job
from udig_recon.worker.jobs import retention
from udig_recon.worker.jobs.destination_outbox import DESTINATIONS, Delivery
from udig_recon.worker.jobs.outbox import JITTER
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

TOKEN = "a token that nobody may see"
needs_orthanc = pytest.mark.skipif(not orthanc.IS_INSTALLED, reason="Debian's orthanc and orthanc-dicomweb are missing")


def dimse(name: str, port: int, tenants: str = '["default"]') -> str:
    return (
        f'[{name}]\nkind = "dimse"\nhost = "127.0.0.1"\nport = {port}\nae_title = "{AE_TITLE}"\ntenants = {tenants}\n'
    )


@pytest.fixture
def port() -> int:
    """Where the archive is, when it is up."""
    return orthanc.free_port()


@pytest.fixture
def settings(settings: Settings, port: int, tmp_path: Path) -> Settings:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    web = f'[web]\nkind = "dicomweb"\nurl = "http://127.0.0.1:{port}/secret-path"\ntoken_file = "{token}"\n'
    text = dimse("archive", port) + web + 'tenants = ["default"]\n' + dimse("theirs", port, '["another"]')
    quick = {"destination_poll_seconds": 0.02, "destination_retry_seconds": 0.01}
    return settings.model_copy(update={"destinations": text, **quick})


@pytest.fixture
def nobody_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: DestinationCourier) -> None:
        pass

    monkeypatch.setattr(DestinationCourier, "run", run)


def submit(client: TestClient, scan: dict[str, Any], *names: str) -> dict[str, Any]:
    asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "destinations": list(names)}
    answer = client.post("/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def deliveries(client: TestClient, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = client.get(f"/v1/jobs/{job['id']}").json()["deliveries"]
    return {each["destination"]: each for each in found}


def sent(client: TestClient, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Deliveries of a job, as soon as all are made."""
    return until(lambda: (d := deliveries(client, job)) and {e["state"] for e in d.values()} == {"delivered"} and d)


def objects_of(client: TestClient, job: dict[str, Any]) -> dict[str, pydicom.Dataset]:
    """DICOM objects of the job's result, by UID."""
    content = client.get(f"/v1/jobs/{job['id']}/result?format=dicom").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        read = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith(".dcm")]
    return {str(each.SOPInstanceUID): each for each in read}


@needs_orthanc
def test_a_job_goes_to_the_archives_that_it_names_once_and_with_the_same_pixels(
    settings: Settings, database: sessionmaker[Session], storage: LocalStorage, mri_file: bytes, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(orthanc.PASSWORD)
    with orthanc.archive(tmp_path / "orthanc") as archive:
        login = f'username = "{orthanc.USER}"\npassword_file = "{password}"\n'
        web = f'[web]\nkind = "dicomweb"\nurl = "{archive.dicomweb}"\ntenants = ["default"]\n{login}'
        both = settings.model_copy(update={"destinations": dimse("archive", archive.dicom_port) + web})
        with TestClient(create_app(both)) as client:
            scan = client.post("/v1/scans", content=mri_file).json()
            job = submit(client, scan, "web", "archive")
            assert (job["outputs"], job["destinations"], job["deliveries"]) == (["h5", "dicom"], ["web", "archive"], [])
            Drive(database, storage).complete(job)
            found = sent(client, job)
            expected = objects_of(client, job)
        assert found.keys() == {"web", "archive"}
        assert all(each["delivered_at"] and each["error"] is None for each in found.values())
        assert archive.statistics()["CountInstances"] == len(expected) > 1
        for uid, stored in expected.items():
            path = f"studies/{stored.StudyInstanceUID}/series/{stored.SeriesInstanceUID}/instances/{uid}"
            frame = archive.get(f"{archive.dicomweb}/{path}/frames/1", accept=MULTIPART).content
            assert bytes(stored.PixelData) in frame
    with database() as session:
        log = [(each.actor, each.action, each.ids.get("destination")) for each in audit.entries(session)]
    assert {("courier", "job.sent", "web"), ("courier", "job.sent", "archive")} <= set(log)


MULTIPART = 'multipart/related; type="application/octet-stream"'


def test_a_job_names_what_its_tenant_may_name(client: TestClient, scan: dict[str, Any]) -> None:
    assert client.get("/v1/destinations").json()["items"] == [
        {"name": "archive", "kind": "dimse", "identifiers": False},
        {"name": "web", "kind": "dicomweb", "identifiers": False},
    ]
    assert submit(client, scan)["outputs"] == ["h5"]
    for name in ("theirs", "nowhere"):
        asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "destinations": ["web", name]}
        answer = client.post("/v1/jobs", json=asked)
        assert answer.status_code == 422
        error = {"field": "destinations", "found": name, "expected": "archive | web"}
        assert answer.json()["errors"] == [error]


def test_each_tenant_sees_its_own_archives(keyed_api: KeyedApi) -> None:
    for tenant, names in (("default", ["archive", "web"]), ("another", ["theirs"]), ("third", [])):
        _, headers = keyed_api.key(tenant)
        found = keyed_api.client.get("/v1/destinations", headers=headers).json()["items"]
        assert [each["name"] for each in found] == names


def attempt(client: TestClient, delivery: Delivery) -> str | None:
    return asyncio.run(DestinationCourier(client.app.state.context).attempt(delivery))  # type: ignore[attr-defined]


def take(database: sessionmaker[Session]) -> Delivery:
    with database.begin() as session:
        (taken,) = DESTINATIONS.take(session, 8, 60)
    return taken


def settle(database: sessionmaker[Session], delivery: Delivery, error: str | None) -> DeliveryState | None:
    with database.begin() as session:
        return DESTINATIONS.settle(session, delivery, error, 5)


def pause(database: sessionmaker[Session]) -> float:
    """Seconds until the next attempt, which is due from now on."""
    with database.begin() as session:
        seconds = session.scalar(select(func.extract("epoch", DestinationDelivery.due_at - func.now())))
        session.execute(update(DestinationDelivery).values(due_at=func.now()))
    return float(seconds or 0)


@pytest.mark.usefixtures("nobody_sends")
def test_nothing_is_lost_and_nothing_doubled_over_an_hour_without_the_archive(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session], port: int
) -> None:
    job = submit(client, scan, "archive")
    drive.complete(job)
    away, waited = take(database), 0.0
    error = attempt(client, away)
    assert error == "no connection"
    while waited < 3600:
        assert settle(database, away, error) is DeliveryState.PENDING
        waited += pause(database)
        away = take(database)
    told = deliveries(client, job)["archive"]
    assert (told["state"], told["error"], told["attempts"]) == ("pending", "no connection", away.attempt)
    with peer(port=port) as archive:
        assert attempt(client, away) is None
        assert settle(database, away, None) is DeliveryState.DELIVERED
        assert sorted(archive.uids) == sorted(objects_of(client, job))
    assert waited < 3600 + 600 * (1 + JITTER)  # an archive that is back waits ten minutes at most
    with database.begin() as session:
        assert DESTINATIONS.take(session, 8, 60) == []


@pytest.mark.usefixtures("nobody_sends")
def test_an_archive_may_be_away_for_days_before_a_result_is_given_up(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    job = submit(client, scan, "archive")
    drive.complete(job)
    seconds = [min(5 * 2**number, 600) for number in range(DESTINATIONS.most_attempts - 1)]
    assert 2.5 < sum(seconds) / 86400 < 3
    with database.begin() as session:
        session.execute(update(DestinationDelivery).values(attempts=DESTINATIONS.most_attempts - 2))
    assert settle(database, take(database), "no connection") is DeliveryState.PENDING
    assert 600 <= pause(database) <= 600 * (1 + JITTER)
    assert settle(database, take(database), "no connection") is DeliveryState.FAILED
    assert deliveries(client, job)["archive"]["state"] == "failed"


@pytest.mark.usefixtures("nobody_sends")
def test_a_dead_process_hands_its_delivery_on_and_its_word_counts_no_more(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    drive.complete(submit(client, scan, "archive"))
    first = take(database)
    with database.begin() as session:
        assert DESTINATIONS.take(session, 8, 60) == []
        assert DESTINATIONS.renew(session, first, 120)
        session.execute(update(DestinationDelivery).values(due_at=func.now() - timedelta(seconds=1)))
    second = take(database)
    assert (second.id, second.attempt) == (first.id, 2)
    with database.begin() as session:
        assert not DESTINATIONS.renew(session, first, 60)
    assert settle(database, first, "no connection") is None
    assert settle(database, second, None) is DeliveryState.DELIVERED


@pytest.mark.usefixtures("nobody_sends")
def test_what_is_gone_or_not_allowed_any_more_is_said_and_names_nothing(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session], port: int
) -> None:
    job = submit(client, scan, "web")
    drive.complete(job)
    taken = take(database)
    error = attempt(client, taken)
    assert error == "no connection"
    for secret in (TOKEN, "127.0.0.1", str(port), "secret-path"):
        assert secret not in error
    for fields in ({"receiver": "removed"}, {"receiver": "theirs"}):
        assert "no such destination" in str(attempt(client, Delivery(**vars(taken) | fields)))
    assert attempt(client, Delivery(**vars(taken) | {"job_id": uuid.uuid4()})) == "the result is no longer kept"
    client.delete(f"/v1/jobs/{job['id']}")
    assert attempt(client, taken) == "the result is no longer kept"
    assert settle(database, taken, None) is None
    with database() as session:
        assert session.scalars(select(DestinationDelivery)).all() == []


@pytest.mark.usefixtures("nobody_sends")
def test_a_result_is_not_sent_without_the_identifiers_that_earlier_attempts_sent(
    settings: Settings, database: sessionmaker[Session], storage: LocalStorage, mri_file: bytes, port: int
) -> None:
    named = {"destinations": dimse("named", port) + "identifiers = true\n"}
    with TestClient(create_app(settings.model_copy(update=named))) as client, peer(port=port) as there:
        form = {"file": ("scan.h5", mri_file), "template": ("t.dcm", template())}
        scan = client.post("/v1/scans", files=form).json()
        Drive(database, storage).complete(submit(client, scan, "named"))
        taken = take(database)
        assert attempt(client, taken) is None
        assert attempt(client, taken) is None
        assert len(set(there.uids)) == len(there.uids) / 2  # a repeat is the same objects
        for key in (keys.identity_of_scan(scan["sha256"]), keys.prepared_scan(scan["sha256"])):
            storage.put(key, b"{")
            assert "upload the scan again" in str(attempt(client, taken)), key
            storage.delete(key)
        assert "upload the scan again" in str(attempt(client, taken))
        assert client.post("/v1/scans", files=form).status_code == 200
        assert attempt(client, taken) is None
        with database.begin() as session:
            session.execute(text("UPDATE scans SET expires_at = now() - interval '1 second'"))
        assert retention.expire(database, storage) == 0
        client.delete(f"/v1/scans/{scan['id']}")
        assert "the scan was deleted" in str(attempt(client, taken))


def test_a_result_is_sent_as_soon_as_its_archive_is_back(
    client: TestClient,
    scan: dict[str, Any],
    drive: Drive,
    port: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    job = submit(client, scan, "archive")
    drive.complete(job)
    until(lambda: deliveries(client, job)["archive"]["attempts"] > 1)
    with peer(port=port) as archive:
        sent(client, job)
        assert sorted(archive.uids) == sorted(objects_of(client, job))
    assert "destination.attempted" in caplog.text
    metrics = client.get("/metrics").text
    assert 'udig_delivery_attempts_total{outcome="delivered"} 1.0' in metrics
    assert 'udig_deliveries{state="delivered"} 1.0' in metrics


def test_a_job_that_is_deleted_while_it_is_sent_is_sent_no_further(
    settings: Settings,
    database: sessionmaker[Session],
    storage: LocalStorage,
    mri_file: bytes,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("udig_recon.api.destinations.courier.LEASE_SECONDS", 0.3)
    answered = threading.Event()
    with peer(port=port) as archive, TestClient(create_app(settings)) as client:
        archive.status = lambda _: 0 if answered.wait(60) else 1
        job = submit(client, client.post("/v1/scans", content=mri_file).json(), "archive")
        Drive(database, storage).complete(job)
        assert archive.asked.wait(60)
        client.delete(f"/v1/jobs/{job['id']}")
        until(lambda: "destination.attempted" in caplog.text)
        answered.set()
    assert len(archive.stored) <= 1


def test_the_identity_of_a_scan_goes_to_an_archive_that_may_have_it_and_to_no_other(
    settings: Settings, database: sessionmaker[Session], storage: LocalStorage, mri_file: bytes, port: int
) -> None:
    with peer(port=port) as archive, peer() as other:
        text = f"{dimse('archive', port)}identifiers = true\n{dimse('other', other.port)}"
        both = settings.model_copy(update={"destinations": text})
        with TestClient(create_app(both)) as client:
            form = {"file": ("scan.h5", mri_file), "template": ("t.dcm", template())}
            job = submit(client, client.post("/v1/scans", files=form).json(), "archive", "other")
            Drive(database, storage).complete(job)
            sent(client, job)
            stored = objects_of(client, job)
    assert len(archive.stored) == len(other.stored) == len(stored)
    assert {each.PatientID for each in archive.stored} == {"PAT-1"}
    assert {each.StudyInstanceUID for each in archive.stored} == {"1.2.3.4"}
    assert sorted(other.uids) == sorted(stored)
    assert not {"PAT-1"} & {str(each.PatientID) for each in (*other.stored, *stored.values())}
    assert not set(archive.uids) & set(stored)


def test_a_failed_job_is_sent_nowhere(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    job = submit(client, scan, "archive")
    drive.fail(job)
    assert deliveries(client, job) == {}


@pytest.mark.usefixtures("nobody_sends")
def test_a_result_that_waits_for_its_archive_does_not_expire(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    job = submit(client, scan, "archive")
    drive.complete(job)
    with database.begin() as session:
        session.execute(text("UPDATE jobs SET expires_at = now() - interval '1 second'"))
    assert retention.expire(database, storage) == 0
    settle(database, take(database), None)
    assert retention.expire(database, storage) == 1
    with database() as session:
        assert session.get_one(Job, uuid.UUID(job["id"])).expired
    assert deliveries(client, job)["archive"]["state"] == "delivered"


def test_rows_hold_names_alone(
    client: TestClient, scan: dict[str, Any], drive: Drive, database: sessionmaker[Session], port: int
) -> None:
    job = submit(client, scan, "web", "archive")
    drive.complete(job)
    until(lambda: all(each["attempts"] for each in deliveries(client, job).values()))
    with database() as session:
        tables = ("jobs", "destination_deliveries", "audit")
        rows = " ".join(str(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table}")))
    for secret in (TOKEN, "secret-path", f":{port}", "127.0.0.1"):
        assert secret not in rows


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No log line of any of these tests holds a secret."""
    yield
    assert TOKEN not in caplog.text
    assert "secret-path" not in caplog.text
