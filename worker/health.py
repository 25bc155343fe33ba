"""`python -m worker.health`: whether a worker of this machine is alive, for a container's health check."""

import socket
import sys
from datetime import timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from worker.database import make_engine, make_sessions
from worker.models import Worker
from worker.settings import get_settings

MISSED_SWEEPS = 4


def alive(session: Session, host: str, seconds: float) -> bool:
    """Whether a worker on that host was seen lately, by the database's clock."""
    lately = Worker.seen_at > func.now() - timedelta(seconds=seconds)
    return bool(session.scalar(select(exists().where(Worker.name.startswith(f"{host}:", autoescape=True), lately))))


if __name__ == "__main__":
    settings = get_settings()
    if settings.database_url is None:
        raise SystemExit("DATABASE_URL is not set")
    with make_sessions(make_engine(settings.database_url))() as database:
        well = alive(database, socket.gethostname(), MISSED_SWEEPS * settings.sweep_seconds)
    sys.exit(0 if well else "no worker of this machine was seen lately")
