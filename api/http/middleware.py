"""ASGI middleware: HEAD as GET, trusted hosts, security headers, and an access log with counts and spans."""

import logging
import time
import uuid
from collections.abc import Collection
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udig_recon.api.access.audit import REFUSALS, AuditRecorder
from udig_recon.api.http.concurrency import ALWAYS_ANSWERED
from udig_recon.api.http.problems import Misdirected, truncate
from udig_recon.api.http.repeated_events import EventDeduplicator
from udig_recon.api.system.metrics import RequestMetrics
from udig_recon.worker.settings import is_loopback
from udig_recon.worker.telemetry import tracing

log = logging.getLogger("udig_recon.api.requests")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a form would send `Origin: null`
}
"""Of pages, which load nothing from other hosts and hold no script and no style of their own."""


class HeadMiddleware:
    """Routes HEAD as GET and leaves the body out; `scope["head"]` tells an answer that none is needed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_bodyless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET", "head": True}, receive, send_bodyless)


class TrustedHostMiddleware:
    """Answers requests whose Host is one of these names or a loopback one; None: any name.

    This stops DNS rebinding: a page that a browser of this machine shows could resolve its own name to this service.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        host = Headers(scope=scope).get("host") if scope["type"] == "http" else None
        if host is None or self._is_ours(host):
            await self.app(scope, receive, send)
            return
        expected = " | ".join(["localhost", "127.0.0.1", *sorted(self.names or ())])
        detail = f"this service is not called {truncate(host)}; its setting ALLOWED_HOSTS may name it"
        problem = Misdirected.at("Host", detail, found=host, expected=expected)
        await problem.response(scope["path"])(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        if self.names is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # brackets that hold no address
            return False
        return name in self.names or is_loopback(name)


class AccessLogMiddleware:
    """Adds the security headers, counts requests by route, traces posts, logs one line without query or body."""

    def __init__(self, app: ASGIApp, requests: RequestMetrics, auditing: AuditRecorder) -> None:
        self.app = app
        self.requests, self.auditing = requests, auditing
        self._refusals: EventDeduplicator[tuple[object, ...]] = EventDeduplicator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500  # unless an answer begins
        scope.setdefault("state", {})

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                for name, value in (SECURITY_HEADERS | PAGE_HEADERS if is_page else SECURITY_HEADERS).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if scope["method"] != "POST":
                await self.app(scope, receive, send_observed)
                return
            sender = Headers(scope=scope).get("traceparent")
            with tracing.span("POST", sender, kind=SpanKind.SERVER) as span:
                await self.app(scope, receive, send_observed)
                span.update_name(f"POST {_route(scope)}")
                span.set_attribute("http.response.status_code", status)
        finally:
            self._account(scope, status, time.perf_counter() - started)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        """Count the answer, and tell of it: every refusal of a kind but the first together, health at no time."""
        method = "HEAD" if scope.get("head") else scope["method"]
        method = method if method in METHODS else "other"
        route = _route(scope)
        self.requests.count(method, route, status, seconds)
        caller = scope["state"].get("caller")
        key_id = None if caller is None or caller.key is None else str(caller.key.id)
        self.auditing.record_answer(caller.who if key_id else None, route, method, status, scope.get("path_params", {}))
        answered = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
        entry = (
            answered
            | _job(scope)
            | {"client": (scope.get("client") or ("",))[0]}
            | ({"key_id": key_id} if key_id else {})
        )
        if route in ALWAYS_ANSWERED and status < 400:
            log.debug("request.answered", extra=entry)
        elif status not in REFUSALS or self._refusals.is_first((entry["client"], key_id, method, route, status)):
            log.info("request.answered", extra=entry)
        for (client, key, *what), count, _ in self._refusals.due():
            kind = dict(zip(("method", "route", "status"), what, strict=True))
            log.info("requests.rejected", extra={**kind, "client": client, "key_id": key, "count": count})


def _route(scope: Scope) -> str:
    """The template, never the path or the query: they may carry what a client knows of a patient."""
    return getattr(scope.get("route"), "path", "none")


def _job(scope: Scope) -> dict[str, str]:
    """The job that a request is about, where its path names one."""
    try:
        return {"job_id": str(uuid.UUID(scope["path_params"]["job_id"]))}
    except (KeyError, ValueError):
        return {}
