"""Turns: what one process of many does for all of them, once in so many seconds."""

from sqlalchemy import ColumnElement, Double, cast, extract, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from udig_recon.worker.database import locks
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import ServiceState


def take(session: Session, lock: Lock, seconds: float) -> bool:
    """Whether nobody has had this turn within so many seconds and nobody has it; then it lasts until the commit.

    To ask costs the reading of one row, so that a thousand processes may ask every few seconds.
    """
    if not _is_due(session, lock, seconds) or not locks.try_acquire(session, lock):
        return False
    # Somebody may have had it between the question and the lock.
    if not _is_due(session, lock, seconds):
        return False
    row = insert(ServiceState).values(name=_name(lock), value=func.jsonb_build_object("at", _now()))
    session.execute(row.on_conflict_do_update(index_elements=[ServiceState.name], set_={"value": row.excluded.value}))
    return True


def _is_due(session: Session, lock: Lock, seconds: float) -> bool:
    at = ServiceState.value["at"].astext.cast(Double)
    query = select(at > _now() - seconds).where(ServiceState.name == _name(lock))
    return not session.scalar(query)


def _name(lock: Lock) -> str:
    return f"turn.{lock.name.lower()}"


def _now() -> ColumnElement[float]:
    return cast(extract("epoch", func.clock_timestamp()), Double)
