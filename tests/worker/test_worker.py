"""Real worker processes on real servers: killed, stopped, told twice, cut off; each job ends right, once."""

import json
import signal
import time
import uuid

import h5py
import numpy as np
import pytest
import redis
from sqlalchemy import func, select, text

from tests.support.submit import retry_job
from tests.support.worker_processes import GUIDED, JUDGED, LED, LONG, PATIENCE_SECONDS, SHORT, Desk, until, working
from udig_recon.core.parameters import DAPS
from udig_recon.worker.database.tables import Priority, Scan, Snapshot, Status, Worker
from udig_recon.worker.jobs import lifecycle
from udig_recon.worker.runtime.watchdog import STATUS
from udig_recon.worker.storage import keys


def reconstruction(desk: Desk, job_id: uuid.UUID) -> np.ndarray:
    folder = desk.job(job_id).result
    assert folder is not None
    with h5py.File(desk.storage.path(folder) / "reconstruction.h5") as file:
        return np.asarray(file["reconstruction"])


def sha256_of_scan(desk: Desk, job_id: uuid.UUID) -> str:
    return desk.scan_sha256(job_id)


def assert_unbroken(desk: Desk, job_id: uuid.UUID, method: object, slices: int = 1) -> None:
    """The accepted result is bit by bit that of runs that nothing disturbed."""
    sha256 = sha256_of_scan(desk, job_id)
    expected = np.stack([desk.unbroken(sha256, method, slice_) for slice_ in range(slices)])
    np.testing.assert_array_equal(reconstruction(desk, job_id), expected)


def alive(desk: Desk) -> int:
    with desk.database() as session:
        return session.scalar(select(func.count()).select_from(Worker)) or 0


def snapshots(desk: Desk, job_id: uuid.UUID) -> list[Snapshot]:
    with desk.database() as session:
        return list(session.scalars(select(Snapshot).where(Snapshot.job_id == job_id).order_by(Snapshot.seq)))


def test_a_volume_comes_back_in_order_and_duplicate_messages_have_one_effect(desk: Desk) -> None:
    volume = desk.submit(desk.scan(slices=4), SHORT, slices=[0, 1, 2, 3], messages=5, outputs=["h5", "png"])
    with working(desk.settings, 2):
        job = desk.ended(volume)
    assert (job.status, job.error) == (Status.SUCCEEDED, None)
    job_slices = desk.job_slices(volume)
    assert [(job_slice.status, job_slice.attempt) for job_slice in job_slices] == [(Status.SUCCEEDED, 1)] * 4
    assert_unbroken(desk, volume, SHORT, slices=4)
    seen = snapshots(desk, volume)
    assert [snapshot.seq for snapshot in seen] == list(range(1, len(seen) + 1))
    assert {snapshot.slice for snapshot in seen if snapshot.iteration == SHORT.iterations} == {0, 1, 2, 3}
    assert job.metrics is not None
    assert job.metrics["psnr"] == pytest.approx(
        np.mean([job_slice.metrics["psnr"] for job_slice in job_slices if job_slice.metrics])
    )
    folder = desk.storage.path(str(job.result))
    assert {path.name for path in folder.iterdir()} == {"reconstruction.h5", "reconstruction.png"}
    with h5py.File(folder / "reconstruction.h5") as file:
        assert json.loads(file.attrs["parameters"]) == job.parameters
        assert file.attrs["scan_sha256"] == sha256_of_scan(desk, volume)
        assert job.versions is not None
        assert {name: file.attrs[name] for name in job.versions} == job.versions
    assert not desk.has_checkpoint(volume)


def test_two_workers_have_slices_of_one_volume_at_once_and_are_named_by_them(desk: Desk) -> None:
    with working(desk.settings, 2):
        until(lambda: alive(desk) == 2)
        volume = desk.submit(desk.scan(slices=2), LONG, slices=[0, 1])
        until(lambda: [job_slice.status for job_slice in desk.job_slices(volume)] == [Status.RUNNING] * 2)
        assert len({job_slice.worker for job_slice in desk.job_slices(volume)}) == 2
        assert desk.ended(volume).status == Status.SUCCEEDED
    assert len({job_slice.worker for job_slice in desk.job_slices(volume)} - {None}) == 2


