"""Webhook outbox: webhooks that are due, and the secrets that sign them."""

import base64
import hmac
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.orm import Session

from udig_recon.worker.database.tables import DeliveryState, WebhookDelivery
from udig_recon.worker.jobs import outbox
from udig_recon.worker.jobs.outbox import Outbox
from udig_recon.worker.settings import Settings

STARTED = "job.started"
ENDS = ("job.succeeded", "job.failed", "job.cancelled")
EVENTS = (STARTED, *ENDS)
"""Events of a job; a comparison has the same ends, `comparison.succeeded` and so on."""

GONE = "answered 410 Gone"
MARK = "whsec_"  # of a secret, by the standard
_HOST = func.lower(func.substring(WebhookDelivery.url, r"^[A-Za-z]+://(\[[^]]*\]|[^/?#:]+)"))


@dataclass(frozen=True, kw_only=True)
class Delivery(outbox.Delivery):
    """One attempt to deliver a webhook; its receiver is a host."""

    url: str
    event: str
    job_id: uuid.UUID | None = None
    comparison_id: uuid.UUID | None = None
    data: dict[str, Any] | None = None  # tags, and of a job its scan and rating; None: an older version filed it


class WebhookOutbox(Outbox[Delivery]):
    """Webhooks. A receiver that has answered 410 gets nothing more."""

    def take(
        self, session: Session, places: int, lease_seconds: float, held: Collection[tuple[str, str]] = ()
    ) -> list[Delivery]:
        """Take webhooks that are due, once those to receivers that want no more are dropped."""
        disabled = select(WebhookDelivery.url, WebhookDelivery.tenant).where(
            WebhookDelivery.state == DeliveryState.DISABLED
        )
        query = (
            update(WebhookDelivery)
            .where(WebhookDelivery.state == DeliveryState.PENDING)
            .where(tuple_(WebhookDelivery.url, WebhookDelivery.tenant).in_(disabled))
            .values(state=DeliveryState.DISABLED, error=f"an earlier webhook to this URL was {GONE}")
        )
        session.execute(query.execution_options(synchronize_session=False))
        return super().take(session, places, lease_seconds, held)


WEBHOOKS = WebhookOutbox(
    WebhookDelivery,
    Delivery,
    _HOST,
    counter="webhooks",
    most_attempts=15,  # with a first pause of 5 s the last one is about a day after the first
    places_of_receiver=4,
    disabling_error=GONE,
)


def signing_secrets(settings: Settings, tenant: str) -> list[str]:
    """Secrets that sign a tenant's webhooks, one for each secret of the service; none where it sends no webhooks.

    A receiver that can verify a signature can also make one, so the receivers of each tenant have their own secrets.
    """
    given = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    # Padding may be left out, and too much of it does no harm.
    keys = (base64.b64decode(secret.removeprefix(MARK) + "==") for secret in given.split())
    derived = (hmac.digest(key, f"webhooks of {tenant}".encode(), "sha256") for key in keys)
    return [MARK + base64.b64encode(each).decode() for each in derived]
