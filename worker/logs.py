"""One JSON object a line on standard error, with the job that is being worked on."""

import logging
import sys

import structlog

from worker.tracing import add_trace_id

SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    add_trace_id,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(**bound: str) -> None:
    """Send what all loggers say through one formatter; `bound` stands in every line."""
    structlog.contextvars.bind_contextvars(**bound)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("celery", "kombu", "alembic", "amqp", "httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
