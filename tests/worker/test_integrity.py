"""No job succeeds on damaged bytes: slices are computed anew, scans are healed by posting them again."""

import h5py
import numpy as np
import pytest

from tests.support.bit_flips import flip
from tests.support.worker_processes import SHORT, Desk
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Scan, Status
from udig_recon.worker.jobs.recompute import MOST_RECOMPUTED
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage
from udig_recon.worker.storage.scans import Brought, keep


def test_a_rotten_or_missing_slice_is_computed_anew_before_the_job_succeeds(desk: Desk, process: WorkerProcess) -> None:
    job_id = desk.submit(desk.scan(slices=3), SHORT, slices=[0, 1, 2])
    for slice_ in (0, 1):
        run_next_slice(process, job_id, slice_)
    first, second = (desk.storage.path(str(desk.job_slice(job_id, slice_).result)) for slice_ in (0, 1))
    flip(first)
    second.unlink()
    run_next_slice(process, job_id, 2)
    assert desk.job(job_id).status is Status.QUEUED
    assert [job_slice.status for job_slice in desk.job_slices(job_id)] == [
        Status.QUEUED,
        Status.QUEUED,
        Status.SUCCEEDED,
    ]
    for slice_ in (0, 1):
        run_next_slice(process, job_id, slice_)
    job = desk.job(job_id)
    assert (job.status, job.error, job.damaged) == (Status.SUCCEEDED, None, None)
    assert [job_slice.attempt for job_slice in desk.job_slices(job_id)] == [2, 2, 1]
    with h5py.File(desk.storage.path(str(job.result)) / "reconstruction.h5") as file:
        found = np.asarray(file["reconstruction"])
    sha256 = desk.scan_sha256(job_id)
    np.testing.assert_array_equal(found, np.stack([desk.unbroken(sha256, SHORT, slice_) for slice_ in range(3)]))
    assert [*desk.storage.list(keys.slices(job_id)), *desk.storage.list(keys.previews(job_id))] == []


def test_a_slice_that_is_damaged_again_and_again_fails_its_job(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    put = LocalStorage.put

    def rotting(storage: LocalStorage, key: str, content: bytes | memoryview) -> None:
        put(storage, key, content)
        if key.startswith(keys.slices(job_id)):
            flip(storage.path(key))

    monkeypatch.setattr(LocalStorage, "put", rotting)
    for attempt in range(1, MOST_RECOMPUTED + 2):
        assert not desk.job(job_id).status.ended, attempt
        run_next_slice(process, job_id, 0)
    job = desk.job(job_id)
    assert job.error is not None
    assert (job.status, job.error["type"]) == (Status.FAILED, "urn:udig-recon:problem:damaged")
    assert "slice 0 was damaged" in job.error["detail"]
    monkeypatch.setattr(LocalStorage, "put", put)
    desk.retry(job_id)
    for _ in range(2):
        run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize("at", [0.0, 0.4, 1.0])
def test_no_job_succeeds_on_a_damaged_scan_until_its_bytes_are_posted_again(
    desk: Desk, process: WorkerProcess, at: float
) -> None:
    scan_id = desk.scan()
    sha256 = desk.scan_sha256(job_id := desk.submit(scan_id, SHORT))
    stored = desk.storage.path(keys.scan(sha256))
    whole = stored.read_bytes()
    flip(stored, at)
    run_next_slice(process, job_id, 0)
    job = desk.job(job_id)
    assert job.error is not None
    assert (job.status, job.error["type"]) == (Status.FAILED, "urn:udig-recon:problem:damaged")
    assert "post the scan again" in job.error["detail"]
    with desk.database() as session:
        scan = session.get_one(Scan, scan_id)
        assert scan.damaged_at is not None
        assert counters.totals(session)["damage"] == {"scan": 1.0}
    (again := (desk.storage.root / "incoming") / "again").write_bytes(whole)
    with desk.database.begin() as session:
        brought = Brought(again, sha256, len(whole), "again.h5", scan.header)
        healed, created = keep(session, desk.storage, "default", brought, key=None, retention_days=None)
        assert (healed.damaged_at, created) == (None, False)
    assert stored.read_bytes() == whole
    desk.retry(job_id)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


def test_results_leave_the_reserve_of_the_disk_alone(desk: Desk, process: WorkerProcess) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    process.storage.reserve_bytes = desk.storage.free_bytes() + (1 << 40)
    run_next_slice(process, job_id, 0)
    job = desk.job(job_id)
    assert job.error is not None
    assert job.error["type"] == "urn:udig-recon:problem:disk-full"
    process.storage.reserve_bytes = 0
    desk.retry(job_id)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED
