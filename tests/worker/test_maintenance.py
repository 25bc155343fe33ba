"""While the database is away nobody can renew a lease, and nobody loses one for that."""

import time
import uuid
import weakref
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.support.worker_processes import SHORT, Desk
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import JobSlice, Snapshot, Status
from udig_recon.worker.jobs import leases
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.jobs.leases import Point
from udig_recon.worker.runtime.heartbeat import LeaseKeeper, ProgressReport
from udig_recon.worker.runtime.maintenance import GRACE_HEARTBEATS, Maintenance
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys, previews

BEAT = 0.1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With hearts that beat fast."""
    return settings.model_copy(update={"heartbeat_seconds": BEAT})


def lapsed(desk: Desk) -> Claim:
    """A slice whose lease has run out."""
    claim = desk.claimed(desk.submit(desk.scan(), SHORT))
    with desk.database.begin() as session:
        session.execute(update(JobSlice).values(lease_until=func.now() - timedelta(hours=1)))
    return claim


def swept(desk: Desk, maintenance: Maintenance, job_id: uuid.UUID) -> Status:
    """What the slice is after a sweep."""
    maintenance.sweep()
    (job_slice,) = desk.job_slices(job_id)
    return job_slice.status


def test_leases_that_ran_out_are_ended_once_their_workers_had_time_to_renew_them(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintenance, job_id = Maintenance(process), lapsed(desk).job_id
    assert swept(desk, maintenance, job_id) is Status.RUNNING
    time.sleep(GRACE_HEARTBEATS * BEAT)
    with monkeypatch.context() as away:

        def nowhere(*_: Any) -> None:
            raise OperationalError("", None, Exception("the server is away"))

        away.setattr(Session, "execute", nowhere)
        assert swept(desk, maintenance, job_id) is Status.RUNNING
    assert swept(desk, maintenance, job_id) is Status.RUNNING
    time.sleep(GRACE_HEARTBEATS * BEAT)
    assert swept(desk, maintenance, job_id) is Status.QUEUED


def test_a_database_that_is_away_leaves_every_snapshot_and_the_newest_picture_to_be_told(
    desk: Desk, process: WorkerProcess
) -> None:
    claim = desk.claimed(desk.submit(desk.scan(), SHORT))
    desk.storage.create_group(keys.job(claim.job_id))
    lease, pictures = LeaseKeeper(process.sessions, claim, process.settings, desk.storage), []
    for step in range(1, 6):
        image = np.full((4, 4), step, np.float32)
        picture = SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={})
        lease.report(ProgressReport(Point(step, 5, float(step)), picture))
        pictures.append(weakref.ref(picture))
        del picture
    assert [ref() is None for ref in pictures] == [True] * 4 + [False]
    lease.commit(lambda session: leases.heartbeat(session, claim, 60))
    with desk.database() as session:
        assert session.scalars(select(Snapshot.iteration).order_by(Snapshot.seq)).all() == [1, 2, 3, 4, 5]
    assert previews.load(desk.database, desk.storage, claim.job_id, 0).image[0, 0] == 5
