"""What is past its time is gone, with every copy; what is worked on waits for its end."""

import uuid
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tests.support.submit import retry_job
from tests.support.worker_processes import SHORT, Desk
from udig_recon.worker.access import audit
from udig_recon.worker.access.admission import IllegalMove
from udig_recon.worker.database.tables import DeliveryState, Job, Scan, Status, WebhookDelivery
from udig_recon.worker.jobs import retention
from udig_recon.worker.storage import keys


@pytest.fixture
def kept(desk: Desk) -> tuple[uuid.UUID, uuid.UUID]:
    """A scan and an ended job of it, with files of each kind."""
    scan_id = desk.scan()
    written = {"tags": {"patient": "Doe"}, "webhook_url": "https://example.org/?patient=Doe", "idempotency_key": "Doe"}
    job_id = desk.submit(scan_id, SHORT, messages=0, retention_days=1, **written)
    desk.storage.create_group(keys.job(job_id))
    for prefix in (keys.checkpoints(job_id), keys.slices(job_id), keys.previews(job_id), keys.results(job_id, 1)):
        desk.storage.put(f"{prefix}/file", b"x")
    change(desk, f"UPDATE scans SET expires_at = now() + interval '1 day' WHERE id = '{scan_id}'")
    change(desk, f"UPDATE jobs SET status = 'succeeded' WHERE id = '{job_id}'")
    return scan_id, job_id


def change(desk: Desk, statement: str) -> None:
    with desk.database.begin() as session:
        session.execute(text(statement))


def swept(desk: Desk) -> int:
    return retention.expire(desk.database, desk.storage)


def past(desk: Desk, days: int = 0) -> None:
    """Let so many days go by since the end of all that is kept."""
    for table in ("scans", "jobs"):
        change(desk, f"UPDATE {table} SET expires_at = now() - interval '{days} days 1 second'")


def actions(session: Session) -> list[str]:
    return [entry.action for entry in audit.verify_entries(audit.entries(session))]


def test_nothing_goes_before_its_time(desk: Desk, kept: tuple[uuid.UUID, uuid.UUID]) -> None:
    assert swept(desk) == 0
    change(desk, "UPDATE scans SET expires_at = NULL")
    change(desk, "UPDATE jobs SET expires_at = NULL")
    assert swept(desk) == 0
    assert desk.storage.path(keys.job(kept[1])).exists()


def test_files_go_with_what_a_client_wrote_and_a_word_of_the_job_stays_for_a_while(
    desk: Desk, kept: tuple[uuid.UUID, uuid.UUID]
) -> None:
    scan_id, job_id = kept
    with desk.database() as session:
        assert session.scalars(select(WebhookDelivery.url)).all() == ["https://example.org/?patient=Doe"]
    change(desk, "UPDATE webhook_deliveries SET state = 'delivered'")
    past(desk)
    assert swept(desk) == 2
    assert swept(desk) == 0
    assert list((desk.storage.root / "jobs").iterdir()) == list((desk.storage.root / "scans").iterdir()) == []
    job = desk.job(job_id)
    assert (job.expired, job.tags, job.scan_id) == (True, {}, None)
    assert (job.idempotency_key, job.webhook_url) == (None, None)
    with desk.database() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []
        assert session.get(Scan, scan_id) is None
        assert actions(session) == ["job.expired", "scan.expired"]
        with pytest.raises(IllegalMove):
            retry_job(session, job_id)
    past(desk, days=30)
    swept(desk)
    with desk.database() as session:
        assert session.scalars(select(Job)).all() == []


def test_a_webhook_that_was_not_heard_yet_outlives_the_files(desk: Desk, kept: tuple[uuid.UUID, uuid.UUID]) -> None:
    past(desk)
    assert swept(desk) == 2
    with desk.database() as session:
        (told,) = session.scalars(select(WebhookDelivery)).all()
        assert told.state is DeliveryState.PENDING
        assert (told.data or {})["tags"] == {}  # what the client wrote goes with the files
    past(desk, days=30)
    swept(desk)
    with desk.database() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_what_is_worked_on_waits(desk: Desk, kept: tuple[uuid.UUID, uuid.UUID], status: Status) -> None:
    past(desk)
    change(desk, f"UPDATE jobs SET status = '{status}'")
    assert swept(desk) == 0
    change(desk, "UPDATE jobs SET status = 'cancelled'")
    assert swept(desk) == 2


def test_a_sweep_that_was_killed_is_done_again(
    desk: Desk, kept: tuple[uuid.UUID, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    past(desk)

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(audit, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            swept(desk)
    assert not desk.job(kept[1]).expired
    assert swept(desk) == 2
