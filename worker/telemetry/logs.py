"""Structured logs on standard error: plain lines on a terminal, else JSON objects, with the ids of the current job."""

import logging
import os
import sys
import traceback
from datetime import datetime

import structlog

from udig_recon.worker.telemetry.tracing import add_trace_id

SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    add_trace_id,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _remove_message(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The traceback and class of an exception without its message, which may quote a scan and so a patient."""
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "".join(traceback.format_tb(error.__traceback__)) + _kinds(error)
    return event


def _kinds(error: BaseException) -> str:
    """The classes of an exception and of its causes; of an OSError also its text."""
    told = type(error).__name__ + (f": {error.strerror}" if isinstance(error, OSError) else "")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told if cause is None else f"{told}, after {_kinds(cause)}"


def configure(**bound: str) -> None:
    """Configure all loggers to use one formatter; every line has the values of `bound`."""
    structlog.contextvars.bind_contextvars(**bound)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(for_people=sys.stderr.isatty()))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("celery", "kombu", "alembic", "amqp", "httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def formatter(*, for_people: bool) -> logging.Formatter:
    """One line of text an event, or one JSON object."""
    rendered: list[structlog.typing.Processor] = [structlog.processors.JSONRenderer()]
    if for_people:
        rendered = [_for_people, structlog.dev.ConsoleRenderer(colors=not os.environ.get("NO_COLOR"))]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _remove_message, *rendered],
    )


def _for_people(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Local time without a date, and no trace id."""
    event.pop("trace_id", None)
    event["timestamp"] = datetime.fromisoformat(event["timestamp"]).astimezone().strftime("%H:%M:%S")
    return event
