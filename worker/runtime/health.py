"""Whether a worker of this machine is alive, for a container's health check."""

import socket
import sys
from datetime import timedelta

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from udig_recon.worker.database.engine import AWAY, in_one_line, make_engine, make_sessions
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.settings import get_settings


def was_seen_recently(seconds: float) -> ColumnElement[bool]:
    """Whether a row of `workers` was renewed within so many seconds, by the database's clock."""
    return Worker.seen_at > func.now() - timedelta(seconds=seconds)


def alive(session: Session, host: str, seconds: float) -> bool:
    """Whether a worker on that host was seen lately."""
    here = Worker.name.startswith(f"{host}:", autoescape=True)
    return bool(session.scalar(select(exists().where(here, was_seen_recently(seconds)))))


def main(*, unless_database_is_away: bool) -> int:
    """Exit status: 0 when a worker of this machine was seen lately, else 1 and one line on standard error.

    `unless_database_is_away`: 0 also while the database does not answer, because no restart of a worker would help.
    """
    settings = get_settings()
    if settings.database_url is None:
        raise SystemExit("error: DATABASE_URL is not set")
    engine = make_engine(settings.database_url, 1)
    try:
        with make_sessions(engine)() as database:
            is_alive = alive(database, socket.gethostname(), settings.alive_seconds)
    except DBAPIError as error:
        if unless_database_is_away and isinstance(error, AWAY):
            return 0
        raise SystemExit(f"error: DATABASE_URL: {in_one_line(error)}") from None
    finally:
        engine.dispose()
    if not is_alive:
        sys.stderr.write("no worker of this machine was seen lately\n")
    return 0 if is_alive else 1
