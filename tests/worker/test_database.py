"""A database that is away is known as that, however it went."""

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, text

from udig_recon.worker.database import engine as database
from udig_recon.worker.database.engine import AWAY, conninfo, make_engine
from udig_recon.worker.settings import Settings


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


def test_what_comes_back_after_the_end_is_closed(settings: Settings) -> None:
    engine = make_engine(str(settings.database_url))
    with engine.connect() as idle, engine.connect() as late:
        kept = [connection.connection.dbapi_connection for connection in (idle, late)]
        idle.close()
        engine.dispose()
        assert [each is not None and bool(each.closed) for each in kept] == [True, False]
    assert [each is not None and bool(each.closed) for each in kept] == [True, True]


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgresql://u@h/d", {"user": "u", "host": "h", "dbname": "d"}),
        ("postgresql+psycopg://u:p%20%40%2Fw@h:5433/d%20e", {"password": "p @/w", "port": "5433", "dbname": "d e"}),
        ("postgresql+asyncpg://u@[::1]/d", {"host": "::1"}),
        ("postgresql:///d?host=/my%20socket", {"host": "/my socket", "dbname": "d"}),
        ("postgresql://u@/d?host=h1:5432&host=h2:5433", {"host": "h1,h2", "port": "5432,5433"}),
        ("postgresql://u@h/d?sslrootcert=/a%20b/c.pem&sslmode=verify-full", {"sslrootcert": "/a b/c.pem"}),
    ],
)
def test_any_spelling_of_a_url_means_the_same_to_psycopg_alone(url: str, meant: dict[str, str]) -> None:
    told = conninfo_to_dict(conninfo(url))
    assert {name: told.get(name) for name in meant} == meant
    engine = make_engine(url)
    _, used = engine.dialect.create_connect_args(engine.url)
    assert told == {name: str(value) for name, value in used.items() if name != "context"}  # what adapts Python's types
