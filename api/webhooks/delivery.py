"""Delivery of webhooks: signed (Standard Webhooks), repeated until the receiver answers, guarded against SSRF."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import httpx2
from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook

from udig_recon.api.courier import Courier
from udig_recon.api.http.problems import Invalid
from udig_recon.api.webhooks import url_guard
from udig_recon.api.webhooks.url_guard import ForbiddenURL, Resolve
from udig_recon.worker.database.tables import Status
from udig_recon.worker.jobs import webhook_outbox
from udig_recon.worker.jobs.webhook_outbox import STARTED, WEBHOOKS, Delivery
from udig_recon.worker.settings import Settings

log = logging.getLogger(__name__)
MOST_AT_ONCE = 64
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
    """The body, the same in every attempt: what started or ended, how, its tags, and of a job its scan and rating."""
    subject, _, ending = delivery.event.partition(".")
    status = Status.RUNNING if delivery.event == STARTED else Status(ending)
    told = delivery.data or {}
    if subject == "job":
        root = f"/v1/jobs/{delivery.job_id}"
        own = {"job_id": str(delivery.job_id), "scan_id": told.get("scan_id"), "rating": told.get("rating")}
        links = {"result": f"{root}/result"} if status is Status.SUCCEEDED else {}
    else:
        root = f"/v1/comparisons/{delivery.comparison_id}"
        own = {"comparison_id": str(delivery.comparison_id)}
        links = {name: f"{root}/{name}" for name in ("table", "ranking", "panel.png")}
    data = {**own, "status": status, "tags": told.get("tags") or {}, "links": {"self": root, **links}}
    happened_at = delivery.created_at.astimezone(UTC).isoformat()
    return json.dumps({"type": delivery.event, "timestamp": happened_at, "data": data})


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


class WebhookDispatcher(Courier[Delivery]):
    """Delivers webhooks."""

    name = "webhook"

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], resolve: Resolve = url_guard.resolve_host
    ) -> None:
        super().__init__(
            sessions,
            WEBHOOKS,
            most_at_once=MOST_AT_ONCE,
            lease_seconds=2 * settings.webhook_timeout_seconds,
            poll_seconds=settings.webhook_poll_seconds,
            retry_seconds=settings.webhook_retry_seconds,
        )
        self._settings, self._resolve = settings, resolve
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(),
            timeout=settings.webhook_timeout_seconds,
            follow_redirects=False,
            trust_env=False,  # a proxy would look the name up anew
            limits=httpx2.Limits(max_keepalive_connections=0),  # hosts of one address do not share connections
        )
        self._timeouts = ReceiverTimeouts(settings.webhook_timeout_seconds)

    async def run(self) -> None:
        """Deliver until cancelled, where webhooks are sent at all."""
        if self._settings.webhook_secret is not None:
            async with self._client:
                await self.deliver()

    def ids(self, delivery: Delivery) -> Mapping[str, str]:
        """The webhook and its job or comparison."""
        of_job, of_comparison = delivery.job_id, delivery.comparison_id
        subject = {"comparison_id": str(of_comparison)} if of_job is None else {"job_id": str(of_job)}
        return {**subject, "webhook_id": str(delivery.id)}

    async def attempt(self, delivery: Delivery) -> str | None:
        """Try once; what is wrong, in words that hold nothing of the URL, or None when it was heard."""
        receiver = (delivery.tenant, delivery.receiver)
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
