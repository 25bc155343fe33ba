"""What lets thousands of workers and millions of jobs share one database, on a few rows."""

import uuid

import pytest
from sqlalchemy import inspect, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.worker_processes import SHORT, Desk
from udig_recon.api.system import metrics
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Job, JobSlice, Priority, Status
from udig_recon.worker.jobs import leases, lifecycle, retention, scheduling, state, turns
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.runtime.memory_fit import Room


def test_of_all_who_ask_one_has_a_turn_and_then_nobody_for_a_while(database: sessionmaker[Session]) -> None:
    with database.begin() as first, database.begin() as second:
        assert turns.take(first, Lock.SWEEP, 60)
        assert not turns.take(second, Lock.SWEEP, 60)  # without waiting for the first
    with database.begin() as third:
        assert not turns.take(third, Lock.SWEEP, 60)
        assert turns.take(third, Lock.YIELD, 60)
        assert turns.take(third, Lock.SWEEP, 0)


def test_a_turn_that_was_broken_off_is_nobodys(database: sessionmaker[Session]) -> None:
    with database() as session:
        assert turns.take(session, Lock.SWEEP, 60)
        session.rollback()
    with database.begin() as session:
        assert turns.take(session, Lock.SWEEP, 60)


def test_a_report_renews_the_lease_and_hears_what_a_heartbeat_would(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), SHORT, messages=0)
    claim = desk.claimed(job_id)
    with desk.database.begin() as session:
        session.execute(update(JobSlice).values(lease_until=text("now() - interval '1 s'")))
        lifecycle.request_cancel(session, job_id)
    for _ in range(2):  # the second is the answer to a report whose first answer was lost
        with desk.database.begin() as session:
            assert leases.record(session, claim, Point(3, 10, 1.5), 60).cancel
            assert session.scalar(text("SHOW synchronous_commit")) == "off"
    with desk.database() as session:
        assert session.scalar(select(JobSlice.iteration).where(JobSlice.lease_until > text("now()"))) == 3
        assert session.get_one(Job, job_id).last_seq == 1
        assert session.scalar(text("SHOW synchronous_commit")) == "on"


def test_a_heartbeat_needs_no_index_entry(database: sessionmaker[Session]) -> None:
    changed = {"lease_until", "iteration", "iterations", "seconds"}
    with database() as session:
        for index in inspect(session.connection()).get_indexes("job_slices"):
            where = index.get("dialect_options", {}).get("postgresql_where", "")
            assert not changed & {*index["column_names"], *where.split()}, index["name"]


def test_a_claim_waits_for_no_other_claim_while_a_job_of_its_priority_is_free(desk: Desk) -> None:
    scan = desk.scan()
    first, second = (desk.submit(scan, SHORT, messages=0) for _ in range(2))
    with desk.database.begin() as one, desk.database.begin() as other:
        claim_of_one = leases.claim(one, "host:1:a", 60)
        other.execute(text("SET LOCAL lock_timeout = '1s'"))
        claim_of_other = leases.claim(other, "host:2:a", 60, room=Room(10**12, 10**12))
        assert claim_of_one is not None
        assert claim_of_other is not None
        assert {claim_of_one.job_id, claim_of_other.job_id} == {first, second}


def test_a_claim_waits_for_a_job_rather_than_take_a_less_urgent_one(desk: Desk) -> None:
    scan = desk.scan()
    urgent, routine = (desk.submit(scan, SHORT, messages=0) for _ in range(2))
    with desk.database.begin() as session:
        session.execute(update(Job).where(Job.id == urgent).values(priority=Priority.URGENT))
    with desk.database.begin() as busy, desk.database() as waiting:
        state.lock_job(busy, urgent)
        waiting.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(OperationalError):
            leases.claim(waiting, "host:1:a", 60)
    assert desk.claimed(urgent).job_id != routine


def test_a_claim_passes_over_no_job_that_its_machine_is_kept_free_for(desk: Desk) -> None:
    scan = desk.scan()
    held, large, _ = (desk.submit(scan, SHORT, messages=0) for _ in range(3))
    with desk.database.begin() as session:
        session.execute(update(Job).values(memory_bytes=10))
        session.execute(update(Job).where(Job.id == large).values(memory_bytes=100))
    with desk.database() as session:
        assert scheduling.next_jobs(session, Priority.ROUTINE, (), Room(200, 50)) == [held]


@pytest.mark.parametrize("column", [None, "status", "rating", "parameters ->> 'method'"])
def test_each_list_of_a_tenant_has_an_index_in_its_order(database: sessionmaker[Session], column: str | None) -> None:
    wanted = ["tenant", *([column] if column else []), "id"]
    with database() as session:
        definitions = session.scalars(text("SELECT indexdef FROM pg_indexes WHERE tablename = 'jobs'")).all()
    plain = ["".join(each for each in text if each not in "()") for text in definitions]
    assert any(f"USING btree {', '.join(wanted)}" in each.replace("::text", "") for each in plain), plain


def test_rows_of_expired_jobs_go_in_batches_and_wait_for_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 2)
    scan = desk.scan()
    jobs = [desk.submit(scan, SHORT, messages=0) for _ in range(6)]
    with desk.database.begin() as session:
        session.execute(update(Job).values(status=Status.SUCCEEDED, expired=True))
        session.execute(text("UPDATE jobs SET expires_at = now() - interval '31 days'"))
        session.execute(text("UPDATE jobs SET expires_at = now() WHERE id = :id"), {"id": jobs[5]})
    with desk.database.begin() as busy:
        busy.execute(select(Job.id).where(Job.id == jobs[0]).with_for_update())
        retention.expire(desk.database, desk.storage, seconds=10)
        assert left(desk) == {jobs[0], jobs[5]}
    retention.expire(desk.database, desk.storage)
    assert left(desk) == {jobs[5]}


def left(desk: Desk) -> set[uuid.UUID]:
    with desk.database() as session:
        assert set(session.scalars(select(JobSlice.job_id))) == set(session.scalars(select(Job.id)))
        return set(session.scalars(select(Job.id)))


def test_a_scrape_estimates_the_jobs_that_have_ended_where_they_are_many(
    desk: Desk, owner_database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = desk.scan()
    jobs = [desk.submit(scan, SHORT, messages=0) for _ in range(6)]
    with owner_database.begin() as session:
        session.execute(update(Job).where(Job.id.in_(jobs[:4])).values(status=Status.SUCCEEDED))
        session.execute(update(Job).where(Job.id.in_(jobs[4:])).values(status=Status.FAILED))
        session.execute(text("ANALYZE jobs"))
    monkeypatch.setattr(metrics, "COUNTED_JOBS", 0)
    queued = desk.submit(scan, SHORT, messages=0)
    with desk.database() as session:
        found = metrics._jobs_by_status(session)
    assert queued not in jobs
    assert found == {"queued": 1, "running": 0, "succeeded": 4, "failed": 2, "cancelled": 0}
