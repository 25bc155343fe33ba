"""Threads of their own for work that takes long, so that reads, which have Starlette's, never queue behind it."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

Given = TypeVarTuple("Given")
Found = TypeVar("Found")


class Threads:
    """So many at most; what comes beyond waits its turn without one."""

    def __init__(self, most: int) -> None:
        self._limiter = CapacityLimiter(most)

    async def run(self, work: Callable[[*Given], Found], *given: *Given) -> Found:
        """What `work(*given)` returns, from a thread."""
        return await to_thread.run_sync(work, *given, limiter=self._limiter)
