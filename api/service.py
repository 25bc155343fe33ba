"""The parts of the service that a process with a door of its own works with: the HTTP API, and the MRD stream."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.audit import AuditRecorder
from udig_recon.api.database.async_queries import AsyncQueries
from udig_recon.api.database.notifications import NotificationListener
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import concurrency_limits
from udig_recon.api.http.fair_queue import FairQueue
from udig_recon.api.http.threads import LimitedThreadPool
from udig_recon.api.system.metrics import RequestMetrics
from udig_recon.core.formats import Prober
from udig_recon.worker.access.destinations import parse_destinations
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.jobs.queue import make_celery
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.data_folder import ForeignFolder
from udig_recon.worker.storage.orphans import delete_leftovers

log = logging.getLogger(__name__)
CONFIRM_SECONDS = 2.0
CONNECTIONS = 10  # to the database, of threads; when all are in use as many more
READING = 10  # of the event loop
PROBES = 3  # scans looked into at once; one client alone has two
FILES = 2  # scans written, kept or deleted at once; more would take the lock of the interpreter from the event loop


@dataclass(frozen=True)
class OpenService:
    """The context of a process, and what has to be closed when it ends."""

    context: Context
    engine: Engine
    celery: Celery
    confirmed: bool  # that the data folder is the one of the database, which may not have answered yet

    @asynccontextmanager
    async def running(self, *beside: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Run what the process does beside its answers, and at the end close everything."""
        context = self.context
        tasks = [context.notifications.run(), context.audit.run(), *beside]
        if context.storage.local_scratch:
            tasks.append(_delete_leftovers(context))
        tasks += [] if self.confirmed else [_end_in_a_foreign_folder(context)]
        running = [asyncio.create_task(task) for task in tasks]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            context.prober.close()
            context.publisher.close()
            self.celery.close()
            self.engine.dispose()
            await context.queries.close()


def open_service(settings: Settings) -> OpenService:
    """The parts of the service on these settings. Raises SystemExit with one line where a server is not named."""
    if settings.database_url is None or settings.redis_url is None:
        missing = "DATABASE_URL" if settings.database_url is None else "REDIS_URL"
        raise SystemExit(f"error: {missing} is not set; `udig serve` starts a server of its own")
    engine = make_engine(settings.database_url, CONNECTIONS, patient=False)
    sessions = make_sessions(engine)
    context = Context(
        settings=settings,
        sessions=sessions,
        queries=AsyncQueries(settings.database_url, READING),
        storage=open_storage(settings),
        notifications=NotificationListener(settings.direct_database_url or settings.database_url),
        request_metrics=RequestMetrics(),
        audit=AuditRecorder(sessions),
        concurrency=concurrency_limits(settings),
        prober=Prober(),
        probe_queue=FairQueue(PROBES),
        file_threads=LimitedThreadPool(FILES),
        destinations=parse_destinations(settings.destinations or ""),
    )
    confirmed = data_folder.confirm_at(settings.database_url, context.storage)
    return OpenService(context, engine, make_celery(settings), confirmed)


async def _delete_leftovers(context: Context) -> None:
    """Delete what was left of uploads, fetches and scratch files of this machine, as workers do on theirs."""
    seconds = context.settings.orphan_seconds
    while True:
        await asyncio.sleep(seconds)
        try:
            await context.file_threads.run(delete_leftovers, context.sessions, context.storage, seconds)
        except (*AWAY, OSError) as error:
            log.warning("cleanup.failed", extra={"error": type(error).__name__})


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
