"""How processes reach Postgres, and how they tell each other that a job has changed."""

import uuid
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy import Engine, ExceptionContext, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

CHANNEL = "udig_jobs"
DRIVER = "postgresql+psycopg"
DIALECT = make_url(f"{DRIVER}://").get_dialect()()
AWAY = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
"""What a database that does not answer raises; the same may be tried again."""
FOUND_DEAD = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,  # of what was sent into the void, of which keep-alives know nothing
}
"""A connection that died without a word is found out within half a minute."""
CONNECT_OPTIONS = {
    **FOUND_DEAD,
    "connect_timeout": 5,
    # A process that was stopped within a transaction must not keep the row from everybody else.
    "options": "-c idle_in_transaction_session_timeout=15s -c lock_timeout=15s",
    # PgBouncer hands out another server connection for each transaction.
    "prepare_threshold": None,
}

POOL_SECONDS = 10.0  # that one waits for a connection which another gives back
ENGINE_OPTIONS: dict[str, Any] = {
    "pool_timeout": POOL_SECONDS,
    "hide_parameters": True,  # names of files may be names of patients; they stay out of the logs
    "connect_args": CONNECT_OPTIONS,
}


def make_engine(url: str, pool_size: int = 5) -> Engine:
    """An engine by psycopg 3 for any spelling of a Postgres URL; lost connections are replaced when they are used."""
    own = make_url(url).set(drivername=DRIVER)
    engine = create_engine(own, pool_pre_ping=True, pool_size=pool_size, max_overflow=10, **ENGINE_OPTIONS)
    event.listen(engine, "handle_error", _as_away)
    return engine


def conninfo(url: str) -> str:
    """The same for psycopg alone: SQLAlchemy's spelling of sockets, many hosts and blanks is not libpq's."""
    _, named = DIALECT.create_connect_args(make_url(url).set(drivername=DRIVER))
    return make_conninfo(**named)


def _as_away(context: ExceptionContext) -> None:
    """Whoever slept through its transaction has lost its connection, though psycopg calls that an internal error."""
    if isinstance(error := context.original_exception, IdleInTransactionSessionTimeout):
        raise OperationalError(context.statement, None, error, hide_parameters=True) from error


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """A factory of sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def in_one_line(error: DBAPIError) -> str:
    """What the database said first."""
    return str(error.orig).strip().splitlines()[0]


def notify(session: Session, job_id: uuid.UUID) -> None:
    """Wake who listens for the job, when this transaction commits."""
    session.execute(select(func.pg_notify(CHANNEL, str(job_id))))
