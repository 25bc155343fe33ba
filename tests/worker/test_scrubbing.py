"""The scrub finds rot in whatever is stored, marks it once, goes on where it was, and unmarks what is whole again."""

import uuid
from datetime import UTC, datetime

import pytest

from tests.support.bit_flips import flip
from tests.support.worker_processes import SHORT, Desk, until, working
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Scan, Status
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.scrubbing import Scrub, Stopped

FAST = 1e12


@pytest.fixture
def done(desk: Desk, process: WorkerProcess) -> uuid.UUID:
    """A job that has succeeded."""
    job_id = desk.submit(desk.scan(), SHORT, outputs=["h5", "png"])
    run_next_slice(process, job_id, 0)
    assert desk.job(job_id).status is Status.SUCCEEDED
    return job_id


def damage(desk: Desk) -> dict[str, float]:
    with desk.database() as session:
        return counters.totals(session).get("damage", {})


def scrub(desk: Desk) -> Scrub:
    return Scrub(desk.database, desk.storage, FAST, lambda _: False)


def test_what_is_whole_stays_unmarked(desk: Desk, done: uuid.UUID) -> None:
    assert scrub(desk).run() == 4  # scan, its prepared form, result, picture
    assert damage(desk) == {}
    assert desk.job(done).damaged is None


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("kind", ["scan", "prepared", "result", "converted"])
def test_rot_of_each_kind_is_found_marked_and_counted_once(
    desk: Desk, done: uuid.UUID, kind: str, unseen: bool
) -> None:
    folder = desk.storage.path(str(desk.job(done).result))
    scan = desk.storage.path(keys.scan(desk.scan_sha256(done)))
    paths = {
        "scan": scan,
        "prepared": desk.storage.path(keys.prepared_scan(scan.name)),
        "result": folder / "reconstruction.h5",
        "converted": folder / "reconstruction.png",
    }
    flip(paths[kind], unseen=unseen)
    for _ in range(2):
        scrub(desk).run()
    assert damage(desk) == {kind: 1.0}
    with desk.database() as session:
        marked = session.get_one(Scan, desk.job(done).scan_id).damaged_at is not None
    assert marked == (kind == "scan")
    assert set(desk.job(done).damaged or {}) == ({"reconstruction.h5"} if kind == "result" else set())
    assert (folder / "reconstruction.png").exists() == (kind != "converted")


def test_a_rotten_slice_of_a_job_that_goes_on_is_found(desk: Desk, process: WorkerProcess) -> None:
    job_id = desk.submit(desk.scan(slices=2), SHORT, slices=[0, 1])
    run_next_slice(process, job_id, 0)
    flip(desk.storage.path(str(desk.job_slice(job_id, 0).result)))
    scrub(desk).run()
    assert damage(desk) == {"slice": 1.0}
    assert list(desk.job(job_id).damaged or {}) == ["slices/0.1.npz"]


def test_missing_files_are_damage_too(desk: Desk, done: uuid.UUID) -> None:
    desk.storage.path(keys.scan(desk.scan_sha256(done))).unlink()
    scrub(desk).run()
    assert damage(desk) == {"scan": 1.0}


def test_a_scan_that_is_whole_again_is_unmarked(desk: Desk, done: uuid.UUID) -> None:
    scan_id = desk.job(done).scan_id
    with desk.database.begin() as session:
        session.get_one(Scan, scan_id).damaged_at = datetime.now(UTC)
    scrub(desk).run()
    with desk.database() as session:
        assert session.get_one(Scan, scan_id).damaged_at is None


def test_a_pass_that_was_cut_off_goes_on_where_it_was(desk: Desk, process: WorkerProcess, done: uuid.UUID) -> None:
    scan_id = desk.scan(size=24)
    run_next_slice(process, desk.submit(scan_id, SHORT), 0)
    looked: list[float] = []

    def ends_soon(seconds: float) -> bool:
        looked.append(seconds)
        return len(looked) > 2

    cut = Scrub(desk.database, desk.storage, FAST, ends_soon)
    with pytest.raises(Stopped):
        cut.run()
    assert cut.is_due(1e9)
    assert scrub(desk).run() < 7  # of two scans in two forms each and three files of results
    assert not cut.is_due(1e9)
    assert cut.is_due(0.0)


def test_a_result_of_an_older_version_gets_its_digest(desk: Desk, done: uuid.UUID) -> None:
    with desk.database.begin() as session:
        job = desk.job(done)
        session.merge(job).result_files = None
    scrub(desk).run()
    assert set(desk.job(done).result_files or {}) == {"reconstruction.h5"}


def test_a_worker_scrubs_beside_its_work(desk: Desk, done: uuid.UUID) -> None:
    flip(desk.storage.path(str(desk.job(done).result)) / "reconstruction.h5")
    with working(desk.settings.model_copy(update={"scrub_seconds": 1.0})):
        until(lambda: damage(desk) == {"result": 1.0})
    assert set(desk.job(done).damaged or {}) == {"reconstruction.h5"}
