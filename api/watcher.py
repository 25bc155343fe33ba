"""One LISTEN connection per process that wakes every stream and every waiting answer."""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from worker.database import CHANNEL

log = logging.getLogger(__name__)
RECONNECT_SECONDS = 1.0


class Watcher:
    """Tells those who wait for a job that something about it has changed."""

    def __init__(self, database_url: str) -> None:
        url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        # A connection that died without a word is found out within half a minute.
        self._conninfo = make_conninfo(url, keepalives_idle=10, keepalives_interval=5, keepalives_count=3)
        self._waiting: defaultdict[uuid.UUID, set[asyncio.Event]] = defaultdict(set)
        self.closing = False

    @contextmanager
    def watch(self, job_id: uuid.UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job may have changed. Read the job after entering, and after each wake."""
        changed = asyncio.Event()
        self._waiting[job_id].add(changed)
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def wait(self, changed: asyncio.Event, seconds: float) -> bool:
        """Whether the event was set within that time; it is cleared."""
        if not self.closing:
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)
        happened = changed.is_set()
        changed.clear()
        return happened

    def close(self) -> None:
        """End all streams and waits, for the server goes down."""
        self.closing = True
        self._wake_all()

    async def run(self) -> None:
        """Listen for ever, over lost connections too."""
        while True:
            try:
                await self._listen()
            except psycopg.Error as error:
                log.warning("watcher.reconnects", extra={"error": type(error).__name__})
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # What was said while nobody listened is lost: let everyone look again.
            self._wake_all()
            async for notice in connection.notifies():
                with suppress(ValueError):
                    for changed in self._waiting.get(uuid.UUID(notice.payload), ()):
                        changed.set()

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()
