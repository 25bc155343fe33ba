"""Webhook outbox: deliveries that are due, taken under a lease, and their outcome. A trigger inserts them."""

import base64
import hmac
import random
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, tuple_, update
from sqlalchemy.orm import Session

from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import DeliveryState, Job, WebhookDelivery
from udig_recon.worker.settings import Settings

MOST_ATTEMPTS = 15  # with a first pause of 5 s the last one is about a day after the first
JITTER = 0.25
GONE = "answered 410 Gone"
MARK = "whsec_"  # of a secret, by the standard
PLACES_OF_TENANT = 8  # deliveries of one tenant that a process makes at once
PLACES_OF_HOST = 4  # of them to one host
_HOST = func.lower(func.substring(WebhookDelivery.url, r"^[A-Za-z]+://(\[[^]]*\]|[^/?#:]+)"))
_IS_DUE = (WebhookDelivery.state == DeliveryState.PENDING, WebhookDelivery.due_at <= func.now())


@dataclass(frozen=True)
class Delivery:
    """One attempt to deliver a webhook."""

    id: uuid.UUID
    job_id: uuid.UUID
    url: str
    event: str
    attempt: int
    created_at: datetime
    traceparent: str | None
    tenant: str
    host: str = ""


def signing_secrets(settings: Settings, tenant: str) -> list[str]:
    """Secrets that sign a tenant's webhooks, one for each secret of the service; none where it sends no webhooks.

    A receiver that can verify a signature can also make one, so the receivers of each tenant have their own secrets.
    """
    given = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    # Padding may be left out, and too much of it does no harm.
    keys = (base64.b64decode(secret.removeprefix(MARK) + "==") for secret in given.split())
    derived = (hmac.digest(key, f"webhooks of {tenant}".encode(), "sha256") for key in keys)
    return [MARK + base64.b64encode(each).decode() for each in derived]


def take(session: Session, places: int, lease_seconds: float, held: Collection[tuple[str, str]] = ()) -> list[Delivery]:
    """Take deliveries that are due, for this process until the lease ends; then another may try, with the same id.

    `held` holds tenant and host of the deliveries in progress, in some of the `places` of this process.
    """
    _drop_for_disabled(session)
    chosen = _select_deliveries(session, places, held)
    due = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.id.in_(chosen), *_IS_DUE)
        .order_by(WebhookDelivery.attempts, WebhookDelivery.due_at)
        .with_for_update(skip_locked=True)
    )
    taken = (
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(due.scalar_subquery()), Job.id == WebhookDelivery.job_id)
        .values(attempts=WebhookDelivery.attempts + 1, due_at=func.now() + timedelta(seconds=lease_seconds))
        .returning(
            WebhookDelivery.id,
            WebhookDelivery.job_id,
            WebhookDelivery.url,
            WebhookDelivery.event,
            WebhookDelivery.attempts.label("attempt"),
            WebhookDelivery.created_at,
            Job.traceparent,
            Job.tenant,
            _HOST.label("host"),
        )
        .execution_options(synchronize_session=False)
    )
    return [Delivery(**row._asdict()) for row in session.execute(taken)] if chosen else []


def _select_deliveries(session: Session, places: int, held: Collection[tuple[str, str]]) -> list[uuid.UUID]:
    """Select deliveries among those that are due: the first of each tenant, then the second of each, up to the places.

    A receiver may hold one more place of its tenant, and a tenant one more of all, while it holds fewer than are free.
    So receivers that do not answer leave room for the others.
    """
    of_host, of_tenant = Counter(held), Counter(tenant for tenant, _ in held)
    free, chosen = places - len(held), []
    full_hosts = [each for each, count in of_host.items() if count >= PLACES_OF_HOST]
    full_tenants = [tenant for tenant, count in of_tenant.items() if count >= PLACES_OF_TENANT]
    for id_, tenant, host in session.execute(_candidates(full_hosts, full_tenants, max(0, free))):
        most = min(PLACES_OF_TENANT, max(1, free))
        if free > 0 and of_tenant[tenant] < most and of_host[tenant, host] < PLACES_OF_HOST:
            chosen.append(id_)
            free -= 1
            of_tenant[tenant] += 1
            of_host[tenant, host] += 1
    return chosen


def _candidates(full_hosts: list[tuple[str, str]], full_tenants: list[str], free: int) -> Select[Any]:
    """The first due deliveries of each tenant and host that may have more; receivers that time out come last."""
    order = (WebhookDelivery.attempts, WebhookDelivery.due_at)
    turn = func.row_number().over(partition_by=(Job.tenant, _HOST), order_by=order).label("turn")
    columns = (WebhookDelivery.id, Job.tenant, _HOST.label("host"), WebhookDelivery.attempts, WebhookDelivery.due_at)
    due = (
        select(*columns, turn)
        .join(Job)
        .where(*_IS_DUE, Job.tenant.not_in(full_tenants), tuple_(Job.tenant, _HOST).not_in(full_hosts))
        .subquery()
    )
    rank = func.row_number().over(partition_by=due.c.tenant, order_by=(due.c.attempts, due.c.due_at)).label("rank")
    first = select(due, rank).where(due.c.turn <= PLACES_OF_HOST).subquery()
    query = select(first.c.id, first.c.tenant, first.c.host).where(first.c.rank <= PLACES_OF_TENANT)
    return query.order_by(first.c.rank, first.c.attempts, first.c.due_at).limit(PLACES_OF_TENANT * free)


def _drop_for_disabled(session: Session) -> None:
    disabled = select(WebhookDelivery.url, Job.tenant).join(Job).where(WebhookDelivery.state == DeliveryState.DISABLED)
    query = (
        update(WebhookDelivery)
        .where(WebhookDelivery.state == DeliveryState.PENDING, Job.id == WebhookDelivery.job_id)
        .where(tuple_(WebhookDelivery.url, Job.tenant).in_(disabled))
        .values(state=DeliveryState.DISABLED, error=f"an earlier webhook to this URL was {GONE}")
    )
    session.execute(query.execution_options(synchronize_session=False))


def settle(session: Session, delivery: Delivery, error: str | None, retry_seconds: float) -> DeliveryState | None:
    """Record the outcome of an attempt; None when a later attempt has taken over, or the job was deleted."""
    state = _state_after(delivery, error)
    values: dict[str, Any] = {"state": state, "error": error}
    if state is DeliveryState.DELIVERED:
        values |= {"delivered_at": func.now()}
    elif state is DeliveryState.PENDING:
        pause = retry_seconds * 2 ** (delivery.attempt - 1) * random.uniform(1, 1 + JITTER)
        values |= {"due_at": func.now() + timedelta(seconds=pause)}
    mine = (WebhookDelivery.id == delivery.id, WebhookDelivery.attempts == delivery.attempt)
    query = update(WebhookDelivery).where(*mine, WebhookDelivery.state == DeliveryState.PENDING).values(values)
    settled = session.scalar(query.returning(WebhookDelivery.id).execution_options(synchronize_session=False))
    if settled is None:
        return None
    counters.add(session, "webhooks", "retried" if state is DeliveryState.PENDING else state)
    return state


def _state_after(delivery: Delivery, error: str | None) -> DeliveryState:
    if error is None:
        return DeliveryState.DELIVERED
    if error == GONE:
        return DeliveryState.DISABLED
    return DeliveryState.FAILED if delivery.attempt >= MOST_ATTEMPTS else DeliveryState.PENDING
