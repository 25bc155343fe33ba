"""Connections to Postgres that give up on a server that does not answer, for a process whose clients wait for it.

A server that is stopped or cut off keeps its sockets open and acknowledges what is sent to it, so that neither
keep-alives nor its own `statement_timeout` end the wait.
"""

import time
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from sqlalchemy import Engine, event

Got = TypeVar("Got")
ANSWER_SECONDS = 4.0  # that a statement may take, until its connection is given up
AWAY_SECONDS = 1.0  # that nobody asks again after that
POOL_SECONDS = 4.0  # that one waits for a connection which another gives back
FINDS_DEAD = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=25s"
"""Options by which the server finds out that a client is gone, whose connection it would keep for two hours."""
OPTIONS: dict[str, Any] = {
    "connect_timeout": 2,  # the least that there is
    # The server itself ends what is slow, a little earlier.
    "options": f"-c statement_timeout=3500 -c lock_timeout=3s -c idle_in_transaction_session_timeout=15s {FINDS_DEAD}",
}


class Unanswered(psycopg.OperationalError):
    """The server has not answered in time, or has not a moment ago."""


class CircuitBreaker:
    """Open for a while after a server did not answer: whoever waits for a connection to it need not find out anew."""

    def __init__(self) -> None:
        self._open_until = 0.0

    def check(self) -> None:
        """Raise Unanswered while open."""
        if time.monotonic() < self._open_until:
            raise Unanswered("the server did not answer a moment ago")

    def trip(self) -> None:
        """Open it."""
        self._open_until = time.monotonic() + AWAY_SECONDS


class TimedConnection(psycopg.Connection[Any]):
    """One that is closed when the server does not answer within ANSWER_SECONDS."""

    breaker: ClassVar[CircuitBreaker] = CircuitBreaker()

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> "TimedConnection":
        """Connect. Raises Unanswered."""
        cls.breaker.check()
        try:
            return super().connect(conninfo, **options)
        except errors.ConnectionTimeout:
            cls.breaker.trip()
            raise

    def wait(self, gen: PQGen[Got], interval: float = 0.1, timeout: float | None = None) -> Got:
        """Wait for what the generator does. Raises Unanswered."""
        try:
            self.breaker.check()
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except (errors._WaitTimeout, Unanswered) as error:
            self.close()
            raise _as_unanswered(self.breaker, error) from None


class TimedAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for the event loop."""

    breaker: ClassVar[CircuitBreaker] = TimedConnection.breaker

    @classmethod
    async def connect(cls, conninfo: str = "", **options: Any) -> "TimedAsyncConnection":
        """Connect. Raises Unanswered."""
        cls.breaker.check()
        try:
            return await super().connect(conninfo, **options)
        except errors.ConnectionTimeout:
            cls.breaker.trip()
            raise

    async def wait(self, gen: PQGen[Got], interval: float = 0.1, timeout: float | None = None) -> Got:
        """Wait for what the generator does. Raises Unanswered."""
        try:
            self.breaker.check()
            return await super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except (errors._WaitTimeout, Unanswered) as error:
            await self.close()
            raise _as_unanswered(self.breaker, error) from None


def _as_unanswered(breaker: CircuitBreaker, error: Exception) -> Unanswered:
    """What to raise in place of a time-out, which opens the breaker."""
    if isinstance(error, Unanswered):
        return error
    breaker.trip()
    return Unanswered(f"the server has not answered within {ANSWER_SECONDS:g} s")


def give_up_in_time(engine: Engine) -> None:
    """Let every new connection of the engine be a timed one."""

    def connect(_dialect: Any, _record: Any, arguments: Any, named: dict[str, Any]) -> TimedConnection:
        return TimedConnection.connect(*arguments, **named)

    event.listen(engine, "do_connect", connect)
