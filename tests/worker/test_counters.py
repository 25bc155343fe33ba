"""What is counted: every end and every lost lease, whoever makes it, and the sum never falls."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.claim import claim_slice
from tests.support.submit import retry_job, submit_job
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Counter, Job, JobSlice, Scan, WebhookDelivery
from udig_recon.worker.jobs import failures, leases, lifecycle, sweep
from udig_recon.worker.jobs.claims import Claim


def submit(session: Session, webhook_url: str | None = None) -> Job:
    scan = session.scalar(select(Scan)) or Scan(sha256="0" * 64, filename="a.h5", size_bytes=1, header={})
    session.add(scan)
    session.flush()
    return submit_job(session, scan, slices=[0, 1], webhook_url=webhook_url)[0]


def claim(session: Session, job: Job, slice_: int = 0) -> Claim:
    claimed = claim_slice(session, job.id, slice_)
    assert claimed is not None
    return claimed


def test_slices_lost_leases_and_failures_by_reason_are_counted(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        job = submit(session)
        leases.heartbeat(session, claimed := claim(session, job), 60, leases.Point(1, 2, seconds=2.5))
        assert not leases.store_slice(session, claimed, "a.npz", {})
    with database.begin() as session:
        claim(session, job, 1)
        for _ in range(2):  # taken back, then poison
            session.execute(update(JobSlice).values(lease_until=func.now() - timedelta(seconds=1)))
            sweep.expire(session, max_crashes=2)
            claim_slice(session, job.id, 1)
    with database.begin() as session:
        retry_job(session, job.id)
        leases.fail_job(session, claim(session, job, 1), {"type": "about:blank"})
        lifecycle.request_cancel(session, submit(session).id)
    with database() as session:
        assert counters.totals(session) == {
            "slices": {"": 1},
            "slice_seconds": {"": 2.5},
            "lease_losses": {"": 2},
            "jobs": {"failed": 2, "cancelled": 1},
            "failures": {"worker-lost": 1, "other": 1},
        }


def test_a_slice_that_waits_again_waits_from_then_on(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        job = submit(session)
        session.execute(update(JobSlice).values(queued_at=func.now() - timedelta(hours=1)))
        claimed = claim(session, job)
        assert claimed.claimed_at - claimed.queued_at >= timedelta(hours=1)
    with database.begin() as session:
        leases.release(session, claimed)
    with database.begin() as session:
        again = claim(session, job)
        assert again.claimed_at - again.queued_at < timedelta(hours=1)


def test_who_knows_nothing_of_webhooks_and_tallies_makes_them_all_the_same(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        told, quiet = submit(session, "https://example.org/"), submit(session)
        session.execute(text("UPDATE job_slices SET status = 'succeeded'"))
        session.execute(text("UPDATE jobs SET status = 'succeeded'"))
        session.execute(text("UPDATE jobs SET status = 'succeeded'"))
    with database() as session:
        assert quiet.webhook_url is None
        assert session.scalars(select(WebhookDelivery.job_id)).all() == [told.id]
        assert counters.totals(session)["slices"] == {"": 4}
        assert counters.totals(session)["jobs"] == {"succeeded": 2}


def test_an_end_that_is_rolled_back_is_not_told(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        job = submit(session, "https://example.org/")
    with database() as session:
        lifecycle.request_cancel(session, job.id)
        session.flush()
        assert session.scalars(select(WebhookDelivery.event)).all() == ["job.cancelled"]
        session.rollback()
        assert session.scalars(select(WebhookDelivery)).all() == []
        assert counters.totals(session) == {}


def test_summing_up_leaves_the_sums(database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "SUMMED_FROM", 10)
    with database.begin() as session:
        for kind, label in [("jobs", "failed"), ("jobs", "succeeded"), ("slices", "")] * 5:
            counters.add(session, kind, label)
    with database() as reader, database.begin() as session:
        before = counters.totals(reader)
        sweep.sweep(session, 3, 1, messages=0)
        assert session.scalar(select(func.count()).select_from(Counter)) == 3
        assert counters.totals(session) == counters.totals(reader) == before
    with database.begin() as session:
        counters.add(session, "slices")
        sweep.sweep(session, 3, 1, messages=0)
        assert session.scalar(select(func.count()).select_from(Counter)) == 4


def test_every_kind_of_problem_is_known_to_the_metrics() -> None:
    made = [
        failures.out_of_memory(0, "cpu", ""),
        failures.disk_full(0),
        failures.worker_lost(0, 3),
        failures.internal(0, ValueError()),
    ]
    assert {each["type"].rpartition(":")[2] for each in made} <= set(failures.KINDS)