def test_a_killed_workers_slice_goes_on_from_its_checkpoint_and_ends_as_if_unbroken(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), GUIDED)
    with working(desk.settings) as (first,):
        until(lambda: desk.has_checkpoint(job_id) and desk.job_slice(job_id).iteration > 0)
        first.end(signal.SIGKILL)
        reached = desk.job_slice(job_id).iteration
        assert desk.job(job_id).status is Status.RUNNING
        with working(desk.settings) as (second,):
            assert desk.ended(job_id).status is Status.SUCCEEDED
            assert second.said("slice.resumed")
    assert 0 < reached < GUIDED.outer_iterations
    job_slice = desk.job_slice(job_id)
    assert (job_slice.attempt, job_slice.crashes) == (2, 1)
    assert_unbroken(desk, job_id, GUIDED)


def test_the_verdict_of_a_killed_workers_slice_is_that_of_an_unbroken_run(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), JUDGED)
    with working(desk.settings) as (first,):
        until(lambda: desk.has_checkpoint(job_id) and desk.job_slice(job_id).iteration > 0)
        first.end(signal.SIGKILL)
        assert desk.job_slice(job_id).prior_check is None
        with working(desk.settings) as (second,):
            assert desk.ended(job_id).status is Status.SUCCEEDED
            assert second.said("slice.resumed")
    expected = desk.verdict(sha256_of_scan(desk, job_id), JUDGED)
    assert desk.job_slice(job_id).prior_check == expected
    folder = desk.storage.path(str(desk.job(job_id).result))
    with h5py.File(folder / "reconstruction.h5") as file:
        (written,) = json.loads(file.attrs["slices"])
    reference = {"reference_slice": expected.pop("reference_slice")}
    assert written == {"slice": 0, "quality": desk.job_slice(job_id).quality, "prior_check": expected, **reference}
    assert_unbroken(desk, job_id, JUDGED)


def test_a_killed_followers_slice_goes_on_with_what_its_leader_found(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(slices=2), LED, slices=[0, 1], messages=2)
    with working(desk.settings) as (first,):
        folder = desk.storage.path(keys.checkpoints(job_id))
        until(lambda: any(folder.glob("0.*.pt")) and desk.job_slice(job_id, 0).iteration > 0)
        first.end(signal.SIGKILL)
        assert (desk.job_slice(job_id, 0).attempt, desk.job_slice(job_id, 1).status) == (1, Status.SUCCEEDED)
        with working(desk.settings, 2) as workers:
            assert desk.ended(job_id).status is Status.SUCCEEDED
            assert any(worker.said("slice.resumed") for worker in workers)
    expected = desk.undisturbed_pair(sha256_of_scan(desk, job_id), LED)
    images = reconstruction(desk, job_id)
    for job_slice, found, (image, verdict) in zip(desk.job_slices(job_id), images, expected, strict=True):
        assert job_slice.prior_check == verdict
        assert np.array_equal(found, image)


def test_a_worker_that_slept_beyond_its_lease_is_fenced_off(desk: Desk) -> None:
    job_id = desk.submit(desk.scan())
    with working(desk.settings) as (sleeper,):
        until(lambda: desk.has_checkpoint(job_id))
        sleeper.send(signal.SIGSTOP)
        with working(desk.settings):
            until(lambda: desk.job_slice(job_id).attempt == 2)
            count = len(snapshots(desk, job_id))
            sleeper.send(signal.SIGCONT)
            until(lambda: sleeper.said("slice.lease_lost"))
            assert desk.ended(job_id).status is Status.SUCCEEDED
        assert len(snapshots(desk, job_id)) > count
    assert_unbroken(desk, job_id, LONG)
    assert list((desk.storage.path(keys.job(job_id)) / "slices").iterdir()) == []
    assert [path.name for path in (desk.storage.path(keys.job(job_id)) / "results").iterdir()] == ["2"]


