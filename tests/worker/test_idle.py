"""Workers without work end where IDLE_SECONDS says so, and not while there is work, or nobody knows."""

import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.support.worker_processes import PATIENCE_SECONDS, SHORT, Desk, working
from udig_recon.worker.database.tables import Status
from udig_recon.worker.runtime.idle import IdleWatch
from udig_recon.worker.runtime.process import WorkerProcess


def test_a_worker_ends_when_it_has_had_no_slice_for_long_and_none_waits(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    process = replace(process, settings=process.settings.model_copy(update={"idle_seconds": 0.2}))
    watch = IdleWatch(process, lambda: told.append(True))
    watch.look()
    assert told == []  # it has only just begun
    time.sleep(0.25)
    with process.holding(None):  # type: ignore[arg-type]
        pass
    watch.look()
    assert told == []  # it had a slice a moment ago
    time.sleep(0.25)
    waiting = desk.submit(desk.scan(), SHORT)
    watch.look()
    assert told == []  # a message may be on its way
    desk.claimed(waiting)
    with monkeypatch.context() as away:

        def nowhere(*_: Any) -> None:
            raise OperationalError("", None, Exception("the server is away"))

        away.setattr(Session, "execute", nowhere)
        watch.look()
    assert told == []
    watch.look()
    assert told == [True]  # another worker has the slice


def test_a_group_of_workers_does_what_there_is_and_ends_by_itself(desk: Desk) -> None:
    job_id = desk.submit(desk.scan(), SHORT)
    settings = desk.settings.model_copy(update={"idle_seconds": 1.0, "device": "cpu"})
    with working(settings, options=("--processes", "auto")) as (group,):
        assert group.process.wait(2 * PATIENCE_SECONDS) == 0
    assert desk.job(job_id).status is Status.SUCCEEDED
    assert sum('"event": "worker.idle"' in line for line in group.lines) == 1
