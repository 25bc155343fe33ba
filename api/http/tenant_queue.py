"""Queue for each tenant in front of a thread pool: a request that waits for its tenant's lock occupies no thread."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from udig_recon.api.http.problems import TooManyAtOnce

LONGEST_SECONDS = 15.0


class TenantQueue:
    """So many of each tenant at once; the others wait in the event loop, first come first served."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, tuple[asyncio.Semaphore, int]] = {}  # and how many have it or wait for it

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """One turn of the tenant. Raises TooManyAtOnce when it has not come for long."""
        turn, others = self._known.get(tenant, (asyncio.Semaphore(self._most), 0))
        self._known[tenant] = (turn, others + 1)
        try:
            try:
                async with asyncio.timeout(LONGEST_SECONDS):
                    await turn.acquire()
            except TimeoutError:
                waiting = self._known[tenant][1]
                text = f"{waiting} requests of this tenant wait to be filed or stored; send fewer at once"
                raise TooManyAtOnce(text) from None
            try:
                yield
            finally:
                turn.release()
        finally:
            turn, others = self._known[tenant]
            self._known[tenant] = (turn, others - 1)
            if others == 1:
                del self._known[tenant]