def test_jobs_outlive_a_wiped_redis_and_dropped_connections(desk: Desk) -> None:
    lost = desk.submit(desk.scan(), messages=3)
    wipe(desk)
    with working(desk.settings) as (worker,):
        until(lambda: desk.job(lost).status is Status.RUNNING)
        wipe(desk)
        for _ in range(3):
            time.sleep(0.3)
            with desk.database.begin() as session:
                others = text("datname = current_database() AND pid <> pg_backend_pid()")
                session.execute(
                    select(func.pg_terminate_backend(text("pid"))).select_from(text("pg_stat_activity")).where(others)
                )
        assert desk.ended(lost).status is Status.SUCCEEDED
        assert worker.process.poll() is None
    assert desk.job_slice(lost).attempt == 1
    assert_unbroken(desk, lost, LONG)


def wipe(desk: Desk) -> None:
    with redis.Redis.from_url(str(desk.settings.redis_url)) as client:
        for key in client.scan_iter(f"{desk.settings.redis_prefix}*"):
            client.delete(key)


def test_cancel_delete_and_a_broken_scan_stop_a_slice_but_not_the_worker(desk: Desk) -> None:
    scan_id = desk.scan(slices=2)
    with working(desk.settings) as (worker,):
        cancelled = desk.submit(scan_id, slices=[0, 1])
        until(lambda: desk.job_slice(cancelled).iteration > 0)
        with desk.database.begin() as session:
            assert lifecycle.request_cancel(session, cancelled).status is Status.RUNNING
        until(lambda: desk.job(cancelled).status.ended, seconds=5)
        assert [job_slice.status for job_slice in desk.job_slices(cancelled)] == [Status.CANCELLED] * 2

        deleted = desk.submit(scan_id)
        until(lambda: desk.job_slice(deleted).iteration > 0)
        with desk.database.begin() as session:
            lifecycle.delete(session, deleted)
        desk.storage.delete_prefix(keys.job(deleted))
        until(lambda: worker.said("slice.lease_lost"))

        with desk.database() as session:
            sha256 = session.get_one(Scan, scan_id).sha256
        stored, prepared = desk.storage.path(keys.scan(sha256)), desk.storage.path(keys.prepared_scan(sha256))
        whole = stored.read_bytes()
        for path in (stored, prepared):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused = desk.submit(scan_id, SHORT)
        assert desk.ended(refused).status is Status.FAILED
        stored.write_bytes(whole)
        with desk.database.begin() as session:
            session.get_one(Scan, scan_id).damaged_at = None
        last = desk.submit(scan_id, SHORT)
        assert desk.ended(last).status is Status.SUCCEEDED
    assert desk.job(cancelled).status is Status.CANCELLED
    assert not desk.storage.path(keys.job(deleted)).exists()
    problem = desk.job(refused).error
    assert problem is not None
    assert (problem["status"], problem["type"]) == (500, "urn:udig-recon:problem:damaged")
    assert "Doe" not in "".join(worker.lines)


def test_a_worker_told_to_end_keeps_a_checkpoint_and_gives_its_slice_back(desk: Desk) -> None:
    job_id = desk.submit(desk.scan())
    with working(desk.settings) as (first,):
        until(lambda: desk.job_slice(job_id).iteration > 0)
        began = time.monotonic()
        assert first.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10
    job_slice = desk.job_slice(job_id)
    assert (desk.job(job_id).status, job_slice.status, job_slice.crashes) == (Status.QUEUED, Status.QUEUED, 0)
    assert desk.has_checkpoint(job_id)
    with desk.database() as session:
        assert session.scalars(select(Worker)).all() == []
    with working(desk.settings) as (second,):
        assert desk.ended(job_id).status is Status.SUCCEEDED
        assert second.said("slice.resumed")
    assert_unbroken(desk, job_id, LONG)


