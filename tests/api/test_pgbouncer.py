"""The service behind PgBouncer in transaction mode, as `docs/deployment/pgbouncer.ini` sets it up."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.support.api_server import serving
from tests.support.pgbouncer import PGBOUNCER, SERVER_CONNECTIONS, pgbouncer
from tests.support.worker_processes import until, working
from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Status
from udig_recon.worker.settings import Settings


@pytest.fixture
def behind(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a service whose DATABASE_URL is a PgBouncer."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    with pgbouncer(str(settings.database_url), tmp_path) as url:
        yield settings.model_copy(update={"database_url": url, "direct_database_url": settings.database_url})


def test_jobs_are_filed_run_followed_and_told_behind_pgbouncer(behind: Settings, ct_file: bytes) -> None:
    """API and worker share a few connections to the server; listeners are woken by their direct one."""
    with (
        serving(behind) as served,
        httpx2.Client(base_url=served.url, timeout=60) as client,
        working(behind) as (worker,),
    ):
        assert client.get("/readyz").json()["checks"]["database"] == "ok"
        scan = client.post("/v1/scans", content=ct_file).json()
        asked = {"scan_id": scan["id"], "parameters": {"method": "sirt", "iterations": 300}}
        jobs = [client.post("/v1/jobs", json=asked | {"seed": seed}).json() for seed in range(2)]
        events: list[str] = []

        def follow() -> None:
            with client.stream("GET", jobs[-1]["links"]["events"]) as stream:
                events.extend(line for line in stream.iter_lines() if line.startswith("event:"))

        follower = threading.Thread(target=follow)
        follower.start()
        for job in jobs:
            found = until(lambda job=job: _ended(client, job["links"]["self"]), seconds=180)
            assert (found["status"], found["attempt"]) == (Status.SUCCEEDED, 1), found
        follower.join()
        assert events[-1] == "event: done"
        assert client.delete(jobs[0]["links"]["self"]).status_code == 204
    said = [json.loads(line) for line in worker.lines if line.startswith("{")]
    assert [line for line in said if line["level"] in ("error", "critical")] == []


def _ended(client: httpx2.Client, path: str) -> dict[str, object] | None:
    job: dict[str, object] = client.get(path, params={"wait": 5}).json()
    return job if Status(str(job["status"])).ended else None


def test_locks_and_time_limits_hold_behind_pgbouncer(behind: Settings) -> None:
    engine = make_engine(str(behind.database_url), 2 * SERVER_CONNECTIONS)
    sessions = make_sessions(engine)
    with sessions.begin() as first, sessions.begin() as second:
        assert locks.try_acquire(first, Lock.SWEEP)
        assert not locks.try_acquire(second, Lock.SWEEP)
    with sessions.begin() as session:
        assert locks.try_acquire(session, Lock.SWEEP)
        assert session.scalar(text("SHOW lock_timeout")) == "15s"
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "15s"
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        with sessions.begin() as other:
            other.execute(text("LOCK TABLE counters IN EXCLUSIVE MODE"))
            with pytest.raises(OperationalError), session.begin_nested():
                session.execute(text("INSERT INTO counters (kind, amount) VALUES ('x', 1)"))
    engine.dispose()
