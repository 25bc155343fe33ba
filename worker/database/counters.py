"""What was counted since the service was installed: rows are added, mostly by triggers, and now and then summed."""

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from udig_recon.worker.database.tables import Counter

SUMMED_FROM = 1000  # rows; fewer are no burden


def add(session: Session, kind: str, label: str = "") -> None:
    """Count one."""
    session.execute(insert(Counter).values(kind=kind, label=label, amount=1))


def totals(session: Session) -> dict[str, dict[str, float]]:
    """Kind -> label -> sum. Never falls."""
    found: dict[str, dict[str, float]] = {}
    query = select(Counter.kind, Counter.label, func.sum(Counter.amount)).group_by(Counter.kind, Counter.label)
    for kind, label, amount in session.execute(query):
        found.setdefault(kind, {})[label] = amount
    return found


def sum_up(session: Session) -> None:
    """Put one row in the place of many, in one statement: no reader sees a smaller sum. One caller at a time."""
    if (session.scalar(select(func.count()).select_from(Counter)) or 0) < SUMMED_FROM:
        return
    old = delete(Counter).returning(Counter.kind, Counter.label, Counter.amount).cte("old")
    sums = select(old.c.kind, old.c.label, func.sum(old.c.amount)).group_by(old.c.kind, old.c.label)
    session.execute(insert(Counter).from_select(["kind", "label", "amount"], sums))
