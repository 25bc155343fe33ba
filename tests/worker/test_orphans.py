"""What killed processes leave behind goes; what a row names, or may name yet, stays."""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import event, func, update

from tests.support.submit import retry_job
from tests.support.worker_processes import SHORT, Desk, until, working
from udig_recon.worker.database.tables import JobSlice
from udig_recon.worker.jobs import leases, lifecycle, sweep
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.orphans import delete_orphans

OLD = 3600.0


def left(path: Path, *, old: bool = True) -> Path:
    """A file that was written two hours ago, or just now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    if old:
        age(path)
    return path


def age(path: Path) -> None:
    then = path.stat().st_mtime - 2 * OLD
    os.utime(path, (then, then))


def tidied(desk: Desk, batch: int = 100) -> int:
    return delete_orphans(desk.database, desk.storage, OLD, batch)


@contextmanager
def after_first(desk: Desk, statement: str, do: Callable[[], object]) -> Iterator[list[str]]:
    """Do something right after the first statement like this; the list then holds it."""
    done: list[str] = []

    def look(_: object, __: object, said: str, *___: object) -> None:
        if not done and re.search(statement, said):
            done.append(said)
            do()

    engine = desk.database.kw["bind"]
    event.listen(engine, "after_cursor_execute", look)
    try:
        yield done
    finally:
        event.remove(engine, "after_cursor_execute", look)


class Attempt(NamedTuple):
    """One at a job of one slice, and the files that it wrote."""

    claim: Claim
    accepted: Path
    whole: Path


def computed(desk: Desk) -> Attempt:
    """All is written, and no row says so yet."""
    job_id = desk.submit(desk.scan(), SHORT)
    desk.storage.create_group(keys.job(job_id))
    claim, storage = desk.claimed(job_id), desk.storage
    accepted = left(storage.path(keys.slice_result(job_id, 0, claim.attempt)))
    return Attempt(claim, accepted, left(storage.path(keys.results(job_id, claim.attempt)) / "reconstruction.h5"))


def accept(desk: Desk, attempt: Attempt) -> None:
    """Its rows say so."""
    with desk.database.begin() as session:
        leases.store_slice(session, attempt.claim, str(attempt.accepted.relative_to(desk.storage.root)), {})
        leases.succeed_job(session, attempt.claim, str(attempt.whole.parent.relative_to(desk.storage.root)), {})


@pytest.mark.parametrize("old", [True, False])
def test_scans_uploads_and_folders_without_a_row_go_when_they_are_old(desk: Desk, old: bool) -> None:
    storage = desk.storage
    kept = desk.scan()
    desk.storage.create_group(keys.job(desk.submit(kept, SHORT)))
    (scan,) = (storage.root / "scans").iterdir()
    age(scan)
    orphans = [left(storage.path(keys.scan("0" * 64)), old=old), left((storage.root / "incoming") / "a.part", old=old)]
    orphans.append(left(storage.path(keys.checkpoints(uuid.uuid4())).parent / "a", old=old).parent)
    if old:
        age(orphans[-1])
    assert tidied(desk) == (3 if old else 0)
    assert [path.exists() for path in orphans] == [not old] * 3
    assert scan.exists()
    assert len(list((storage.root / "jobs").iterdir())) == (1 if old else 2)


def test_of_a_running_job_all_stays_that_its_attempt_may_yet_name(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    desk.storage.create_group(keys.job(job_id))
    claim, storage = desk.claimed(job_id), desk.storage
    kept = [
        left(storage.path(keys.slice_result(job_id, 0, claim.attempt))),
        left(storage.path(keys.results(job_id, claim.attempt)) / "reconstruction.h5"),
        left(storage.path(keys.checkpoints(job_id)) / "0.000000001.aa.pt"),
        left(storage.path(keys.preview(job_id, 0))),
        left(storage.path(keys.checkpoints(job_id)) / ".0.part", old=False),
    ]
    gone = [
        left(storage.path(keys.slice_result(job_id, 0, claim.attempt - 1)), old=False),
        left(storage.path(keys.results(job_id, claim.attempt + 1)) / "reconstruction.h5", old=False).parent,
        left(storage.path(keys.checkpoints(job_id)) / ".1.part"),
    ]
    assert tidied(desk) == 3
    assert [path.exists() for path in (*kept, *gone)] == [True] * 5 + [False] * 3


def test_of_a_job_that_has_succeeded_its_result_alone_stays(desk: Desk) -> None:
    claim, accepted, whole = attempt = computed(desk)
    accept(desk, attempt)
    job_id, storage = claim.job_id, desk.storage
    gone = [
        accepted,
        left(storage.path(keys.preview(job_id, 0)), old=False),
        left(storage.path(keys.checkpoints(job_id)) / "0.000000001.aa.pt", old=False),
        left(storage.path(keys.slice_result(job_id, 0, 7)), old=False),
        left(storage.path(keys.results(job_id, 7)) / "a").parent,
        left(whole.parent / ".reconstruction.npy.part"),
    ]
    assert tidied(desk) == 6
    assert [path.exists() for path in (whole, *gone)] == [True] + [False] * 6
    assert tidied(desk) == 0


def test_a_result_that_is_accepted_while_rows_are_read_stays(desk: Desk) -> None:
    attempt = computed(desk)

    with after_first(desk, r"FROM (jobs|job_slices)\b", lambda: accept(desk, attempt)) as done:
        tidied(desk)
    assert done
    assert attempt.whole.exists()


def test_more_jobs_than_are_read_at_once_are_tidied(desk: Desk) -> None:
    scan, gone = desk.scan(), []
    for _ in range(5):
        desk.storage.create_group(keys.job(job_id := desk.submit(scan, SHORT)))
        gone.append(left(desk.storage.path(keys.slice_result(job_id, 0, 1))))
    assert tidied(desk, batch=2) == 5
    assert not any(path.exists() for path in gone)


def test_a_failed_job_keeps_the_checkpoints_that_its_retry_goes_on_from(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(slices=2), SHORT, slices=[0, 1])
    desk.storage.create_group(keys.job(job_id))
    desk.claimed(job_id)
    kept = [left(desk.storage.path(keys.checkpoints(job_id)) / f"{slice_}.000000001.aa.pt") for slice_ in (0, 1)]
    with desk.database.begin() as session:
        session.execute(update(JobSlice).values(lease_until=func.now() - timedelta(seconds=1)))
        sweep.expire(session, max_crashes=1)
    assert tidied(desk) == 0
    with desk.database.begin() as session:
        retry_job(session, job_id)
        lifecycle.request_cancel(session, job_id)
    assert tidied(desk) == 2
    assert not any(path.exists() for path in kept)


def test_a_job_that_is_retried_while_rows_are_read_keeps_its_checkpoints(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(slices=2), SHORT, slices=[0, 1])
    desk.storage.create_group(keys.job(job_id))
    claim = desk.claimed(job_id)
    kept = left(desk.storage.path(keys.checkpoints(job_id)) / "1.000000001.aa.pt")
    with desk.database.begin() as session:
        leases.fail_job(session, claim, {"type": "about:blank"})

    with after_first(desk, r"FROM job_slices\b", lambda: desk.retry(job_id)) as done:
        assert tidied(desk) == 0
    assert done
    assert kept.exists()


def test_a_deletion_that_was_cut_off_is_finished(desk: Desk) -> None:
    desk.storage.create_group(keys.job(kept := desk.submit(desk.scan(), SHORT)))
    desk.storage.create_group(keys.job(doomed := uuid.uuid4()))
    desk.storage.path(keys.job(doomed)).rename((desk.storage.root / "jobs") / f".{doomed}.deleted")
    tidied(desk)
    assert list((desk.storage.root / "jobs").iterdir()) == [desk.storage.path(keys.job(kept))]


def test_the_age_of_a_file_is_told_by_the_clock_that_dates_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e12)
    fresh = left(desk.storage.path(keys.scan("0" * 64)), old=False)
    assert tidied(desk) == 0
    assert fresh.exists()


def test_one_of_the_living_workers_tidies(desk: Desk) -> None:
    orphan = left(desk.storage.path(keys.scan("0" * 64)))
    with working(desk.settings.model_copy(update={"orphan_seconds": 1.0}), count=2):
        until(lambda: not orphan.exists())
    assert not orphan.exists()
