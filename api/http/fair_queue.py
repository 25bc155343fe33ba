"""Fair queue in front of threads whose work is as long as a client's file: shared by clients, short work first."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

Found = TypeVar("Found")
BYTES_PER_SECOND = 8 << 20  # by which who has waited counts as smaller


@dataclass(eq=False)
class _Waiting:
    client: str
    size_bytes: int
    since: float = field(default_factory=time.monotonic)
    turn: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FairQueue:
    """`most` places, each a thread. A client takes one more only while it holds fewer than are free: `concurrency`.

    Who holds the fewest is next, then whose file is the smallest; to wait makes it smaller, so none waits for ever.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiter = CapacityLimiter(most)
        self._held: Counter[str] = Counter()
        self._waiting: list[_Waiting] = []

    async def run(self, client: str, size_bytes: int, work: Callable[[], Found]) -> Found:
        """What `work()` returns, from a thread, when it is the client's turn."""
        mine = _Waiting(client, size_bytes)
        self._waiting.append(mine)
        self._admit()
        try:
            await mine.turn
        except asyncio.CancelledError:
            if not mine.turn.cancelled():  # it was given its turn at the same moment
                self._give_back(client)
            elif mine in self._waiting:
                self._waiting.remove(mine)
            raise
        try:
            return await to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._give_back(client)

    def _give_back(self, client: str) -> None:
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._admit()

    def _admit(self) -> None:
        now = time.monotonic()
        while self._waiting:
            free = self._most - self._held.total()
            first = min(self._waiting, key=lambda each: self._rank(each, now))
            if free <= 0 or (self._held[first.client] and self._held[first.client] >= free):
                return
            self._waiting.remove(first)
            if first.turn.done():  # its request was cancelled while it waited
                continue
            self._held[first.client] += 1
            first.turn.set_result(None)

    def _rank(self, each: _Waiting, now: float) -> tuple[int, float]:
        return self._held[each.client], each.size_bytes - BYTES_PER_SECOND * (now - each.since)
