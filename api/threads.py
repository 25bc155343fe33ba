"""Threads of their own for work that takes long, so that reads, which have Starlette's, never queue behind it."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

Given = TypeVarTuple("Given")
Found = TypeVar("Found")


class Threads:
    """So many at most; what comes beyond waits its turn without one."""

    def __init__(self, most: int) -> None:
        self._limiter = CapacityLimiter(most)

    async def run(self, work: Callable[[*Given], Found], *given: *Given) -> Found:
        """What `work(*given)` returns, from a thread."""
        return await to_thread.run_sync(work, *given, limiter=self._limiter)


class Together:
    """Readings that are shared while they go on: those who want the same meanwhile take no thread of their own."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, what: Hashable, read: Callable[[], Found]) -> Found:
        """What `read` finds, in a thread; begun anew unless a reading of `what` is under way."""

        def over(done: "asyncio.Task[Any]") -> None:
            if self._under_way.get(what) is done:
                del self._under_way[what]

        if (task := self._under_way.get(what)) is None:
            task = self._under_way[what] = asyncio.create_task(run_in_threadpool(read))
            task.add_done_callback(over)
        # Whoever leaves must not take the reading from the others.
        found: Found = await asyncio.shield(task)
        return found

    def forget(self) -> None:
        """Share what is under way with nobody else."""
        self._under_way.clear()
