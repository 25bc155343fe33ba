"""Every move of a job, by rows alone: who may make it, what it leaves behind."""

import threading
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.claim import claim_slice
from tests.support.submit import retry_job, submit_job
from tests.support.worker_processes import Desk
from udig_recon.core.parameters import CGSense, Parameters, UDiGDIP
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.slice_order import WarmStart
from udig_recon.worker.access.admission import IllegalMove, TooManyOpenJobs
from udig_recon.worker.database.tables import Job, JobSlice, Scan, Snapshot, Status, Worker
from udig_recon.worker.jobs import leases, lifecycle, queue, sweep
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.jobs.failures import problem
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.jobs.lifecycle import IdempotencyConflict
from udig_recon.worker.jobs.state import LeaseLost, UnknownJob

LEASE = 60.0
POINT = Point(iteration=1, iterations=4, seconds=0.5, loss=2.0)
JUDGED = UDiGDIP()  # slices 0 and 2 of three follow slice 1
VERDICT = PriorCheck(prior_weight=1.0, best_at=1.0, residuals={"tv": 0.2, "udig_dip": 0.1}, tv_weight=0.003)
BROKEN = problem("invalid", "Unprocessable Content", 422, "broken")


@pytest.fixture
def scan(database: sessionmaker[Session]) -> Scan:
    with database.begin() as session:
        scan = Scan(sha256="0" * 64, filename="a.h5", size_bytes=1, header={"modality": "mri"})
        session.add(scan)
    return scan


def submit(
    session: Session, scan: Scan, slices: int = 1, most: int = 100, method: Parameters | None = None, **more: str
) -> tuple[Job, bool]:
    asked = {"method": method or CGSense(), "max_open_jobs": most}
    return submit_job(session, scan, slices=list(range(slices)), **asked, **more)


def filed(database: sessionmaker[Session], scan: Scan, slices: int = 1, method: Parameters | None = None) -> uuid.UUID:
    with database.begin() as session:
        return submit(session, scan, slices, method=method)[0].id


def claimed(database: sessionmaker[Session], job_id: uuid.UUID, slice_: int = 0, worker: str = "host:1:a") -> Claim:
    with database.begin() as session:
        claim = claim_slice(session, job_id, slice_, worker, LEASE)
    assert claim is not None
    return claim


def begun(database: sessionmaker[Session], worker: str = "host:1:a") -> Claim | None:
    """What a worker takes whose turn it is."""
    with database.begin() as session:
        return leases.claim(session, worker, LEASE)


def lapse(database: sessionmaker[Session], max_crashes: int = 3) -> list[tuple[uuid.UUID, int]]:
    """Let all leases run out, and sweep."""
    with database.begin() as session:
        session.execute(update(JobSlice).values(lease_until=func.now() - timedelta(seconds=1)))
    with database.begin() as session:
        return sweep.sweep(session, max_crashes, 5, messages=None)


def status(database: sessionmaker[Session], job_id: uuid.UUID) -> Status:
    with database() as session:
        return session.get_one(Job, job_id).status


def test_the_same_key_and_request_answer_with_the_first_job(database: sessionmaker[Session], scan: Scan) -> None:
    made: list[tuple[uuid.UUID, bool]] = []

    def post() -> None:
        with database.begin() as session:
            job, created = submit(session, scan, idempotency_key="k", request_sha256="1")
            made.append((job.id, created))

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for job_id, _ in made}) == 1
    assert sorted(created for _, created in made) == [False] * 7 + [True]
    with database() as session, pytest.raises(IdempotencyConflict):
        submit(session, scan, idempotency_key="k", request_sha256="2")


def test_no_more_jobs_are_open_than_the_limit(database: sessionmaker[Session], scan: Scan) -> None:
    with database.begin() as session:
        submit(session, scan, most=2)
        submit(session, scan, most=2)
        with pytest.raises(TooManyOpenJobs, match="limit is 2"):
            submit(session, scan, most=2)


def test_a_job_on_a_deleted_scan_is_refused(database: sessionmaker[Session], scan: Scan) -> None:
    with database.begin() as session:
        session.delete(session.get_one(Scan, scan.id))
    with database() as session, pytest.raises(IllegalMove):
        submit(session, scan)


def test_every_chunk_is_claimed_once(database: sessionmaker[Session], scan: Scan) -> None:
    first, second = filed(database, scan), filed(database, scan, slices=2)
    taken = [begun(database) for _ in range(3)]
    assert [(claim.job_id, claim.slice) for claim in taken if claim] == [(first, 0), (second, 0), (second, 1)]
    assert begun(database) is None


