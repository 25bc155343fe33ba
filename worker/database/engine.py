"""How processes reach Postgres, and how they tell each other that a job has changed."""

import uuid
from functools import partial
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import IdleInTransactionSessionTimeout
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from udig_recon.worker.database import timeouts

DISK_FULL = "53100"  # SQLSTATE
CHANNEL = "udig_jobs"
PROGRESS_CHANNEL = "udig_progress"  # of what changes no status: whoever waits for one need not look
KEYS_CHANNEL = "udig_keys"
DRIVER = "postgresql+psycopg"
DIALECT = make_url(f"{DRIVER}://").get_dialect()()
AWAY = (OperationalError, InterfaceError, PoolTimeoutError, psycopg.OperationalError, psycopg.InterfaceError)
"""What a database that does not answer raises; the same may be tried again."""
FOUND_DEAD = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # of what was sent into the void, of which keep-alives know nothing
}
"""A connection that died without a word is found out within 11 s.

TCP itself repeats what it sent after pauses that double: after half a minute without a link the next try would come
half a minute later. A new connection is there at once.
"""
CONNECT_OPTIONS = {
    **FOUND_DEAD,
    "connect_timeout": 5,
    # A process that was stopped within a transaction must not keep the row from everybody else.
    "options": f"-c idle_in_transaction_session_timeout=15s -c lock_timeout=15s {timeouts.FINDS_DEAD}",
    # PgBouncer hands out another server connection for each transaction.
    "prepare_threshold": None,
}

POOL_SECONDS = 10.0  # that one waits for a connection which another gives back
ENGINE_OPTIONS: dict[str, Any] = {
    "pool_timeout": POOL_SECONDS,
    "hide_parameters": True,  # names of files may be names of patients; they stay out of the logs
    "connect_args": CONNECT_OPTIONS,
}


class Pool(QueuePool):
    """One that closes what a thread gives back after `dispose`: that connection would stay open for nobody."""

    _sqla_logger_namespace = f"{QueuePool.__module__}.{QueuePool.__name__}"  # its talk is SQLAlchemy's, not ours
    _disposed = False

    def dispose(self) -> None:
        """Close what is idle now, the others when they come back."""
        self._disposed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._disposed:
            record.close()
        super()._do_return_conn(record)


def make_engine(url: str, pool_size: int = 5, *, patient: bool = True) -> Engine:
    """An engine by psycopg 3 for any spelling of a Postgres URL; lost connections are replaced when they are used.

    One that is not patient gives up on a server that does not answer: see `udig_recon.worker.database.timeouts`.
    """
    own = make_url(url).set(drivername=DRIVER)
    options = ENGINE_OPTIONS if patient else {**ENGINE_OPTIONS, **_impatient()}
    engine = create_engine(own, poolclass=Pool, pool_pre_ping=True, pool_size=pool_size, max_overflow=10, **options)
    event.listen(engine, "handle_error", _as_away)
    event.listen(engine, "begin", partial(_commits, False))
    event.listen(engine, "commit", partial(_commits, True))
    if not patient:
        timeouts.give_up_in_time(engine)
    return engine


def _impatient() -> dict[str, Any]:
    return {"pool_timeout": timeouts.POOL_SECONDS, "connect_args": {**CONNECT_OPTIONS, **timeouts.OPTIONS}}


class CommitUnknown(OperationalError):
    """The database fell silent while it was told to commit: what the transaction did may stand or not."""


def _commits(now: bool, connection: Connection) -> None:
    connection.info["commits"] = now


def conninfo(url: str) -> str:
    """The same for psycopg alone: SQLAlchemy's spelling of sockets, many hosts and blanks is not libpq's."""
    _, named = DIALECT.create_connect_args(make_url(url).set(drivername=DRIVER))
    return make_conninfo(**named)


def _as_away(context: ExceptionContext) -> BaseException | None:
    """What an error means: psycopg calls it an internal one when somebody has slept through its transaction."""
    error = context.original_exception
    if isinstance(error, IdleInTransactionSessionTimeout):
        return OperationalError(context.statement, None, error, hide_parameters=True)
    silent = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if silent and context.connection is not None and context.connection.info.get("commits"):
        return CommitUnknown("COMMIT", None, error, hide_parameters=True)
    return None


def make_sessions(engine: Engine) -> sessionmaker[Session]:
    """A factory of sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def in_one_line(error: DBAPIError) -> str:
    """What the database said first."""
    return str(error.orig).strip().splitlines()[0]


def has_no_room(error: BaseException) -> bool:
    """Whether the database could not write for want of disk."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) == DISK_FULL


def notify(session: Session, job_id: uuid.UUID) -> None:
    """Wake who listens for the job, when this transaction commits."""
    session.execute(select(func.pg_notify(CHANNEL, str(job_id))))


def notify_progress(session: Session, job_id: uuid.UUID) -> None:
    """Wake who follows the job step by step, when this transaction commits."""
    session.execute(select(func.pg_notify(PROGRESS_CHANNEL, str(job_id))))


def notify_key(session: Session, key_id: uuid.UUID) -> None:
    """Let every answer that goes on for a key look whether it is taken yet, when this transaction commits."""
    session.execute(select(func.pg_notify(KEYS_CHANNEL, str(key_id))))