def test_a_slice_that_kills_its_workers_fails_its_job_which_can_be_retried(desk: Desk) -> None:
    intolerant = desk.settings.model_copy(update={"max_crashes": 1, "lease_seconds": 1.0})
    job_id = desk.submit(desk.scan())
    with working(intolerant) as (worker,):
        until(lambda: desk.has_checkpoint(job_id))
        worker.end(signal.SIGKILL)
    with working(intolerant) as (worker,):
        job = desk.ended(job_id)
        assert job.error is not None
        assert (job.status, job.error["type"]) == (Status.FAILED, "urn:udig-recon:problem:worker-lost")
        assert worker.said("job.failed")
        with desk.database.begin() as session:
            retry_job(session, job_id)
        assert desk.ended(job_id).status is Status.SUCCEEDED
        assert worker.said("slice.resumed")
    assert_unbroken(desk, job_id, LONG)


HANGING = """
import time
from udig_recon.worker.runtime.main import work
from udig_recon.worker.runtime.slice_run import SliceRun

def hang(*_):
    time.sleep(1000)

SliceRun._problem = hang
raise SystemExit(work())
"""
LASTING = DAPS(langevin_steps=10_000, samples=64, prior_calls=100)


def test_a_slice_gives_way_to_an_urgent_job_and_ends_as_if_unbroken(desk: Desk) -> None:
    routine = desk.submit(desk.scan())
    with working(desk.settings) as (worker,):
        until(lambda: desk.job_slice(routine).iteration > 0)
        urgent = desk.submit(desk.scan(size=34), SHORT, priority=Priority.URGENT)
        assert desk.ended(urgent).status is Status.SUCCEEDED
        assert not desk.job(routine).status.ended
        assert desk.ended(routine).status is Status.SUCCEEDED
        assert worker.said("slice.preempted")
        assert worker.said("slice.resumed")
    job_slice = desk.job_slice(routine)
    assert (job_slice.attempt, job_slice.crashes, job_slice.yielded) == (2, 0, True)
    assert_unbroken(desk, routine, LONG)


def test_a_cancelled_job_is_left_within_one_of_its_steps(desk: Desk) -> None:
    lasting = desk.submit(desk.scan(size=64), LASTING)
    with working(desk.settings) as (worker,):
        until(lambda: desk.job(lasting).status is Status.RUNNING)
        time.sleep(2)
        with desk.database.begin() as session:
            lifecycle.request_cancel(session, lasting)
        until(lambda: worker.said("slice.cancelled"), seconds=10)
        quick = desk.submit(desk.scan(), SHORT)
        assert desk.ended(quick).status is Status.SUCCEEDED
        assert worker.process.poll() is None


def test_a_job_whose_time_is_up_keeps_its_checkpoint_and_goes_on_with_more(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), max_seconds=1.0)
    with working(desk.settings) as (worker,):
        job = desk.ended(job_id)
        assert job.error is not None
        assert (job.status, job.error["type"]) == (Status.FAILED, "urn:udig-recon:problem:time-limit")
        assert desk.has_checkpoint(job_id)
        with desk.database.begin() as session:
            retry_job(session, job_id, max_seconds=1000.0)
        assert desk.ended(job_id).status is Status.SUCCEEDED
        assert worker.said("slice.resumed")
    assert_unbroken(desk, job_id, LONG)


def test_a_worker_that_hangs_ends_itself_and_its_slice_counts_a_crash(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    hasty = desk.settings.model_copy(update={"stall_seconds": 2.0, "lease_seconds": 600.0})
    with working(hasty, spoilt_by=HANGING) as (hung,):
        assert hung.process.wait(PATIENCE_SECONDS) == STATUS
    with working(desk.settings) as (worker,):
        assert desk.ended(job_id).status is Status.SUCCEEDED
        assert worker.process.poll() is None
    job_slice = desk.job_slice(job_id)
    assert (job_slice.attempt, job_slice.crashes) == (2, 1)