def test_many_claims_at_once_get_different_chunks(database: sessionmaker[Session], scan: Scan) -> None:
    filed(database, scan, slices=12)
    taken: list[int] = []

    def take() -> None:
        for _ in range(2):
            claim = begun(database)
            assert claim is not None
            taken.append(claim.slice)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(12))


@pytest.mark.parametrize(
    "write",
    [
        lambda session, claim: leases.heartbeat(session, claim, LEASE),
        lambda session, claim: leases.record(session, claim, POINT, LEASE),
        lambda session, claim: leases.store_slice(session, claim, "a.npz", {}, {"selected": "tv"}),
        lambda session, claim: leases.succeed_job(session, claim, "results", {}),
        lambda session, claim: leases.fail_job(session, claim, BROKEN),
        lambda session, claim: leases.release(session, claim),
        lambda session, claim: leases.stop_cancelled(session, claim),
    ],
)
def test_whoever_lost_the_lease_writes_nothing(database: sessionmaker[Session], scan: Scan, write: object) -> None:
    job_id = filed(database, scan)
    stale = claimed(database, job_id)
    assert lapse(database) == [(job_id, 0)]
    assert status(database, job_id) is Status.QUEUED
    fresh = claimed(database, job_id, worker="host:2:b")
    with pytest.raises(LeaseLost), database.begin() as session:
        write(session, stale)  # type: ignore[operator]
    with database.begin() as session:
        job_slice, job = session.get_one(JobSlice, (job_id, 0)), session.get_one(Job, job_id)
        assert (job_slice.attempt, job_slice.worker, job_slice.result, job_slice.iteration) == (2, "host:2:b", None, 0)
        assert (job_slice.metrics, job_slice.prior_check) == (None, None)
        assert (job.status, job.last_seq, job.result, job.error) == (Status.RUNNING, 0, None, None)
        leases.heartbeat(session, fresh, LEASE)


def test_the_last_slice_assembles_and_metrics_are_means(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan, slices=2)
    one, other = claimed(database, job_id, 0), claimed(database, job_id, 1)
    with database.begin() as session:
        assert not leases.store_slice(session, one, "0.npz", {"psnr": 30.0, "ssim": None})
    assert status(database, job_id) is Status.RUNNING
    with database.begin() as session:
        assert leases.store_slice(session, other, "1.npz", {"psnr": 32.0, "ssim": 0.5})
    assert lapse(database) == [(job_id, 1)]
    again = claimed(database, job_id, 1)
    assert again.result == "1.npz"
    with database.begin() as session:
        leases.succeed_job(session, again, "jobs/results/2", {"software": "udig-recon"})
    with database() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.result, job.metrics) == (
            Status.SUCCEEDED,
            "jobs/results/2",
            {"psnr": 31.0, "ssim": None},
        )


def test_a_slice_keeps_its_verdict_and_one_that_was_not_judged_has_none(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, slices=2)
    one, other = claimed(database, job_id, 0), claimed(database, job_id, 1)
    with database.begin() as session:
        leases.store_slice(session, one, "0.npz", {}, {"selected": "tv"})
        leases.store_slice(session, other, "1.npz", {})
    with database() as session:
        checked = session.execute(
            select(JobSlice.slice, JobSlice.prior_check).where(JobSlice.prior_check.is_not(None))
        ).all()
    assert [tuple(row) for row in checked] == [(0, {"selected": "tv"})]


def test_snapshots_are_numbered_in_the_order_of_their_commits(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan, slices=4)
    claims = [claimed(database, job_id, slice_) for slice_ in range(4)]

    def record(claim: Claim) -> None:
        for iteration in range(1, 11):
            with database.begin() as session:
                leases.record(session, claim, replace(POINT, iteration=iteration), LEASE)

    threads = [threading.Thread(target=record, args=(claim,)) for claim in claims]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        with database() as session:
            numbers = session.scalars(select(Snapshot.seq).where(Snapshot.job_id == job_id)).all()
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
        assert len(numbers) >= seen
        seen = len(numbers)
    with database() as session:
        assert session.get_one(Job, job_id).last_seq == 40


def test_a_snapshot_told_again_for_want_of_an_answer_is_there_once(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan)
    claim = claimed(database, job_id)
    told = [replace(POINT, iteration=iteration, seconds=iteration / 3) for iteration in (1, 2, 2, 3, 3)]
    for point in told:
        with database.begin() as session:
            leases.record(session, claim, point, LEASE)
    with database() as session:
        kept = session.execute(select(Snapshot.seq, Snapshot.iteration).order_by(Snapshot.seq)).all()
        assert [tuple(row) for row in kept] == [(1, 1), (2, 2), (3, 3)]
        assert session.get_one(Job, job_id).last_seq == 3


