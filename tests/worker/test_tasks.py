"""What becomes of a slice that cannot be computed: tried again, failed with the reason, or given back; never a loop."""

import errno
import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import h5py
import pytest
import torch
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from tests.support.worker_processes import GUIDED, SHORT, Desk
from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.reconstruct import Finished
from udig_recon.worker.database.tables import Job, JobSlice, Scan, Status
from udig_recon.worker.runtime import checkpoints, tasks
from udig_recon.worker.runtime.assemble import merge_versions
from udig_recon.worker.runtime.heartbeat import LeaseKeeper
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.slice_run import SliceRun, pause_after
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.runtime.watchdog import PACES, Watchdog
from udig_recon.worker.storage import keys

Spoil = Callable[..., list[int]]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Have computing a slice raise that error so often; the list counts the calls."""
    compute = SliceRun.compute

    def install(error: Exception, times: int) -> list[int]:
        calls: list[int] = []

        def spoilt(run: SliceRun) -> Finished:
            calls.append(1)
            if len(calls) <= times:
                raise error
            return compute(run)

        monkeypatch.setattr(SliceRun, "compute", spoilt)
        return calls

    return install


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "python"])
def test_out_of_memory_is_tried_again_once(desk: Desk, process: WorkerProcess, spoil: Spoil, error: Exception) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    calls = spoil(error, times=1)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED
    assert len(calls) == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "python"])
def test_out_of_memory_twice_fails_with_what_was_wanted(
    desk: Desk, process: WorkerProcess, spoil: Spoil, error: Exception
) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    calls = spoil(error, times=9)
    run_next_slice(process, job_id, 0)
    problem = failed(desk, job_id)
    assert problem["type"] == "urn:udig-recon:problem:out-of-memory"
    assert str(error) in problem["detail"]
    assert len(calls) == 2


def test_what_the_engine_refuses_fails_with_the_field(desk: Desk, process: WorkerProcess, spoil: Spoil) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    spoil(UnsupportedScan("too small", field="kspace", found="4 lines", expected="16"), times=9)
    run_next_slice(process, job_id, 0)
    problem = failed(desk, job_id)
    assert problem["errors"] == [{"field": "kspace", "found": "4 lines", "expected": "16"}]


def test_a_volume_names_every_version_that_made_a_slice_of_it(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(desk.scan(slices=3), SHORT, slices=[0, 1, 2])
    known = process.versions(SHORT, Modality.CT, "default")
    for slice_, software in enumerate(("1.0", "2.0", "2.0")):
        monkeypatch.setattr(WorkerProcess, "versions", lambda *_, made=software: known | {"software": made})
        run_next_slice(process, job_id, slice_)
    job = desk.job(job_id)
    assert job.versions == known | {"software": "1.0, 2.0"}
    with h5py.File(desk.storage.path(str(job.result)) / "reconstruction.h5") as file:
        assert file.attrs["software"] == "1.0, 2.0"


def test_slices_of_a_version_that_did_not_note_itself_are_named_so() -> None:
    assert merge_versions([{}, {"software": "2.0", "torch": "3"}]) == {"software": "unknown, 2.0", "torch": "3"}


@pytest.mark.parametrize(("spent", "pause"), [(0.0, 10.0), (0.05, 10.0), (1.0, 100.0), (30.0, 3000.0)])
def test_looks_and_checkpoints_take_a_hundredth_of_the_time_at_most(spent: float, pause: float) -> None:
    assert pause_after(spent, period=10.0) == pytest.approx(pause)


def test_dear_checkpoints_become_rare(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept: dict[float, int] = {}
    scan_id = desk.scan()
    often = replace(process, settings=process.settings.model_copy(update={"checkpoint_seconds": 0.0}))
    for seconds in (0.0, 60.0):
        monkeypatch.setattr(checkpoints.Checkpoints, "seconds", property(lambda _, told=seconds: told))
        job_id = desk.submit(scan_id, GUIDED)
        caplog.clear()
        run_next_slice(often, job_id, 0)
        assert desk.job(job_id).status is Status.SUCCEEDED
        kept[seconds] = caplog.messages.count("checkpoint.saved")
    assert kept[0.0] > kept[60.0] == 0


def write(desk: Desk, job_id: uuid.UUID, parameters: dict[str, Any]) -> dict[str, Any]:
    """Put parameters into a job's row; those that were there."""
    with desk.database.begin() as session:
        job = session.get_one(Job, job_id)
        before, job.parameters = job.parameters, parameters
    return before


