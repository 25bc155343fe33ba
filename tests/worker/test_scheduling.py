"""Whose turn it is: tenants and jobs that had least, the more urgent first, and nobody waits for ever."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.submit import retry_job, submit_job
from udig_recon.worker.access.admission import IllegalMove
from udig_recon.worker.database.tables import ComputeUsage, Job, JobSlice, Priority, Scan, Status
from udig_recon.worker.jobs import leases, lifecycle, scheduling, sweep
from udig_recon.worker.jobs.claims import Claim

LEASE = 60.0
ALIVE = 20.0


@pytest.fixture
def scans(database: sessionmaker[Session]) -> dict[str, Scan]:
    with database.begin() as session:
        found = {
            tenant: Scan(tenant=tenant, sha256="0" * 64, filename="a.h5", size_bytes=1, header={"modality": "mri"})
            for tenant in ("a", "b")
        }
        session.add_all(found.values())
    return found


def filed(
    database: sessionmaker[Session], scan: Scan, slices: int = 1, priority: int = 0, max_seconds: float | None = None
) -> uuid.UUID:
    with database.begin() as session:
        more = {"slices": list(range(slices)), "priority": priority, "max_seconds": max_seconds}
        return submit_job(session, scan, **more)[0].id


def begun(database: sessionmaker[Session], worker: str = "host:1:a") -> Claim | None:
    with database.begin() as session:
        return leases.claim(session, worker, LEASE)


def finished(database: sessionmaker[Session], claim: Claim | None, seconds: float = 10) -> uuid.UUID:
    """The slice is done, after so long."""
    assert claim is not None
    aged(database, claim, seconds)
    with database.begin() as session:
        if leases.store_slice(session, claim, "a.npz", {}):
            leases.succeed_job(session, claim, "results", {})
    return claim.job_id


def aged(database: sessionmaker[Session], claim: Claim, seconds: float) -> None:
    """It was claimed so long ago."""
    with database.begin() as session:
        ago = func.now() - timedelta(seconds=seconds)
        session.execute(update(JobSlice).where(claim.is_mine()).values(claimed_at=ago))


def order(database: sessionmaker[Session], seconds: float = 10) -> Iterator[uuid.UUID]:
    """Jobs whose slices one worker does one after the other, each in so many seconds."""
    while (claim := begun(database)) is not None:
        yield finished(database, claim, seconds)


def asked(database: sessionmaker[Session]) -> set[tuple[uuid.UUID, int]]:
    """The slices that are to give way after a sweep."""
    with database.begin() as session:
        scheduling.ask_to_yield(session, ALIVE)
    with database() as session:
        rows = session.execute(select(JobSlice.job_id, JobSlice.slice).where(JobSlice.yield_requested_at.is_not(None)))
        return {(job_id, slice_) for job_id, slice_ in rows}


def test_beside_a_volume_of_another_tenant_a_slice_is_the_next(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    volume = filed(database, scans["a"], slices=30)
    assert [finished(database, begun(database)) for _ in range(3)] == [volume] * 3
    single = filed(database, scans["b"])
    assert [finished(database, begun(database)) for _ in range(3)] == [single, volume, volume]


def test_two_tenants_share_the_workers_however_many_jobs_and_slices_they_have(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    of_a = {filed(database, scans["a"], slices=8) for _ in range(4)}
    of_b = filed(database, scans["b"], slices=8)
    done = [job for job, _ in zip(order(database), range(16), strict=False)]
    assert sum(job in of_a for job in done) == 8
    assert done.count(of_b) == 8


def test_seconds_are_shared_and_not_slices(database: sessionmaker[Session], scans: dict[str, Scan]) -> None:
    slow, quick = filed(database, scans["a"], slices=40), filed(database, scans["b"], slices=40)
    done = []
    for _ in range(22):
        claim = begun(database)
        assert claim is not None
        done.append(finished(database, claim, 100 if claim.job_id == slow else 10))
    assert (done.count(slow), done.count(quick)) == (2, 20)


def test_jobs_of_a_tenant_take_turns(database: sessionmaker[Session], scans: dict[str, Scan]) -> None:
    first, second = (filed(database, scans["a"], slices=3) for _ in range(2))
    done = list(order(database))
    assert [set(done[turn : turn + 2]) for turn in (0, 2, 4)] == [{first, second}] * 3


def test_slices_that_run_count_before_they_are_done(database: sessionmaker[Session], scans: dict[str, Scan]) -> None:
    filed(database, scans["a"], slices=9)
    for number in range(3):
        running = begun(database, f"host:{number}:a")
        assert running is not None
        aged(database, running, 5)
    other = filed(database, scans["b"], slices=2)
    claims = [begun(database, f"host:{number}:a") for number in range(3, 5)]
    assert [claim.job_id for claim in claims if claim] == [other, other]


def test_what_was_had_long_ago_is_not_held_against_anybody(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    first = filed(database, scans["a"], slices=3)
    finished(database, begun(database), seconds=3600)
    second = filed(database, scans["b"], slices=3)
    finished(database, begun(database))
    with database.begin() as session:
        session.execute(update(ComputeUsage).values(at=ComputeUsage.at - scheduling.WINDOW))
    claim = begun(database)
    assert claim is not None
    assert (claim.job_id, second != first) == (first, True)


def test_who_deletes_a_job_has_had_what_its_workers_did(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    deleted = filed(database, scans["a"])
    claim = begun(database)
    assert claim is not None
    aged(database, claim, 50)
    with database.begin() as session:
        lifecycle.delete(session, deleted, "a")
    filed(database, scans["a"])
    other = filed(database, scans["b"])
    assert finished(database, begun(database)) == other


def test_what_is_urgent_goes_first_whatever_its_tenant_had(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    finished(database, begun(database)) if filed(database, scans["a"]) else None
    filed(database, scans["b"], slices=5)
    urgent = filed(database, scans["a"], priority=Priority.URGENT)
    assert finished(database, begun(database)) == urgent


def test_what_is_routine_gets_a_turn_beside_a_flood_of_what_is_urgent(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    routine = filed(database, scans["a"], slices=2)
    urgent = filed(database, scans["b"], slices=50, priority=Priority.URGENT)
    assert finished(database, begun(database)) == urgent
    with database.begin() as session:
        waited = func.now() - scheduling.STARVED - timedelta(seconds=1)
        session.execute(update(JobSlice).where(JobSlice.status == Status.QUEUED).values(queued_at=waited))
    turn = begun(database)
    assert turn is not None
    assert turn.job_id == routine
    assert asked(database) == set()  # nobody takes its turn away at once
    assert finished(database, begun(database)) == urgent  # one at a time
    finished(database, turn)
    assert finished(database, begun(database)) == urgent  # and not again for a while


def test_the_slice_of_whoever_had_most_gives_way_to_what_is_urgent_and_only_one_does(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    filed(database, scans["a"], slices=4)
    greedy = [begun(database, f"host:{number}:a") for number in range(2)]
    for claim in greedy:
        assert claim is not None
        aged(database, claim, 100)
    filed(database, scans["b"])
    assert begun(database, "host:2:a") is not None
    assert asked(database) == set()
    filed(database, scans["b"], priority=Priority.URGENT)
    to_yield = asked(database)
    assert len(to_yield) == 1
    assert to_yield <= {(claim.job_id, claim.slice) for claim in greedy if claim}
    assert asked(database) == to_yield


def test_nobody_gives_way_while_a_worker_is_free_or_to_its_own_kind(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    filed(database, scans["a"], priority=Priority.URGENT)
    filed(database, scans["a"])
    for number in range(2):
        assert begun(database, f"host:{number}:a") is not None
    filed(database, scans["b"])
    assert asked(database) == set()
    with database.begin() as session:
        sweep.register(session, "host:9:a", "cpu")
    filed(database, scans["b"], priority=Priority.URGENT)
    assert asked(database) == set()
    with database.begin() as session:  # free by name alone
        waited = func.now() - timedelta(minutes=1)
        session.execute(update(JobSlice).where(JobSlice.status == Status.QUEUED).values(queued_at=waited))
    assert len(asked(database)) == 1


def test_a_slice_that_lasts_gives_way_to_a_tenant_without_a_worker_and_is_then_gone_on_with(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    lasting = filed(database, scans["a"], slices=2)
    claims = [begun(database, f"host:{number}:a") for number in range(2)]
    other = filed(database, scans["b"], slices=2)
    assert asked(database) == set()  # what has run for less than its turn
    for claim in claims:
        assert claim is not None
        aged(database, claim, 1000)
    assert asked(database) == set()  # a worker may be free yet
    with database.begin() as session:
        waited = func.now() - timedelta(minutes=1)
        session.execute(update(JobSlice).where(JobSlice.status == Status.QUEUED).values(queued_at=waited))
    ((job_id, slice_),) = asked(database)
    assert job_id == lasting
    (gives_way,) = (claim for claim in claims if claim and claim.slice == slice_)
    with database.begin() as session:
        leases.release(session, gives_way, yielded=True)
    theirs = begun(database)
    assert theirs is not None
    assert theirs.job_id == other
    assert asked(database) == set()  # each has a worker
    aged(database, theirs, 1000)
    assert asked(database) == set()
    finished(database, theirs, 500)
    assert finished(database, begun(database), 2000) == other
    again = begun(database)
    assert again is not None
    assert (again.job_id, again.slice) == (lasting, slice_)


def test_a_slice_gives_way_to_no_tenant_that_had_more_and_to_none_of_its_own(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    filed(database, scans["b"])
    finished(database, begun(database), 500)
    filed(database, scans["a"])
    claim = begun(database)
    assert claim is not None
    aged(database, claim, 100)
    for tenant in "ab":
        filed(database, scans[tenant])
    with database.begin() as session:
        waited = func.now() - timedelta(minutes=1)
        session.execute(update(JobSlice).where(JobSlice.status == Status.QUEUED).values(queued_at=waited))
    assert asked(database) == set()


def test_who_gave_way_keeps_its_next_worker_for_a_while(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    routine = filed(database, scans["a"])
    claim = begun(database)
    assert claim is not None
    urgent = filed(database, scans["b"], priority=Priority.URGENT)
    assert asked(database) == {(routine, 0)}
    with database.begin() as session:
        assert leases.heartbeat(session, claim, LEASE).yield_requested
        leases.release(session, claim, yielded=True)
    assert finished(database, begun(database)) == urgent
    again = begun(database)
    assert again is not None
    assert again.job_id == routine
    filed(database, scans["b"], priority=Priority.URGENT)
    assert asked(database) == set()
    with database.begin() as session:
        session.execute(update(JobSlice).values(protected_until=func.now() - timedelta(seconds=1)))
    assert asked(database) == {(routine, 0)}


def test_who_need_give_way_no_more_is_asked_no_more_and_who_cannot_has_another_asked(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    filed(database, scans["a"], slices=2)
    claims = [begun(database, f"host:{number}:a") for number in range(2)]
    urgent = filed(database, scans["b"], priority=Priority.URGENT)
    (first,) = asked(database)
    with database.begin() as session:
        long_ago = func.now() - timedelta(seconds=scheduling.UNANSWERED_SECONDS + 1)
        session.execute(
            update(JobSlice).where(JobSlice.yield_requested_at.is_not(None)).values(yield_requested_at=long_ago)
        )
    assert len(both := asked(database)) == 2
    assert first in both
    with database.begin() as session:
        lifecycle.request_cancel(session, urgent, "b")
    assert asked(database) == set()
    with database.begin() as session:
        assert not any(leases.heartbeat(session, claim, LEASE).yield_requested for claim in claims if claim)


def test_a_job_fails_when_its_seconds_are_used_up_and_goes_on_with_more(
    database: sessionmaker[Session], scans: dict[str, Scan]
) -> None:
    job_id = filed(database, scans["a"], slices=3, max_seconds=100)
    finished(database, begun(database), seconds=60)
    claim = begun(database)
    assert claim is not None
    with database.begin() as session:
        assert not leases.heartbeat(session, claim, LEASE).out_of_time
    aged(database, claim, 50)
    with database.begin() as session:
        assert leases.heartbeat(session, claim, LEASE).out_of_time
    finished(database, claim, 50)
    assert begun(database) is None
    with database() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.error and job.error["type"]) == (Status.FAILED, "urn:udig-recon:problem:time-limit")
        assert job.seconds == pytest.approx(110, abs=5)
        with pytest.raises(IllegalMove, match="larger max_seconds"):
            retry_job(session, job_id, "a")
    with database.begin() as session:
        retry_job(session, job_id, "a", max_seconds=1000)
    again = begun(database)
    assert again is not None
    assert again.slice == 2


def test_summing_up_changes_no_sum(database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "SUMMED_FROM", 10)
    job_id, other = uuid.uuid4(), uuid.uuid4()
    with database.begin() as session:
        for number in range(40):
            at = func.now() - timedelta(seconds=60 + 2 * number)
            which = job_id if number % 2 else other
            session.add(ComputeUsage(tenant="a", job_id=which, priority=0, seconds=1.0, at=at))
        session.add(ComputeUsage(tenant="a", job_id=job_id, priority=0, seconds=1.0, at=func.now() - timedelta(days=3)))
    with database.begin() as session:
        scheduling.sum_up_usage(session)
    with database() as session:
        count, seconds = session.execute(select(func.count(), func.sum(ComputeUsage.seconds))).one()
        assert seconds == 40
        assert count < 10


def test_a_claim_looks_at_few_of_many_slices_that_wait(database: sessionmaker[Session], scans: dict[str, Scan]) -> None:
    for _ in range(20):
        filed(database, scans["a"], slices=1000)
    last = filed(database, scans["b"])
    with database() as session:
        session.execute(text("ANALYZE"))
        query = scheduling._rank().compile(session.connection(), compile_kwargs={"literal_binds": True})
        (plan,) = session.scalar(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".replace(":", r"\:")))
        assert rows_read(plan["Plan"]) < 1000
    assert last in {finished(database, begun(database)) for _ in range(2)}


def rows_read(plan: dict[str, object]) -> float:
    """Rows that the leaves of a plan gave or threw away."""
    below = plan.get("Plans", [])
    assert isinstance(below, list)
    own = 0.0
    if not below:
        each = float(plan["Actual Rows"]) + float(plan.get("Rows Removed by Filter", 0))  # type: ignore[arg-type]
        own = each * float(plan["Actual Loops"])  # type: ignore[arg-type]
    return own + sum(map(rows_read, below))