def test_cancelling_ends_what_waits_at_once_and_what_runs_by_its_heartbeat(
    database: sessionmaker[Session], scan: Scan
) -> None:
    waiting, running = filed(database, scan), filed(database, scan, slices=3)
    claims = [claimed(database, running, slice_) for slice_ in (0, 1)]
    with database.begin() as session:
        assert lifecycle.request_cancel(session, waiting).status is Status.CANCELLED
        assert lifecycle.request_cancel(session, running).status is Status.RUNNING
    for claim, after in zip(claims, (Status.RUNNING, Status.CANCELLED), strict=True):
        with database.begin() as session:
            assert leases.heartbeat(session, claim, LEASE).cancel
            leases.stop_cancelled(session, claim)
        assert status(database, running) is after
    with database() as session:
        assert set(session.scalars(select(JobSlice.status))) == {Status.CANCELLED}
        with pytest.raises(IllegalMove):
            lifecycle.request_cancel(session, running)


def test_a_cancelled_job_ends_even_when_its_worker_is_dead(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan)
    claimed(database, job_id)
    with database.begin() as session:
        lifecycle.request_cancel(session, job_id)
    assert lapse(database) == []
    assert status(database, job_id) is Status.CANCELLED


@pytest.mark.parametrize("finish", ["slice", "job"])
def test_cancelling_wins_over_a_result_that_comes_later(
    database: sessionmaker[Session], scan: Scan, finish: str
) -> None:
    job_id = filed(database, scan, slices=2)
    one, other = claimed(database, job_id, 0), claimed(database, job_id, 1)
    with database.begin() as session:
        leases.store_slice(session, one, "0.npz", {})
        if finish == "job":
            leases.store_slice(session, other, "1.npz", {})
        lifecycle.request_cancel(session, job_id)
    with database.begin() as session:
        if finish == "job":
            leases.succeed_job(session, other, "results", {})
        else:
            leases.stop_cancelled(session, other)
    with database() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.result) == (Status.CANCELLED, None)


def test_a_slice_that_silences_three_workers_fails_its_job_which_then_can_be_retried(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, slices=2)
    for crash in (1, 2, 3):
        assert status(database, job_id) is Status.QUEUED
        claimed(database, job_id)
        assert lapse(database) == ([(job_id, 0)] if crash < 3 else [])
    with database.begin() as session:
        job = session.get_one(Job, job_id)
        assert job.status is Status.FAILED
        assert job.error is not None
        assert "3 times" in job.error["detail"]
        assert retry_job(session, job_id).status is Status.QUEUED
    claim = claimed(database, job_id)
    assert claim.attempt == 4
    with database.begin() as session:
        leases.fail_job(session, claim, BROKEN)
    assert status(database, job_id) is Status.FAILED


@pytest.mark.parametrize("end", ["queued", "running", "cancelled", "succeeded"])
def test_only_failed_jobs_are_retried(database: sessionmaker[Session], scan: Scan, end: str) -> None:
    job_id = filed(database, scan)
    with database.begin() as session:
        session.get_one(Job, job_id).status = Status(end)
    with database() as session, pytest.raises(IllegalMove, match=end):
        retry_job(session, job_id)


def test_the_scan_of_a_job_that_is_being_retried_is_not_deleted_meanwhile(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan)
    with database.begin() as session:
        leases.fail_job(session, claimed(database, job_id), BROKEN)
    held = select(Scan.id).where(Scan.id == scan.id).with_for_update(nowait=True)
    with database.begin() as session:
        retry_job(session, job_id)
        with database() as other, pytest.raises(OperationalError, match="could not obtain lock"):
            other.scalar(held)
    with database() as other:
        assert other.scalar(held) == scan.id


def test_a_deleted_job_leaves_no_row_and_fences_its_workers(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan)
    claim = claimed(database, job_id)
    with database.begin() as session:
        leases.record(session, claim, POINT, LEASE)
    with database.begin() as session:
        lifecycle.delete(session, job_id)
    with database() as session:
        assert [session.scalars(select(table)).all() for table in (Job, JobSlice, Snapshot)] == [[], [], []]
        with pytest.raises(LeaseLost):
            leases.heartbeat(session, claim, LEASE)
        with pytest.raises(UnknownJob):
            lifecycle.delete(session, job_id)


