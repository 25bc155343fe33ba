"""A database that is away is known as that, however it went."""

import pytest
from sqlalchemy import Engine, text

from worker import database
from worker.database import AWAY, make_engine
from worker.settings import Settings


@pytest.fixture
def engine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Connections that sleep for a tenth of a second at most within a transaction."""
    options = {**database.CONNECT_OPTIONS, "options": "-c idle_in_transaction_session_timeout=100ms"}
    monkeypatch.setitem(database.ENGINE_OPTIONS, "connect_args", options)
    return make_engine(str(settings.database_url))


def test_who_slept_within_a_transaction_finds_the_database_away_and_then_back(engine: Engine) -> None:
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        with engine.connect() as other:
            gone = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            while other.scalar(gone, {"pid": pid}):
                other.rollback()
        with pytest.raises(AWAY):
            connection.execute(text("SELECT 1"))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
