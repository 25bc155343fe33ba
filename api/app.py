"""The FastAPI application: routers, middleware, and background tasks with the lifetime of the process."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from udig_recon.api import error_handlers as errors
from udig_recon.api.access import key_routes as keys
from udig_recon.api.access import tenant_routes as tenants
from udig_recon.api.access.audit import AuditRecorder
from udig_recon.api.access.audit_heads import AuditHeadSender
from udig_recon.api.comparisons import routes as comparisons
from udig_recon.api.database.async_queries import AsyncQueries
from udig_recon.api.database.notifications import NotificationListener
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import ConcurrencyMiddleware, concurrency_limits
from udig_recon.api.http.fair_queue import FairQueue
from udig_recon.api.http.middleware import AccessLogMiddleware, HeadMiddleware, TrustedHostMiddleware
from udig_recon.api.http.proxies import ProxyHeadersMiddleware, ProxyRefusalMiddleware
from udig_recon.api.http.threads import LimitedThreadPool
from udig_recon.api.jobs import events as following
from udig_recon.api.jobs import results
from udig_recon.api.jobs import routes as jobs
from udig_recon.api.openapi import documentation
from udig_recon.api.openapi.content import complete
from udig_recon.api.scans import routes as scans
from udig_recon.api.system import health, methods
from udig_recon.api.system.metrics import RequestMetrics
from udig_recon.api.webhooks.delivery import WebhookDispatcher
from udig_recon.core.formats import Prober
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.jobs.queue import make_celery
from udig_recon.worker.settings import Settings, get_settings
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.data_folder import ForeignFolder

log = logging.getLogger(__name__)
CONFIRM_SECONDS = 2.0
CONNECTIONS = 10  # to the database, of threads; when all are in use as many more
READING = 10  # of the event loop
PROBES = 3  # scans looked into at once; one client alone has two
FILES = 2  # scans written, kept or deleted at once; more would take the lock of the interpreter from the event loop
DESCRIPTION = """\
Post a scan, ask for a reconstruction, follow it, download the image. Errors are problem documents (RFC 9457) that say
what is wrong, where, and what would be right.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application on these settings; those of the environment when there are none."""
    settings = settings or get_settings()
    if settings.database_url is None or settings.redis_url is None:
        missing = "DATABASE_URL" if settings.database_url is None else "REDIS_URL"
        raise SystemExit(f"error: {missing} is not set; `udig serve` starts a server of its own")
    app = FastAPI(
        title="uDiG Recon",
        version=version("udig-recon"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        **documentation.OPTIONS,
        # Its spans carry path and query, which may hold names of files. `AccessLogMiddleware` makes ours.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    engine = make_engine(settings.database_url, CONNECTIONS, patient=False)
    sessions = make_sessions(engine)
    app.state.context = Context(
        settings=settings,
        sessions=sessions,
        queries=AsyncQueries(settings.database_url, READING),
        storage=open_storage(settings),
        notifications=NotificationListener(settings.database_url),
        request_metrics=RequestMetrics(),
        audit=AuditRecorder(sessions),
        concurrency=concurrency_limits(settings),
        prober=Prober(),
        probe_queue=FairQueue(PROBES),
        file_threads=LimitedThreadPool(FILES),
    )
    app.state.confirmed = data_folder.confirm_at(settings.database_url, app.state.context.storage)
    app.state.engine, app.state.celery = engine, make_celery(settings)
    for part in (scans, jobs, following, results, comparisons, methods, keys, tenants, health):
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
    app.add_middleware(AccessLogMiddleware, requests=context.request_metrics, auditing=context.audit)
    app.add_middleware(ProxyHeadersMiddleware, trusted=context.settings.trusted_proxies)
    app.add_middleware(HeadMiddleware)


async def _end_in_a_foreign_folder(context: Context) -> None:
    """Ask again for a database that did not answer when the process began."""
    while True:
        try:
            if await run_in_threadpool(data_folder.confirm, context.sessions, context.storage):
                return
        except ForeignFolder as error:
            log.error("data_folder.mismatched", extra={"error": str(error)})
            os.kill(os.getpid(), signal.SIGTERM)
            return
        await asyncio.sleep(CONFIRM_SECONDS)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    context: Context = app.state.context
    courier = WebhookDispatcher(context.settings, context.sessions)
    heads = AuditHeadSender(context.settings, context.sessions, context.request_metrics.registry)
    tasks = [context.notifications.run(), courier.run(), context.audit.run(), heads.run()]
    tasks += [] if app.state.confirmed else [_end_in_a_foreign_folder(context)]
    beside = [asyncio.create_task(task) for task in tasks]
    try:
        yield
    finally:
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        context.prober.close()
        context.publisher.close()
        app.state.celery.close()
        app.state.engine.dispose()
        await context.queries.close()


def _complete_openapi(app: FastAPI) -> None:
    generate = app.openapi
    app.openapi = lambda: complete(generate())  # type: ignore[method-assign]
