"""Delivery of webhooks: signed (Standard Webhooks), repeated until the receiver answers, guarded against SSRF."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import httpx2
from opentelemetry.trace import SpanKind
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook

from udig_recon.api.http.problems import Invalid
from udig_recon.api.http.threads import run_uncancelled
from udig_recon.api.webhooks import url_guard
from udig_recon.api.webhooks.url_guard import ForbiddenURL, Resolve
from udig_recon.worker.database.tables import Status
from udig_recon.worker.jobs import webhook_outbox
from udig_recon.worker.jobs.webhook_outbox import Delivery
from udig_recon.worker.settings import Settings
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)
MOST_AT_ONCE = 64  # shared among tenants and hosts: see `udig_recon.worker.jobs.webhook_outbox.take`
IMPATIENT_SECONDS = 3.0  # in place of those, for a host that has not answered
IMPATIENT_FOR_SECONDS = 300.0  # after that; then it has the full time once more
UNHEARD = "no answer"  # refused, silent or no HTTP: only the log says which


def check_webhook_url(settings: Settings, url: str | None) -> None:
    """Raise Invalid when no webhook can go to this URL."""
    if url is None:
        return
    if settings.webhook_secret is None:
        detail = "this service sends no webhooks (WEBHOOK_SECRET is not set); follow the job's events instead"
        raise Invalid.at("webhook_url", detail, found=url, expected="null")
    try:
        url_guard.check_url(url, allow_private=settings.webhook_allow_private, allowed=settings.webhook_hosts)
    except ForbiddenURL as error:
        expected = f"{'an http or' if settings.webhook_allow_private else 'a public'} https URL"
        raise Invalid.at("webhook_url", f"the URL {error}", found=url, expected=expected) from error


def payload(delivery: Delivery) -> str:
    """The body, the same in every attempt: which job ended how, and its links; nothing that a client sent."""
    job = f"/v1/jobs/{delivery.job_id}"
    status = Status(delivery.event.removeprefix("job."))
    links = {"self": job} | ({"result": f"{job}/result"} if status is Status.SUCCEEDED else {})
    data = {"job_id": str(delivery.job_id), "status": status, "links": links}
    ended_at = delivery.created_at.astimezone(UTC).isoformat()
    return json.dumps({"type": delivery.event, "timestamp": ended_at, "data": data})


def headers(delivery: Delivery, body: str, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """Id, time and signatures, one for each secret."""
    message = str(delivery.id)
    return {
        "content-type": "application/json",
        "user-agent": f"udig-recon/{version('udig-recon')}",
        "webhook-id": message,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message, now, body) for secret in secrets),
    }


class ReceiverTimeouts:
    """Time-outs by receiver (tenant and host): shorter for a while after one did not answer."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._short_until: dict[tuple[str, str], float] = {}

    def of(self, receiver: tuple[str, str]) -> float:
        """Seconds that a receiver has to answer."""
        now = self._clock()
        self._short_until = {each: until for each, until in self._short_until.items() if until > now}
        return min(IMPATIENT_SECONDS, self._seconds) if receiver in self._short_until else self._seconds

    def shorten(self, receiver: tuple[str, str]) -> None:
        """Give less time to a receiver that did not answer."""
        self._short_until[receiver] = self._clock() + IMPATIENT_FOR_SECONDS

    def restore(self, receiver: tuple[str, str]) -> None:
        """Give the full time to a receiver that has answered."""
        self._short_until.pop(receiver, None)


