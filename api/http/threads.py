"""Thread pools of limited size for long work, so that reads in Starlette's own pool never queue behind it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

Given = TypeVarTuple("Given")
Found = TypeVar("Found")


class LimitedThreadPool:
    """A thread pool of at most `most` threads; further calls wait without a thread."""

    def __init__(self, most: int) -> None:
        self._limiter = CapacityLimiter(most)

    async def run(self, work: Callable[[*Given], Found], *given: *Given) -> Found:
        """What `work(*given)` returns, from a thread."""
        return await to_thread.run_sync(work, *given, limiter=self._limiter)


class SingleFlight:
    """Single flight: concurrent calls for the same key share one running read."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, what: Hashable, read: Callable[[], Found]) -> Found:
        """What `read` finds, in a thread; begun anew unless a reading of `what` is under way."""
        return await self.share(what, partial(run_in_threadpool, read))

    async def share(self, what: Hashable, read: Callable[[], Awaitable[Found]]) -> Found:
        """What `read` finds, in the event loop."""

        def over(done: "asyncio.Task[Any]") -> None:
            if self._under_way.get(what) is done:
                del self._under_way[what]
            if not done.cancelled():
                done.exception()  # all who wanted to hear of it may have left

        if (task := self._under_way.get(what)) is None:
            task = self._under_way[what] = asyncio.create_task(_as_coroutine(read))
            task.add_done_callback(over)
        # A caller that is cancelled must not cancel the reading of the others.
        found: Found = await asyncio.shield(task)
        return found

    def forget(self) -> None:
        """Share what is under way with nobody else."""
        self._under_way.clear()


async def _as_coroutine(read: Callable[[], Awaitable[Found]]) -> Found:
    return await read()


async def run_uncancelled(step: Callable[[*Given], Found], *given: *Given) -> Found:
    """What `step(*given)` returns, from a thread; one that has begun is waited for though its task is cancelled."""
    running = asyncio.create_task(run_in_threadpool(step, *given))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait({running})
