"""Message queue: Celery on Redis carries ids of slices and wakes workers; the database holds the state of jobs."""

import logging
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, current_app
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from udig_recon.worker.settings import Settings

log = logging.getLogger(__name__)
AWAY = (OperationalError, RedisError, OSError)
"""Errors of a queue that does not answer."""
QUEUE = "slices"
TASK = "udig.reconstruct"
VISIBILITY_SECONDS = 7200  # a message that is delivered twice does no harm: the second finds no slice to claim


MOST_PAUSE_SECONDS = 3.0  # between two tries to reach a queue that is away
FOUND_DEAD = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 5,
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 10_000,  # milliseconds
    }.items()
    if hasattr(socket, name)
}
"""A connection that died without a word is found out within 11 s, as those to Postgres are."""
TRANSPORT: dict[str, Any] = {
    "visibility_timeout": VISIBILITY_SECONDS,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,  # a worker asks for a second at a time
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "socket_keepalive_options": FOUND_DEAD,
    "health_check_interval": 25,
    # For publishing: one try; then the sweep sends the message.
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}
PUBLISH_SECONDS = 1.0  # within which the queue must answer a publisher
PUBLISHING = {"socket_timeout": PUBLISH_SECONDS, "socket_connect_timeout": PUBLISH_SECONDS}
CONFIGURATION: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    # A message is acknowledged when its slice has ended; the database decides whether the slice is tried again.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure": True,
    "task_acks_on_timeout": True,
    "task_default_queue": QUEUE,
    "task_publish_retry": False,
    "worker_prefetch_multiplier": 1,
    "worker_concurrency": 1,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "visibility_timeout": VISIBILITY_SECONDS,
    "broker_connection_timeout": 5,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
}


class QueueConnection(Connection):
    """One that tries again every few seconds: Celery's pauses grow to 32 s, however soon the queue is back."""

    def ensure_connection(self, *arguments: Any, **named: Any) -> Any:
        """Connect, after pauses of at most MOST_PAUSE_SECONDS."""
        return super().ensure_connection(*arguments, **{"interval_max": MOST_PAUSE_SECONDS, **named})  # type: ignore[no-untyped-call]


def make_celery(settings: Settings) -> Celery:
    """The process's Celery application on the settings' Redis; connects when it is used."""
    if settings.redis_url is None:
        raise ValueError("REDIS_URL is not set; `udig serve` starts a server of its own")
    app = Celery("udig", broker=broker_url(settings.redis_url))
    app.conf.update(CONFIGURATION, broker_transport_options={**TRANSPORT, "global_keyprefix": settings.redis_prefix})
    app.amqp.Connection = QueueConnection
    app.set_default()  # in all threads: `enqueue` finds it
    return app


def broker_url(url: str) -> str:
    """A Redis URL as kombu spells it: for a socket `redis+socket:///path?virtual_host=1`."""
    if url.startswith("unix://"):
        url = "redis+socket://" + url.removeprefix("unix://").replace("?db=", "?virtual_host=")
    return url


def enqueue(job_slices: Iterable[tuple[uuid.UUID, int]]) -> bool:
    """Send one message for each slice. Call it after their commit and outside a transaction: a queue may hang.

    False: the queue is unavailable, and the sweep will send them.
    """
    try:
        with _connection() as connection:
            producer = connection.Producer()
            for job_id, slice_ in job_slices:
                current_app.send_task(TASK, (str(job_id), slice_), producer=producer)
    except AWAY as error:
        log.warning("queue.unavailable", extra={"error": type(error).__name__})
        return False
    return True


@contextmanager
def _connection() -> Iterator[Any]:
    """A connection that was tried, so that a queue which is unavailable or hangs is noticed within seconds."""
    with current_app.connection_for_write(transport_options=PUBLISHING) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=2 * PUBLISH_SECONDS)
        yield connection


def waiting_messages() -> int | None:
    """Number of messages that no worker has taken yet; None: the queue is unavailable."""
    try:
        with _connection() as connection:
            return int(connection.default_channel.queue_declare(QUEUE).message_count)
    except AWAY as error:
        log.warning("queue.unavailable", extra={"error": type(error).__name__})
        return None
