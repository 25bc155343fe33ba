"""LISTEN/NOTIFY: one connection per process that wakes event streams and long polls when a job or key changes."""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from udig_recon.api.http.threads import SingleFlight
from udig_recon.worker.database.engine import CHANNEL, FOUND_DEAD, KEYS_CHANNEL, PROGRESS_CHANNEL, conninfo
from udig_recon.worker.database.timeouts import FINDS_DEAD

log = logging.getLogger(__name__)
RECONNECT_SECONDS = 1.0
Read = TypeVar("Read")


class Subscription(asyncio.Event):
    """An event that is set when its job or key may have changed."""

    def __init__(self, key_id: uuid.UUID | None, *, progress: bool) -> None:
        super().__init__()
        self.key_id, self.progress = key_id, progress
        self.key_changed = False  # the key may be refused by now
        self.gone = False  # the client has disconnected


@dataclass
class _Watched:
    """A job that somebody waits for."""

    waiting: set[Subscription] = field(default_factory=set)
    reads: SingleFlight = field(default_factory=SingleFlight)  # since the last change

    def wake(self, *, progress: bool = False) -> None:
        self.reads.forget()
        for changed in self.waiting:
            if changed.progress or not progress:
                changed.set()


class NotificationListener:
    """Wakes subscribers of a job when it may have changed."""

    def __init__(self, database_url: str) -> None:
        self._conninfo = make_conninfo(conninfo(database_url), **FOUND_DEAD, connect_timeout=5, options=FINDS_DEAD)
        self._watched: defaultdict[uuid.UUID, _Watched] = defaultdict(_Watched)
        self.closing = False

    @contextmanager
    def subscribe(
        self, job_id: uuid.UUID, key_id: uuid.UUID | None = None, *, progress: bool = True
    ) -> Iterator[Subscription]:
        """An event that is set whenever the job, or the key, may have changed; by mere progress too, where wanted.

        Read the job after entering, and after each wake.
        """
        changed = Subscription(key_id, progress=progress)
        self._watched[job_id].waiting.add(changed)
        try:
            yield changed
        finally:
            self._watched[job_id].waiting.discard(changed)
            if not self._watched[job_id].waiting:
                del self._watched[job_id]

    @property
    def subscribers(self) -> int:
        """How many wait for a change at this moment."""
        return sum(len(watched.waiting) for watched in self._watched.values())

    async def read(self, job_id: uuid.UUID, what: Hashable, read: Callable[[], Read]) -> Read:
        """What `read` finds of a watched job, in a thread; those who want the same meanwhile share one reading.

        A reading that a change has overtaken is not shared any more: subscribers that the change woke read again.
        """
        return await self._watched[job_id].reads.run(what, read)

    async def share(self, job_id: uuid.UUID, what: Hashable, read: Callable[[], Awaitable[Read]]) -> Read:
        """The same for what is read in the event loop."""
        return await self._watched[job_id].reads.share(what, read)

    async def wait(self, changed: Subscription, seconds: float) -> bool:
        """Whether the event was set within that time; it is cleared."""
        if not self.closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for would make a task for each of hundreds of streams
                    await changed.wait()
        happened = changed.is_set()
        changed.clear()
        return happened

    def wake(self, job_id: uuid.UUID, *, progress: bool = False) -> None:
        """Tell those who wait that the job may have changed, or only got further."""
        if (watched := self._watched.get(job_id)) is not None:
            watched.wake(progress=progress)

    def wake_key(self, key_id: uuid.UUID) -> None:
        """Tell those who wait by a key that it may be refused by now."""
        for watched in self._watched.values():
            for changed in watched.waiting:
                if changed.key_id == key_id:
                    changed.key_changed = True
                    changed.set()

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
                log.warning("notifications.reconnecting", extra={"error": type(error).__name__})
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        async with connection:
            for channel in (CHANNEL, PROGRESS_CHANNEL, KEYS_CHANNEL):
                await connection.execute(f"LISTEN {channel}")
            # What was said while nobody listened is lost: let everyone look again.
            self._wake_all()
            async for notice in connection.notifies():
                with suppress(ValueError):
                    self._hear(notice.channel, uuid.UUID(notice.payload))

    def _hear(self, channel: str, id_: uuid.UUID) -> None:
        if channel == KEYS_CHANNEL:
            self.wake_key(id_)
        else:
            self.wake(id_, progress=channel == PROGRESS_CHANNEL)

    def _wake_all(self) -> None:
        for watched in self._watched.values():
            for changed in watched.waiting:
                changed.key_changed = True
            watched.wake()
