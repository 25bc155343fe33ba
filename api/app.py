"""The FastAPI application: routers, middleware, and background tasks with the lifetime of the process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from udig_recon.api import error_handlers as errors
from udig_recon.api.access import key_routes as keys
from udig_recon.api.access import tenant_routes as tenants
from udig_recon.api.access.audit_heads import AuditHeadSender
from udig_recon.api.comparisons import routes as comparisons
from udig_recon.api.dependencies import Context
from udig_recon.api.destinations import routes as destinations
from udig_recon.api.destinations.courier import DestinationCourier
from udig_recon.api.http import cors
from udig_recon.api.http.concurrency import ConcurrencyMiddleware
from udig_recon.api.http.middleware import AccessLogMiddleware, HeadMiddleware, TrustedHostMiddleware
from udig_recon.api.http.proxies import ProxyHeadersMiddleware, ProxyRefusalMiddleware
from udig_recon.api.jobs import events as following
from udig_recon.api.jobs import results
from udig_recon.api.jobs import routes as jobs
from udig_recon.api.openapi import documentation
from udig_recon.api.openapi.content import complete
from udig_recon.api.pages import list_routes, login_routes, static_routes
from udig_recon.api.pages import routes as pages
from udig_recon.api.scans import routes as scans
from udig_recon.api.service import OpenService, open_service
from udig_recon.api.system import health, methods, workers
from udig_recon.api.uploads import direct
from udig_recon.api.uploads import routes as uploads
from udig_recon.api.uploads.protocol import TusMiddleware
from udig_recon.api.webhooks.delivery import WebhookDispatcher
from udig_recon.worker.settings import Settings, get_settings

DESCRIPTION = """\
Post a scan, ask for a reconstruction, follow it, download the image. Errors are problem documents (RFC 9457) that say
what is wrong, where, and what would be right.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application on these settings; those of the environment when there are none."""
    service = open_service(settings or get_settings())
    app = FastAPI(
        title="uDiG Recon",
        version=version("udig-recon"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        **documentation.OPTIONS,
        # Its spans carry path and query, which may hold names of files. `AccessLogMiddleware` makes ours.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.service, app.state.context = service, service.context
    routed = (
        scans,
        uploads,
        direct,
        jobs,
        following,
        results,
        comparisons,
        destinations,
        methods,
        workers,
        keys,
        tenants,
    )
    for part in (*routed, health):
        app.include_router(part.router)
    for part in (list_routes, pages, login_routes, static_routes):
        app.include_router(part.router)
    documentation.install(app)
    errors.install(app)
    _surround(app)
    _complete_openapi(app)
    return app


def _surround(app: FastAPI) -> None:
    """Add what every request passes, the innermost first."""
    context: Context = app.state.context
    app.add_middleware(ConcurrencyMiddleware, requests=context.concurrency.requests)
    app.add_middleware(TrustedHostMiddleware, names=context.settings.names)
    if not context.settings.authenticates:
        app.add_middleware(ProxyRefusalMiddleware)
    if context.settings.origins:
        app.add_middleware(CORSMiddleware, **cors.options(context.settings.origins))
    app.add_middleware(AccessLogMiddleware, requests=context.request_metrics, auditing=context.audit)
    app.add_middleware(ProxyHeadersMiddleware, trusted=context.settings.trusted_proxies)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(TusMiddleware)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: OpenService = app.state.service
    context = service.context
    webhooks, sending = WebhookDispatcher(context.settings, context.sessions), DestinationCourier(context)
    heads = AuditHeadSender(context.settings, context.sessions, context.request_metrics.registry)
    async with service.running(webhooks.run(), sending.run(), heads.run()):
        yield


def _complete_openapi(app: FastAPI) -> None:
    generate = app.openapi
    app.openapi = lambda: complete(generate())  # type: ignore[method-assign]
