"""What a machine cannot hold beside what it does is begun later; a process is refused memory before it is killed."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.submit import submit_job
from udig_recon.worker.database.tables import Job, JobSlice, Scan
from udig_recon.worker.jobs import leases, sweep
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime import memory
from udig_recon.worker.runtime import memory_fit as fitting

GIB = 1 << 30
LEASE = 60


@pytest.fixture
def scan(database: sessionmaker[Session]) -> Scan:
    with database.begin() as session:
        found = Scan(sha256="0" * 64, filename="a.h5", size_bytes=1, header={"modality": "mri"})
        session.add(found)
    return found


def filed(database: sessionmaker[Session], scan: Scan, memory_bytes: int | None, slices: int = 1) -> uuid.UUID:
    with database.begin() as session:
        job, _ = submit_job(session, scan, slices=list(range(slices)))
        job.memory_bytes = memory_bytes
    return job.id


def begun(database: sessionmaker[Session], worker: str, total: int) -> Claim | None:
    with database.begin() as session:
        return leases.claim(session, worker, LEASE, (), fitting.room(session, worker, total))


def test_a_slice_that_does_not_fit_beside_the_others_waits_and_smaller_ones_go_on(
    database: sessionmaker[Session], scan: Scan
) -> None:
    first, large, small = (filed(database, scan, size * GIB) for size in (3, 3, 1))
    running = begun(database, "host:1:a", 4 * GIB)
    assert running is not None
    assert running.job_id == first
    beside = begun(database, "host:2:b", 4 * GIB)
    assert beside is not None
    assert beside.job_id == small
    assert begun(database, "host:3:c", 4 * GIB) is None
    elsewhere = begun(database, "other:1:d", 4 * GIB)
    assert elsewhere is not None
    assert elsewhere.job_id == large


def test_a_slice_larger_than_the_machine_is_tried_when_it_has_all_of_it(
    database: sessionmaker[Session], scan: Scan
) -> None:
    other = filed(database, scan, GIB)
    running = begun(database, "host:1:a", 4 * GIB)
    assert running is not None
    assert running.job_id == other
    huge = filed(database, scan, 64 * GIB)
    assert begun(database, "host:2:b", 4 * GIB) is None
    with database.begin() as session:
        leases.store_slice(session, running, "a.npz", {})
        leases.succeed_job(session, running, "results", {})
    tried = begun(database, "host:2:b", 4 * GIB)
    assert tried is not None
    assert tried.job_id == huge


def test_a_large_slice_that_was_passed_by_for_long_is_next(database: sessionmaker[Session], scan: Scan) -> None:
    filed(database, scan, GIB, slices=1)
    assert begun(database, "host:1:a", 4 * GIB) is not None
    large, _ = filed(database, scan, 4 * GIB), filed(database, scan, GIB, slices=5)
    assert begun(database, "host:2:b", 4 * GIB) is not None
    with database.begin() as session:
        session.execute(
            update(JobSlice).where(JobSlice.job_id == large).values(queued_at=func.now() - 2 * fitting.PASSED_BY)
        )
    assert begun(database, "host:3:c", 4 * GIB) is None
    with database.begin() as session:
        session.execute(update(JobSlice).where(JobSlice.status == "running").values(status="succeeded"))
        session.execute(update(Job).where(Job.id != large).values(status="queued"))
    found = begun(database, "host:3:c", 4 * GIB)
    assert found is not None
    assert found.job_id == large


def test_workers_on_one_gpu_share_its_memory_and_the_first_begins_whatever_others_hold(
    database: sessionmaker[Session], scan: Scan
) -> None:
    first, large, small = (filed(database, scan, size * GIB) for size in (3, 3, 1))
    with database.begin() as session:
        for number in (1, 2, 3):
            sweep.register(session, f"host:{number}:a", "gpu", gpu="GPU-1")
        sweep.register(session, "host:4:a", "gpu", gpu="GPU-2")

    def claimed(number: int, gpu: str, free: int) -> uuid.UUID | None:
        with database.begin() as session:
            room = fitting.gpu_room(session, f"host:{number}:a", gpu, 8 * GIB, free * GIB)
            found = leases.claim(session, f"host:{number}:a", LEASE, (), room)
        return None if found is None else found.job_id

    assert claimed(1, "GPU-1", 0) == first
    assert claimed(2, "GPU-1", 2) == small  # the driver knows what the estimate does not
    assert claimed(3, "GPU-1", 2) is None
    assert claimed(4, "GPU-2", 0) == large


def test_jobs_of_versions_without_estimates_begin_wherever_they_are(
    database: sessionmaker[Session], scan: Scan
) -> None:
    unknown = filed(database, scan, None)
    found = begun(database, "host:1:a", 1)
    assert found is not None
    assert found.job_id == unknown


def test_a_container_has_what_it_is_given(tmp_path: Path) -> None:
    physical = memory.total_bytes(())
    for text, expected in (("max\n", physical), (f"{GIB}\n", min(GIB, physical)), ("", physical)):
        (tmp_path / "limit").write_text(text)
        assert memory.total_bytes((tmp_path / "limit", tmp_path / "missing")) == expected
    assert 0 < memory.for_workers() < memory.total_bytes()


def test_a_process_is_refused_memory_beyond_its_limit_and_goes_before_a_database() -> None:
    script = (
        "from udig_recon.worker.runtime import memory\n"
        "memory.limit(1 << 30); memory.go_before_others(memory.WORKER_SCORE)\n"
        "print(open('/proc/self/oom_score_adj').read().strip())\n"
        "try: bytearray(2 << 30)\n"
        "except MemoryError: print('refused')\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    if sys.platform == "linux":
        assert said.split() == [str(memory.WORKER_SCORE), "refused"]
