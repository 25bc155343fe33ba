"""One LISTEN connection per process that wakes every stream and every waiting answer."""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from api.threads import Together
from worker.database import CHANNEL, FOUND_DEAD, conninfo

log = logging.getLogger(__name__)
RECONNECT_SECONDS = 1.0
Read = TypeVar("Read")


@dataclass
class _Watched:
    """A job that somebody waits for."""

    waiting: set[asyncio.Event] = field(default_factory=set)
    reads: Together = field(default_factory=Together)  # since the last change

    def wake(self) -> None:
        self.reads.forget()
        for changed in self.waiting:
            changed.set()


class Watcher:
    """Tells those who wait for a job that something about it has changed."""

    def __init__(self, database_url: str) -> None:
        self._conninfo = make_conninfo(conninfo(database_url), **FOUND_DEAD)
        self._watched: defaultdict[uuid.UUID, _Watched] = defaultdict(_Watched)
        self.closing = False

    @contextmanager
    def watch(self, job_id: uuid.UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job may have changed. Read the job after entering, and after each wake."""
        changed = asyncio.Event()
        self._watched[job_id].waiting.add(changed)
        try:
            yield changed
        finally:
            self._watched[job_id].waiting.discard(changed)
            if not self._watched[job_id].waiting:
                del self._watched[job_id]

    async def read(self, job_id: uuid.UUID, what: Hashable, read: Callable[[], Read]) -> Read:
        """What `read` finds of a watched job, in a thread; those who want the same meanwhile share one reading.

        A reading that a change has overtaken is shared no more: whoever was woken by the change reads anew.
        """
        return await self._watched[job_id].reads.run(what, read)

    async def wait(self, changed: asyncio.Event, seconds: float) -> bool:
        """Whether the event was set within that time; it is cleared."""
        if not self.closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for would make a task for each of hundreds of streams
                    await changed.wait()
        happened = changed.is_set()
        changed.clear()
        return happened

    def wake(self, job_id: uuid.UUID) -> None:
        """Tell those who wait that the job may have changed."""
        if (watched := self._watched.get(job_id)) is not None:
            watched.wake()

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
                    self.wake(uuid.UUID(notice.payload))

    def _wake_all(self) -> None:
        for watched in self._watched.values():
            watched.wake()