@pytest.mark.parametrize("newer", [{"knob": 1}, {"method": "new"}, {"start": "new"}])
def test_what_only_a_newer_version_knows_is_left_to_its_workers(
    desk: Desk, process: WorkerProcess, newer: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    scan_id = desk.scan()
    job_id, other = desk.submit(scan_id, SHORT), desk.submit(scan_id, SHORT)
    known = write(desk, job_id, {**desk.job(job_id).parameters, **newer})
    run_next_slice(process, job_id, 0)
    job_slice = desk.job_slice(job_id)
    assert (job_slice.status, job_slice.worker, job_slice.attempt) == (Status.QUEUED, None, 1)
    assert [record.levelname for record in caplog.records if record.message == "job.unsupported"] == ["WARNING"]
    run_next_slice(process, job_id, 0)
    run_next_slice(process, job_id, 0)
    assert desk.job(other).status is Status.SUCCEEDED
    assert desk.job_slice(job_id).attempt == 1
    write(desk, job_id, known)
    run_next_slice(replace(process, name="host:2:b", skipped_until={}), job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("newer", "named", "hours"),
    [({"iterations": -1}, "iterations", 0), ({"knob": 1}, "knob", 1), ({"method": "new"}, "method", 1)],
)
def test_what_no_version_takes_fails_as_an_input_that_is_wrong(
    desk: Desk, process: WorkerProcess, newer: dict[str, Any], named: str, hours: int
) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    write(desk, job_id, {**desk.job(job_id).parameters, **newer})
    with desk.database.begin() as session:
        session.execute(update(JobSlice).values(queued_at=JobSlice.queued_at - timedelta(hours=hours)))
    run_next_slice(process, job_id, 0)
    problem = failed(desk, job_id)
    assert problem["type"] == "urn:udig-recon:problem:invalid"
    assert problem["detail"].startswith("this worker's version does not take the parameters: ")
    assert named in problem["detail"]


def test_a_full_disk_fails_with_that_and_the_retry_succeeds(desk: Desk, process: WorkerProcess, spoil: Spoil) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    spoil(OSError(errno.ENOSPC, "No space left on device"), times=1)
    run_next_slice(process, job_id, 0)
    assert failed(desk, job_id)["type"] == "urn:udig-recon:problem:disk-full"
    desk.retry(job_id)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize("slices", [[0], [0, 1]], ids=["last", "not last"])
@pytest.mark.parametrize("unheard", ["first slice", "job"])
def test_a_commit_whose_answer_was_lost_is_no_lost_lease(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, slices: list[int], unheard: str
) -> None:
    """Each slice is one commit, and the job after the last of them another: one of them is made twice."""
    commit, results = LeaseKeeper.commit, []
    repeated = 1 if unheard == "first slice" else len(slices) + 1

    def commit_again(lease: LeaseKeeper, change: Callable[[Session], Any]) -> Any:
        results.append(commit(lease, change))
        return commit(lease, change) if len(results) == repeated else results[-1]

    monkeypatch.setattr(LeaseKeeper, "commit", commit_again)
    job_id = desk.submit(desk.scan(slices=len(slices)), SHORT, slices=slices)
    for slice_ in slices:
        run_next_slice(process, job_id, slice_)
    job = desk.job(job_id)
    assert (len(results), job.status) == (len(slices) + 1, Status.SUCCEEDED)
    assert (desk.storage.path(str(job.result)) / "reconstruction.h5").is_file()
    assert not desk.has_checkpoint(job_id)


def test_a_checkpoint_that_finds_the_disk_full_is_left_out(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = process.storage.put

    def full(key: str, content: bytes | memoryview) -> None:
        if key.endswith(".pt"):
            raise OSError(errno.ENOSPC, "No space left on device", key)
        put(key, content)

    monkeypatch.setattr(process.storage, "put", full)
    job_id = desk.submit(desk.scan(), GUIDED)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


def test_a_disk_full_before_the_first_step_fails_with_that(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    job_id = desk.submit(desk.scan(), SHORT)
    monkeypatch.setattr(process.storage, "create_group", full)
    run_next_slice(process, job_id, 0)
    assert failed(desk, job_id)["type"] == "urn:udig-recon:problem:disk-full"


def test_an_unforeseen_error_fails_the_job_and_is_logged_once(
    desk: Desk, process: WorkerProcess, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = desk.submit(desk.scan(slices=2), SHORT, slices=[0, 1])
    spoil(ZeroDivisionError("Doe^Jane"), times=1)
    run_next_slice(process, job_id, 0)
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert logged.message == "slice.failed"
    assert "Doe" not in str(failed(desk, job_id))
    assert [job_slice.status for job_slice in desk.job_slices(job_id)] == [Status.FAILED, Status.CANCELLED]
    run_next_slice(process, job_id, 1)
    assert desk.job_slice(job_id, 1).attempt == 0


def test_a_scan_whose_file_is_not_here_is_left_to_who_sees_it_and_fails_the_job_only_in_the_end(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, other = desk.submit(desk.scan(), SHORT), desk.submit(desk.scan(size=34), SHORT)
    with desk.database() as session:
        sha256 = session.scalars(select(Scan.sha256).join(Job).where(Job.id == job_id)).one()
    stored = desk.storage.path(keys.scan(sha256))
    stored.rename(away := stored.with_suffix(".away"))
    run_next_slice(process, job_id, 0)
    job_slice = desk.job_slice(job_id)
    assert (job_slice.status, job_slice.crashes, job_slice.worker) == (Status.QUEUED, 0, None)
    assert not desk.storage.path(keys.checkpoints(job_id)).exists()
    run_next_slice(process, job_id, 0)
    run_next_slice(process, job_id, 0)  # not again and again
    assert desk.job(other).status is Status.SUCCEEDED
    assert desk.job_slice(job_id).attempt == 1
    monkeypatch.setattr(tasks, "MISSING_SECONDS", 0.0)
    process.skipped_until.clear()
    run_next_slice(process, job_id, 0)
    assert failed(desk, job_id)["type"] == "urn:udig-recon:problem:scan-missing"
    away.rename(stored)
    desk.retry(job_id)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


def test_the_watchdog_ends_what_gets_on_no_more_and_what_is_its_own_no_more(desk: Desk, process: WorkerProcess) -> None:
    claim = desk.claimed(desk.submit(desk.scan(), SHORT))
    patient = replace(process, settings=process.settings.model_copy(update={"stall_seconds": 5.0}))
    lease, ended = (
        LeaseKeeper(process.sessions, claim, process.settings, desk.storage),
        list[int](),
    )

    def looks(number: int, *, alive: bool) -> bool:
        """Whether the worker is ended within so many looks."""
        ended.clear()
        dog = Watchdog(patient, ended.append)
        dog.look()
        for _ in range(number):
            if alive:
                lease.mark_active()
            dog.look()
        return bool(ended)

    assert not looks(100, alive=False)  # it computes nothing
    with patient.holding(lease):
        assert not looks(100, alive=True)
        assert not looks(4, alive=False)
        assert looks(5, alive=False)
        lease.waiting_for_database = True  # the database is away
        assert not looks(100, alive=False)
        lease.waiting_for_database = False
        lease.mark_lost()
        assert not looks(9, alive=True)
        assert looks(10, alive=True)


def test_a_computation_with_long_steps_may_be_silent_for_many_of_them(desk: Desk, process: WorkerProcess) -> None:
    claim = desk.claimed(desk.submit(desk.scan(), SHORT))
    patient = replace(process, settings=process.settings.model_copy(update={"stall_seconds": 5.0}))
    lease, ended = (
        LeaseKeeper(process.sessions, claim, process.settings, desk.storage),
        list[int](),
    )
    dog = Watchdog(patient, ended.append)
    with patient.holding(lease):
        dog.look()
        for silence in (4, PACES * 4 - 1):
            for _ in range(silence):
                dog.look()
            assert not ended
            lease.mark_active()
            dog.look()


def failed(desk: Desk, job_id: uuid.UUID) -> dict[str, Any]:
    job = desk.job(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None
    return job.error
