"""Workers read prepared scans: made before first use, mended from bytes that are right, else the job fails."""

import uuid
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from tests.support.worker_processes import SHORT, Desk
from udig_recon.core import formats
from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.formats import prepared as layout
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Scan, Status
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime.prepared_scans import read_slice
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.integrity import DAMAGE


@pytest.fixture
def claim(desk: Desk) -> Claim:
    return desk.claimed(desk.submit(desk.scan(slices=2), SHORT))


def original(desk: Desk, claim: Claim) -> Path:
    return desk.storage.path(keys.scan(claim.scan_sha256))


def prepared(desk: Desk, claim: Claim) -> Path:
    return desk.storage.path(keys.prepared_scan(claim.scan_sha256))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def damages(desk: Desk) -> dict[str, float]:
    with desk.database() as session:
        return counters.totals(session).get(DAMAGE, {})


def right(desk: Desk, claim: Claim, process: WorkerProcess) -> bool:
    found, expected = read_slice(process, claim), formats.read(original(desk, claim), [claim.slice])
    assert isinstance(found, CTAcquisition)
    assert isinstance(expected, CTAcquisition)
    return np.array_equal(found.sinogram, expected.sinogram) and np.array_equal(found.angles, expected.angles)


def test_a_scan_of_an_earlier_version_is_prepared_before_its_first_use(
    desk: Desk, claim: Claim, process: WorkerProcess
) -> None:
    assert not prepared(desk, claim).exists()
    assert right(desk, claim, process)
    with desk.database() as session:
        assert session.query(Scan.prepared_bytes).scalar() == prepared(desk, claim).stat().st_size
    assert list((desk.storage.root / "incoming").iterdir()) == []
    made = prepared(desk, claim).stat().st_ino
    assert right(desk, claim, process)
    assert prepared(desk, claim).stat().st_ino == made
    assert damages(desk) == {}


def test_only_the_prepared_form_is_read(desk: Desk, claim: Claim, process: WorkerProcess) -> None:
    expected = read_slice(process, claim)
    original(desk, claim).write_bytes(b"\x89HDF\r\n\x1a\nsomething that strikes in a worker")
    found = read_slice(process, claim)
    assert isinstance(found, CTAcquisition)
    assert isinstance(expected, CTAcquisition)
    assert np.array_equal(found.sinogram, expected.sinogram)


@pytest.mark.parametrize("at", [0, 100, 5000, -10, -300])
def test_a_prepared_form_that_rots_is_made_anew_from_bytes_that_are_right(
    desk: Desk, claim: Claim, process: WorkerProcess, at: int
) -> None:
    read_slice(process, claim)
    flip(prepared(desk, claim), at)
    assert right(desk, claim, process)
    layout.verify_prepared(prepared(desk, claim))
    assert damages(desk) == {"prepared": 1}


@pytest.mark.parametrize("at", [10, 3000, -1])
def test_bytes_that_rot_are_never_prepared_and_the_problem_names_them(
    desk: Desk, process: WorkerProcess, database: object, at: int
) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    sha256 = desk_sha256(desk, job_id)
    flip(desk.storage.path(keys.scan(sha256)), at)
    run_next_slice(process, job_id, 0)
    job = desk.job(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["type"].endswith(":damaged")
    assert "post the scan again" in job.error["detail"]
    assert not desk.storage.path(keys.prepared_scan(sha256)).exists()
    assert damages(desk) == {"scan": 1}
    flip(desk.storage.path(keys.scan(sha256)), at)
    with desk.database.begin() as session:
        session.execute(update(Scan).values(damaged_at=None))
    desk.retry(job_id)
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED


def desk_sha256(desk: Desk, job_id: uuid.UUID) -> str:
    with desk.database() as session:
        return str(session.get_one(Scan, desk.job(job_id).scan_id).sha256)


def test_what_an_older_reading_prepared_is_prepared_anew(
    desk: Desk, claim: Claim, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_slice(process, claim)
    made = prepared(desk, claim).stat().st_ino
    monkeypatch.setattr("udig_recon.worker.runtime.prepared_scans.READING", layout.READING + 1)
    assert right(desk, claim, process)
    assert prepared(desk, claim).stat().st_ino != made


def test_another_scans_prepared_form_is_not_taken(desk: Desk, claim: Claim, process: WorkerProcess) -> None:
    other = desk.claimed(desk.submit(desk.scan(slices=3, size=48), SHORT))
    read_slice(process, other)
    prepared(desk, claim).write_bytes(prepared(desk, other).read_bytes())
    assert right(desk, claim, process)


def test_without_the_scan_there_is_nothing_to_prepare(desk: Desk, claim: Claim, process: WorkerProcess) -> None:
    desk.storage.delete(keys.scan(claim.scan_sha256))
    desk.storage.delete(keys.prepared_scan(claim.scan_sha256))
    with pytest.raises(FileNotFoundError):
        read_slice(process, claim)


def test_a_disk_that_is_full_is_told_as_that(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    monkeypatch.setattr(type(process.storage), "free_bytes", lambda _: 0)
    run_next_slice(process, job_id, 0)
    error = desk.job(job_id).error
    assert error is not None
    assert error["type"].endswith(":disk-full")
    with desk.database.begin() as session:
        assert _forgotten(session)


def _forgotten(session: Session) -> bool:
    return session.execute(update(Scan).values(prepared_bytes=None)).rowcount == 1  # type: ignore[attr-defined]


def test_a_scan_that_lost_its_end_is_damaged(desk: Desk, claim: Claim, process: WorkerProcess) -> None:
    spoilt = original(desk, claim).read_bytes()[:4000]
    original(desk, claim).write_bytes(spoilt)
    with pytest.raises(DamagedFile):
        read_slice(process, claim)