class WebhookDispatcher:
    """Delivers what stands in the outbox, beside the couriers of other processes."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], resolve: Resolve = url_guard.resolve_host
    ) -> None:
        self._settings, self._sessions, self._resolve = settings, sessions, resolve
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=settings.webhook_timeout_seconds,
            follow_redirects=False,
            trust_env=False,  # a proxy would look the name up anew
            limits=httpx2.Limits(max_keepalive_connections=0),  # hosts of one address do not share connections
        )
        self._held: list[tuple[str, str]] = []  # tenant and host of what is delivered now
        self._timeouts = ReceiverTimeouts(settings.webhook_timeout_seconds)

    async def run(self) -> None:
        """Deliver until cancelled, across database outages; an interrupted one is repeated when its lease expires."""
        if self._settings.webhook_secret is None:
            return
        async with self._client, asyncio.TaskGroup() as deliveries:
            while True:
                try:
                    taken = await run_uncancelled(self._take) if len(self._held) < MOST_AT_ONCE else []
                except SQLAlchemyError as error:
                    log.warning("database.unavailable", extra={"error": type(error).__name__})
                    taken = []
                for delivery in taken:
                    self._held.append((delivery.tenant, delivery.host))
                    deliveries.create_task(self._deliver(delivery))
                await asyncio.sleep(self._settings.webhook_poll_seconds)

    def _take(self) -> list[Delivery]:
        with self._sessions.begin() as session:
            lease_seconds = 2 * self._settings.webhook_timeout_seconds
            return webhook_outbox.take(session, MOST_AT_ONCE, lease_seconds, tuple(self._held))

    async def _deliver(self, delivery: Delivery) -> None:
        which: dict[str, str | int] = {"job_id": str(delivery.job_id), "webhook_id": str(delivery.id)}
        which |= {"attempt": delivery.attempt}
        try:
            with tracing.span("webhook", delivery.traceparent, which, SpanKind.CLIENT) as span:
                error = await self.attempt(delivery)
                span.set_attribute("outcome", error or "delivered")
            state = await run_uncancelled(self._settle, delivery, error)
            log.info("webhook.attempted", extra={**which, "state": state, "error": error})
        except SQLAlchemyError as away:
            log.warning("database.unavailable", extra={"error": type(away).__name__})
        finally:
            self._held.remove((delivery.tenant, delivery.host))

    def _settle(self, delivery: Delivery, error: str | None) -> str | None:
        with self._sessions.begin() as session:
            return webhook_outbox.settle(session, delivery, error, self._settings.webhook_retry_seconds)

    async def attempt(self, delivery: Delivery) -> str | None:
        """Try once; what is wrong, in words that hold nothing of the URL, or None when it was heard."""
        receiver = (delivery.tenant, delivery.host)
        seconds = self._timeouts.of(receiver)
        try:
            async with asyncio.timeout(seconds):
                status = await self._post(delivery)
        except ForbiddenURL as error:
            return f"the URL {error}"
        except (TimeoutError, httpx2.TransportError, OSError) as error:
            if seconds == self._settings.webhook_timeout_seconds:
                self._timeouts.shorten(receiver)
            log.info("webhook.unanswered", extra={"webhook_id": str(delivery.id), "cause": type(error).__name__})
            return UNHEARD
        except Exception as error:
            # An unexpected error must not stop the other deliveries.
            log.error("webhook.failed", extra={"error": type(error).__name__})
            return f"an error of the service's own ({type(error).__name__})"
        self._timeouts.restore(receiver)
        if status == 410:
            return webhook_outbox.GONE
        return None if 200 <= status < 300 else f"answered {status}"

    async def _post(self, delivery: Delivery) -> int:
        """The status of the answer, whose body nobody reads."""
        allow_private, allowed = self._settings.webhook_allow_private, self._settings.webhook_hosts
        url = url_guard.check_url(delivery.url, allow_private=allow_private, allowed=allowed)
        body = payload(delivery)
        sent = {"host": url.netloc.decode(), **self._headers(delivery, body)}
        found = await url_guard.resolve_url(url, allow_private=allow_private, resolve=self._resolve)
        # To the address that was checked: a second lookup of the name might give another.
        target = url.copy_with(host=found[0])
        sni: dict[str, Any] = {"sni_hostname": url.raw_host.decode()}
        async with self._client.stream("POST", target, content=body, headers=sent, extensions=sni) as answer:
            return answer.status_code

    def _headers(self, delivery: Delivery, body: str) -> dict[str, str]:
        secrets = webhook_outbox.signing_secrets(self._settings, delivery.tenant)
        return headers(delivery, body, secrets, datetime.now(UTC))
