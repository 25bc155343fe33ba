"""Transactional outbox: deliveries that are due, taken under a lease, and how each went. Triggers insert them.

One `Outbox` holds the mechanics for a table of deliveries: webhooks (`webhook_outbox`), and results for archives
(`destination_outbox`).
"""

import random
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, func, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import DeliveryState, DestinationDelivery, WebhookDelivery

JITTER = 0.25
PLACES_OF_TENANT = 8  # deliveries of one tenant that a process makes at once


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One attempt at a delivery. Subclasses add columns of their table."""

    id: uuid.UUID
    attempt: int  # the fence: a later attempt has a higher one
    tenant: str
    receiver: str  # what it goes to
    created_at: datetime
    traceparent: str | None = None


Taken = TypeVar("Taken", bound=Delivery)


class Outbox(Generic[Taken]):
    """The deliveries of one table; `delivery` is the class of an attempt, whose fields are columns of the table."""

    def __init__(
        self,
        table: type[WebhookDelivery] | type[DestinationDelivery],
        delivery: type[Taken],
        receiver: ColumnElement[Any] | InstrumentedAttribute[str],
        *,
        counter: str,  # kind of the counter of attempts by outcome
        most_attempts: int,
        longest_pause_seconds: float | None = None,  # pauses double up to it; None: without end
        places_of_receiver: int,  # deliveries of one tenant to one receiver that a process makes at once
        disabling_error: str | None = None,  # after which the receiver wants no more
    ) -> None:
        self._table, self._delivery, self._receiver = table, delivery, receiver
        self._counter, self.most_attempts = counter, most_attempts
        self._longest_pause, self._disabling_error = longest_pause_seconds, disabling_error
        self.places_of_receiver = places_of_receiver
        self._is_due = (table.state == DeliveryState.PENDING, table.due_at <= func.now())

    def take(
        self, session: Session, places: int, lease_seconds: float, held: Collection[tuple[str, str]] = ()
    ) -> list[Taken]:
        """Take deliveries that are due, for this process until the lease ends; then another may try, with the same id.

        `held` holds tenant and receiver of the deliveries in progress, in some of the `places` of this process.
        """
        table = self._table
        chosen = self._select_deliveries(session, places, held)
        due = (
            select(table.id)
            .where(table.id.in_(chosen), *self._is_due)
            .order_by(table.attempts, table.due_at)
            .with_for_update(skip_locked=True)
        )
        taken = (
            update(table)
            .where(table.id.in_(due.scalar_subquery()))
            .values(attempts=table.attempts + 1, due_at=func.now() + timedelta(seconds=lease_seconds))
            .returning(*map(self._column, fields(self._delivery)))
            .execution_options(synchronize_session=False)
        )
        return [self._delivery(**row._asdict()) for row in session.execute(taken)] if chosen else []

    def _column(self, field: Any) -> ColumnElement[Any]:
        if field.name == "attempt":
            return self._table.attempts.label("attempt")
        column = self._receiver if field.name == "receiver" else getattr(self._table, field.name)
        labelled: ColumnElement[Any] = column.label(field.name)
        return labelled

    def _select_deliveries(self, session: Session, places: int, held: Collection[tuple[str, str]]) -> list[uuid.UUID]:
        """Select deliveries among those that are due: first of each tenant, then second of each, up to the places.

        A receiver may hold one more place of its tenant, and a tenant one more of all, while it holds fewer than are
        free. So receivers that do not answer leave room for the others.
        """
        of_receiver, of_tenant = Counter(held), Counter(tenant for tenant, _ in held)
        free, chosen = places - len(held), []
        full_receivers = [each for each, count in of_receiver.items() if count >= self.places_of_receiver]
        full_tenants = [tenant for tenant, count in of_tenant.items() if count >= PLACES_OF_TENANT]
        for id_, tenant, receiver in session.execute(self._candidates(full_receivers, full_tenants, max(0, free))):
            most = min(PLACES_OF_TENANT, max(1, free))
            there = of_receiver[tenant, receiver]
            if free > 0 and of_tenant[tenant] < most and there < self.places_of_receiver:
                chosen.append(id_)
                free -= 1
                of_tenant[tenant] += 1
                of_receiver[tenant, receiver] += 1
        return chosen

    def _candidates(self, full_receivers: list[tuple[str, str]], full_tenants: list[str], free: int) -> Select[Any]:
        """The first due deliveries of each tenant and receiver that may have more; those that time out come last."""
        table = self._table
        order = (table.attempts, table.due_at)
        turn = func.row_number().over(partition_by=(table.tenant, self._receiver), order_by=order).label("turn")
        columns = (table.id, table.tenant, self._receiver.label("receiver"), table.attempts, table.due_at)
        due = (
            select(*columns, turn)
            .where(
                *self._is_due,
                table.tenant.not_in(full_tenants),
                tuple_(table.tenant, self._receiver).not_in(full_receivers),
            )
            .subquery()
        )
        rank = func.row_number().over(partition_by=due.c.tenant, order_by=(due.c.attempts, due.c.due_at)).label("rank")
        first = select(due, rank).where(due.c.turn <= self.places_of_receiver).subquery()
        query = select(first.c.id, first.c.tenant, first.c.receiver).where(first.c.rank <= PLACES_OF_TENANT)
        return query.order_by(first.c.rank, first.c.attempts, first.c.due_at).limit(PLACES_OF_TENANT * free)

    def renew(self, session: Session, delivery: Taken, lease_seconds: float) -> bool:
        """Renew the lease of an attempt that goes on. False: it is another's by now, or the job was deleted."""
        due_at = func.now() + timedelta(seconds=lease_seconds)
        return self._change(session, delivery, {"due_at": due_at})

    def settle(
        self, session: Session, delivery: Taken, error: str | None, retry_seconds: float
    ) -> DeliveryState | None:
        """Record the outcome of an attempt; None when a later attempt has taken over, or the job was deleted."""
        state = self._state_after(delivery, error)
        values: dict[str, Any] = {"state": state, "error": error}
        if state is DeliveryState.DELIVERED:
            values |= {"delivered_at": func.now()}
        elif state is DeliveryState.PENDING:
            values |= {"due_at": func.now() + timedelta(seconds=self._pause(delivery, retry_seconds))}
        if not self._change(session, delivery, values):
            return None
        counters.add(session, self._counter, "retried" if state is DeliveryState.PENDING else state)
        return state

    def _change(self, session: Session, delivery: Taken, values: dict[str, Any]) -> bool:
        """Change the row as long as it is this attempt's; whether it was."""
        table = self._table
        mine = (table.id == delivery.id, table.attempts == delivery.attempt, table.state == DeliveryState.PENDING)
        query = update(table).where(*mine).values(values).returning(table.id)
        return session.scalar(query.execution_options(synchronize_session=False)) is not None

    def _pause(self, delivery: Taken, retry_seconds: float) -> float:
        # A power beyond the number of attempts that any outbox makes would overflow.
        pause: float = retry_seconds * 2 ** min(delivery.attempt - 1, 30)
        if self._longest_pause is not None:
            pause = min(pause, self._longest_pause)
        return pause * random.uniform(1, 1 + JITTER)

    def _state_after(self, delivery: Taken, error: str | None) -> DeliveryState:
        if error is None:
            return DeliveryState.DELIVERED
        if error == self._disabling_error:
            return DeliveryState.DISABLED
        return DeliveryState.FAILED if delivery.attempt >= self.most_attempts else DeliveryState.PENDING
