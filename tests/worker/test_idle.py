"""Workers without work end where IDLE_SECONDS says so, and not while there is work, or nobody knows."""

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.worker_processes import PATIENCE_SECONDS, SHORT, Desk
from udig_recon.worker.gpus.bindings import bindings
from udig_recon.worker.runtime.idle import IdleWatch
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.standalone import worker_group
from udig_recon.worker.standalone.worker_group import WorkerGroup


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


WORKER = """
import os, pathlib, sys
told = pathlib.Path(os.environ["TOLD"])
with told.open("a") as file:
    file.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\\n")
sys.exit(70 if os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b" and told.read_text().count("GPU-b") == 1 else 0)
"""


def test_a_group_starts_workers_that_fail_again_and_ends_when_all_had_no_work(
    database: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group, "UDIG", (sys.executable, "-c", WORKER))
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    group = WorkerGroup(bindings(None, ["GPU-a", "GPU-b"]), database)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while group.children:
        assert time.monotonic() < deadline
        group.supervise()
        time.sleep(0.02)
    assert sorted((tmp_path / "told").read_text().split()) == ["GPU-a", "GPU-b", "GPU-b"]


def test_a_group_that_is_told_to_end_takes_its_workers_with_it(
    database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_group, "UDIG", (sys.executable, "-c", "import time; time.sleep(100)"))
    group = WorkerGroup(bindings(2, []), database)
    group.supervise()
    started = [child.process for child in group.children]
    group.stop()
    assert [process.poll() for process in started if process is not None] == [-signal.SIGTERM] * 2