def test_the_sweep_rings_for_what_waits_as_often_as_messages_are_missing(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, slices=4)
    claim = claimed(database, job_id, 0)
    for messages, quiet, enqueued in (
        (None, 0, []),
        (3, 0, []),
        (0, 60, []),
        (1, 0, [1, 2]),
        (0, 0, [1, 2, 3]),
    ):
        with database.begin() as session:
            found = sweep.sweep(session, 3, quiet, messages=messages)
        assert found == [(job_id, slice_) for slice_ in enqueued]
    with database.begin() as session:
        leases.release(session, claim)
        assert sweep.sweep(session, 3, 60, messages=9) == [(job_id, 0)]


def waiting(database: sessionmaker[Session], job_id: uuid.UUID) -> list[int]:
    with database() as session:
        return [slice_ for _, slice_ in lifecycle.waiting(session, job_id)]


def done(database: sessionmaker[Session], claim: Claim, verdict: PriorCheck | None = VERDICT) -> list[int]:
    """Accept a slice; those that may begin by it."""
    with database.begin() as session:
        leases.store_slice(session, claim, "slice.npz", {}, None if verdict is None else verdict.as_json())
        return [slice_ for _, slice_ in leases.release_dependents(session, claim)]


def test_slices_begin_when_their_leader_is_done_and_take_over_what_it_found(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, 3, JUDGED)
    assert waiting(database, job_id) == [1]
    leader = begun(database)
    assert leader is not None
    assert (leader.slice, leader.warm_start) == (1, None)
    assert begun(database) is None
    assert done(database, leader) == waiting(database, job_id) == [0, 2]
    for number in (2, 0):
        claim = claimed(database, job_id, number)
        assert (claim.slice, claim.warm_start) == (number, WarmStart(slice=1, tv_weight=0.003))
        assert done(database, claim) == []
    assert status(database, job_id) is Status.RUNNING


def test_a_leader_that_was_not_judged_leaves_its_followers_to_themselves(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, 2, JUDGED)
    assert done(database, claimed(database, job_id, 1), verdict=None) == [0]
    assert claimed(database, job_id, 0).warm_start is None


def test_the_sweep_rings_for_followers_when_they_may_begin_and_again_when_that_is_lost(
    database: sessionmaker[Session], scan: Scan
) -> None:
    job_id = filed(database, scan, 3, JUDGED)

    def swept(enqueue_again_seconds: float) -> list[int]:
        with database.begin() as session:
            return [slice_ for _, slice_ in sweep.sweep(session, 3, enqueue_again_seconds, messages=0)]

    assert swept(0) == [1]
    leader = claimed(database, job_id, 1)
    assert swept(0) == []
    assert done(database, leader) == [0, 2]
    assert swept(60) == []
    assert swept(0) == [0, 2]


def test_a_lost_leader_is_done_again_before_its_followers(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan, 3, JUDGED)
    for crash in (1, 2, 3):
        assert claimed(database, job_id, 2).slice == 1
        assert lapse(database) == ([(job_id, 1)] if crash < 3 else [])
    with database() as session:
        assert set(session.scalars(select(JobSlice.status))) == {Status.FAILED, Status.CANCELLED}
    with database.begin() as session:
        retry_job(session, job_id)
    assert waiting(database, job_id) == [1]
    assert done(database, claimed(database, job_id, 1)) == [0, 2]


def test_cancelling_ends_followers_that_wait_for_their_leader(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan, 3, JUDGED)
    leader = claimed(database, job_id, 1)
    with database.begin() as session:
        lifecycle.request_cancel(session, job_id)
        leases.stop_cancelled(session, leader)
    assert status(database, job_id) is Status.CANCELLED


def test_a_worker_known_to_be_dead_loses_its_leases_at_once(database: sessionmaker[Session], scan: Scan) -> None:
    job_id = filed(database, scan, slices=2)
    dead, alive = claimed(database, job_id, 0, "host:1:a"), claimed(database, job_id, 1, "host:11:b")
    with database.begin() as session:
        for name in ("host:1:a", "host:11:b"):
            sweep.register(session, name, "cpu")
        sweep.deregister(session, "host:1:")
    with database.begin() as session:
        assert sweep.sweep(session, 3, 60, messages=None) == [(job_id, 0)]
        assert session.scalars(select(Worker.name)).all() == ["host:11:b"]
        leases.heartbeat(session, alive, LEASE)
        with pytest.raises(LeaseLost):
            leases.heartbeat(session, dead, LEASE)
    assert status(database, job_id) is Status.RUNNING


def test_a_dead_queue_does_not_keep_a_job_from_being_filed(desk: Desk) -> None:
    queue.make_celery(desk.settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    assert not queue.enqueue([(uuid.uuid4(), 0)])
    assert queue.waiting_messages() is None
    queue.make_celery(desk.settings)
    assert queue.enqueue([(uuid.uuid4(), 0)])
    assert queue.waiting_messages() == 1
