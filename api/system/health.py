"""Liveness (/healthz), readiness (/readyz) and Prometheus metrics (/metrics)."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Query, Response
from sqlalchemy.exc import SQLAlchemyError

from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.openapi.content import Content
from udig_recon.api.openapi.responses import responses
from udig_recon.api.system.metrics import CONTENT_TYPE, exposition, of_database, workers_alive
from udig_recon.api.system.schemas import HealthOut
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.database.migrate import unusable
from udig_recon.worker.jobs import queue
from udig_recon.worker.runtime import sandbox_report
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.base import StorageUnavailable

router = APIRouter(tags=["health"])
CHECK_SECONDS = 2.0  # that one of the checks may take, beside the others
METRICS_SECONDS = 4.0  # that counting in the database may take
Found = TypeVar("Found")
Check = Literal["database", "queue", "disk", "storage", "workers", "sandbox"]
_METRICS = Content.text("text/plain", '# TYPE udig_jobs gauge\nudig_jobs{status="queued"} 2.0\n')
_WRONG_CHECK = responses({}, 422, public=True)[422]  # alone: probes are not limited


@router.get("/healthz", summary="Whether the process lives", responses=responses({200: HealthOut}, public=True))
async def get_health() -> HealthOut:
    """Asks nobody else."""
    return HealthOut(status="ok", checks={})


@router.get(
    "/readyz",
    summary="Whether a job posted now would run",
    response_model=HealthOut,
    responses=responses({200: HealthOut, 503: HealthOut}, public=True) | {422: _WRONG_CHECK},
)
async def get_readiness(
    context: ContextDep,
    exclude: Annotated[
        frozenset[Check],
        Query(description="checks to leave out, such as `workers` where these are started once jobs wait"),
    ] = frozenset(),
) -> Response:
    """503 names what is missing."""
    names = [name for name in _CHECKS if name not in exclude]
    checks = dict(zip(names, await asyncio.gather(*(_run_check(context, name) for name in names)), strict=True))
    well = all(found == "ok" for name, found in checks.items() if name != "sandbox")
    body = HealthOut(status="ok" if well else "unavailable", checks=checks).model_dump_json()
    return Response(body, 200 if well else 503, {"Cache-Control": "no-store"}, "application/json")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=responses({200: _METRICS}, 503, public=True),
)
async def get_metrics(context: ContextDep) -> Response:
    """Jobs, queue, slices, failures, workers, webhooks, disk, requests. No names, no ids of jobs or scans."""
    counted = partial(of_database, context.sessions, context.settings.alive_seconds)
    metrics, queue_answers, storage_answers = await asyncio.gather(
        within(context, METRICS_SECONDS, "metrics", counted),
        within(context, CHECK_SECONDS, "queue", _queue_answers),
        within(context, CHECK_SECONDS, "storage", partial(_storage_answers, context)),
    )
    body = exposition(
        context.request_metrics,
        context.storage,
        context.settings,
        metrics,
        queue_answers=bool(queue_answers),
        storage_answers=bool(storage_answers),
    )
    return Response(body, media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})


async def _run_check(context: Context, name: Check) -> str:
    found = await within(context, CHECK_SECONDS, f"readiness of {name}", partial(_CHECKS[name], context))
    return f"no answer within {CHECK_SECONDS:g} s" if found is None else found


async def within(context: Context, seconds: float, what: str, read: Callable[[], Found]) -> Found | None:
    """What `read` finds in a thread, shared with all who ask for it meanwhile; None: it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await context.single_flight.run(what, read)
    except TimeoutError:
        return None


def _database(context: Context) -> str:
    try:
        with context.sessions() as session:
            return unusable(session.connection()) or "ok"
    except SQLAlchemyError:
        return "the database does not answer"


def _queue_answers() -> bool:
    return queue.waiting_messages() is not None


def _queue(_: Context) -> str:
    return "ok" if _queue_answers() else "the queue does not answer"


def _disk(context: Context) -> str:
    free, reserve = context.storage.free_bytes(), context.settings.disk_reserve_bytes
    return "ok" if free > reserve else f"{free} bytes are free, the reserve is {reserve}"


def _storage_answers(context: Context) -> bool:
    try:
        data_folder.folder_id(context.storage)
    except (OSError, DamagedFile):
        return False
    return True


def _storage(context: Context) -> str:
    """Whether the storage answers, and is the one of the database."""
    try:
        ours = data_folder.is_ours(context.sessions, context.storage)
    except StorageUnavailable as error:
        return str(error.strerror)
    except DamagedFile as error:
        return str(error)
    except SQLAlchemyError:
        return "unknown, for the database does not answer"
    return "ok" if ours else "this is not the storage of the database: is its share mounted, its bucket there?"


def _workers(context: Context) -> str:
    seconds = context.settings.alive_seconds
    try:
        with context.sessions() as session:
            alive = workers_alive(session, seconds)
    except SQLAlchemyError:
        return "unknown, for the database does not answer"
    return "ok" if alive else f"no worker was seen in the last {seconds:g} s"


def _sandbox(context: Context) -> str:
    """Missing parts of the sandbox are reported, but the service stays ready: REQUIRE_SANDBOX makes them an error."""
    return sandbox_report.describe(context.prober.known_missing_parts or {}) or "ok"


_CHECKS: dict[Check, Callable[[Context], str]] = {
    "database": _database,
    "queue": _queue,
    "disk": _disk,
    "storage": _storage,
    "workers": _workers,
    "sandbox": _sandbox,
}
