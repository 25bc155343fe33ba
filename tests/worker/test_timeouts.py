"""A server that does not answer is given up, and for a moment nobody asks it again."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from udig_recon.worker.database import timeouts
from udig_recon.worker.database.engine import AWAY, make_engine
from udig_recon.worker.database.timeouts import CircuitBreaker, TimedConnection, Unanswered
from udig_recon.worker.settings import Settings

NEVER = text("SET statement_timeout = 0; SELECT pg_sleep(600)")


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> CircuitBreaker:
    made = CircuitBreaker()
    monkeypatch.setattr(TimedConnection, "breaker", made)
    return made


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(str(settings.database_url), patient=False)
    yield made
    made.dispose()


def asked(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT 1")).scalar_one())


def test_a_statement_without_an_answer_ends_its_connection_and_then_nobody_asks_for_a_while(
    engine: Engine, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(engine) == 1
    monkeypatch.setattr(timeouts, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(timeouts, "AWAY_SECONDS", 1000)
    with engine.connect() as connection, pytest.raises(AWAY) as given_up:
        connection.execute(NEVER)
    assert isinstance(given_up.value, OperationalError)
    assert isinstance(given_up.value.orig, Unanswered)
    statements: list[str] = []
    monkeypatch.setattr(TimedConnection, "_connect_gen", lambda *_: statements.append("connect"))
    with pytest.raises(AWAY):
        asked(engine)
    assert not statements


def test_it_is_asked_again_when_the_while_is_over(engine: Engine, breaker: CircuitBreaker) -> None:
    breaker.trip()
    with pytest.raises(AWAY):
        asked(engine)
    breaker._open_until = time.monotonic()
    assert asked(engine) == 1


def test_a_slow_statement_is_ended_by_the_server_and_its_connection_stays(
    engine: Engine, breaker: CircuitBreaker
) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET statement_timeout = 50"))
        with pytest.raises(AWAY):
            connection.execute(text("SELECT pg_sleep(600)"))
        connection.rollback()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    breaker.check()
