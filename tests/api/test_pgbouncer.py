"""The service behind PgBouncer in transaction mode, as `docs/deployment/pgbouncer.ini` sets it up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.support.pgbouncer import PGBOUNCER, SERVER_CONNECTIONS, pgbouncer
from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.settings import Settings


@pytest.fixture
def behind(settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Settings of a service whose DATABASE_URL is a PgBouncer."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    with pgbouncer(str(settings.database_url), tmp_path) as url:
        yield settings.model_copy(update={"database_url": url, "direct_database_url": settings.database_url})


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
