"""The worker's health check: alive means seen lately, on this machine."""

from datetime import timedelta

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database.tables import Worker
from udig_recon.worker.jobs.sweep import register
from udig_recon.worker.runtime import health
from udig_recon.worker.runtime.health import alive
from udig_recon.worker.settings import Settings


@pytest.mark.parametrize(("host", "healthy"), [("gpu-1", True), ("gpu", False), ("gpu-2", False)])
def test_a_worker_that_greets_is_alive_on_its_own_machine_only(
    database: sessionmaker[Session], host: str, healthy: bool
) -> None:
    with database.begin() as session:
        register(session, "gpu-1:17:a", "cpu")
    with database() as session:
        assert alive(session, host, seconds=20) is healthy


def test_a_silent_worker_is_not_alive(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        register(session, "gpu-1:17:a", "cpu")
        session.execute(update(Worker).values(seen_at=func.now() - timedelta(seconds=21)))
        assert not alive(session, "gpu-1", seconds=20)


def test_a_database_that_is_away_is_no_reason_to_restart_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Settings(database_url="postgresql://nobody@/none?host=/nowhere")
    monkeypatch.setattr(health, "get_settings", lambda: away)
    with pytest.raises(SystemExit, match="DATABASE_URL"):
        health.main(unless_database_is_away=False)
    assert health.main(unless_database_is_away=True) == 0


def test_a_silent_worker_is_restarted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "get_settings", lambda: settings)
    assert health.main(unless_database_is_away=True) == 1
