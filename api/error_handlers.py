"""Exception handlers: every exception of a request becomes a problem document."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from udig_recon.api.http.problems import (
    Conflict,
    DiskFull,
    Invalid,
    MethodNotAllowed,
    NotFound,
    OutcomeUnknown,
    Problem,
    QuotaExceeded,
    TooManyJobs,
    Unavailable,
)
from udig_recon.api.http.validation_errors import problem_of_engine, problem_of_validation
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.worker.access.admission import JobError, TooManyOpenJobs
from udig_recon.worker.access.quotas import QuotaReached
from udig_recon.worker.database.engine import AWAY, CommitUnknown, has_no_room
from udig_recon.worker.jobs.state import UnknownJob
from udig_recon.worker.storage.base import StorageUnavailable, is_full

log = logging.getLogger(__name__)


def problem_of(error: Exception, *, repeatable: bool = False) -> Problem:
    """The problem that a client is told of; `repeatable`: the request may be sent twice and has the effect of one."""
    match error:
        case Problem():
            return error
        case ReconstructionError():
            return problem_of_engine(error)
        case RequestValidationError():
            return problem_of_validation(error)
        case QuotaReached():
            return QuotaExceeded(str(error), headers={"Retry-After": str(error.retry_after)})
        case TooManyOpenJobs():
            return TooManyJobs(str(error))
        case UnknownJob():
            return NotFound(f"{error}; GET /v1/jobs lists those there are")
        case JobError():
            return Conflict(str(error))
        case ReaderLost():
            log.error("readers.unavailable")
            return Unavailable("the processes that read scans are killed again and again; send the scan again later")
        case CommitUnknown() if not repeatable:
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            return OutcomeUnknown(
                "the database stopped answering while the request took effect; look whether it did before sending it "
                "again (with an Idempotency-Key it could be sent again at once)"
            )
        case _ if has_no_room(error):
            return DiskFull("the disk of the database is full; free some space or ask for it")
        case _ if isinstance(error, AWAY):
            log.warning("database.unavailable", extra={"error": type(error).__name__})
            return Unavailable("the database does not answer; the same request may be sent again")
        case StorageUnavailable():
            return Unavailable("the storage does not answer; the same request may be sent again")
        case _ if is_full(error):
            return DiskFull("the disk is full; free some space or ask for it")
        case OSError():
            log.error("storage.failed", exc_info=error)
            return Problem("the service could not use its files; its log says more")
        case _:
            return Problem("the service met an error of its own; its log says more")


def _repeatable(request: Request) -> bool:
    """Whether the same request may be sent twice and has the effect of one."""
    return request.method != "POST" or "idempotency-key" in request.headers or request.url.path == "/v1/scans"


async def _respond(request: Request, error: Exception) -> Response:
    return problem_of(error, repeatable=_repeatable(request)).response(request.url.path)


async def _routing(request: Request, error: Exception) -> Response:
    """404 and 405 of the router itself, with every method that the path has."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path
    if status == 404:
        return NotFound(f"there is no {path}; /docs lists what there is").response(path)
    if status == 405:
        allowed = _methods_of(request)
        problem = MethodNotAllowed.at(
            "method", f"{path} is not for {request.method}", found=request.method, expected=" | ".join(allowed)
        )
        problem.headers["Allow"] = ", ".join(allowed)
        return problem.response(path)
    return Invalid(str(error)).response(path) if status < 500 else Problem(str(error)).response(path)


def _methods_of(request: Request) -> list[str]:
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(request.url.path):
            methods |= route.methods
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _client_closed_request(*_: Any) -> Response:
    """The client went away: nobody reads this."""
    return Response(status_code=408)


def install(app: FastAPI) -> None:
    """Answer every exception of the application with a problem document."""
    for kind in (
        Problem,
        ReconstructionError,
        RequestValidationError,
        JobError,
        QuotaReached,
        *AWAY,
        ReaderLost,
        OSError,
        Exception,
    ):
        app.add_exception_handler(kind, _respond)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(ClientDisconnect, _client_closed_request)
