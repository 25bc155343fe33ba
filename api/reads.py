"""Reads in the event loop itself: under load a thread would cost a request more time than the database does."""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session

from worker.database import AWAY

Given = ParamSpec("Given")
Found = TypeVar("Found")


class Reads:
    """SELECTs outside transactions: each sees what is committed when it begins."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sessions = async_sessionmaker(engine)

    async def run(
        self, find: Callable[Concatenate[Session, Given], Found], *given: Given.args, **more: Given.kwargs
    ) -> Found:
        """What `find(session, *given, **more)` returns. Raises one of AWAY while the database does not answer."""
        try:
            return await self._once(find, *given, **more)
        except AWAY as error:
            if not isinstance(error, DBAPIError) or not error.connection_invalidated:
                raise
        # The connection had lain idle while the database restarted. Now all from before are given up.
        return await self._once(find, *given, **more)

    async def _once(
        self, find: Callable[Concatenate[Session, Given], Found], *given: Given.args, **more: Given.kwargs
    ) -> Found:
        async with self._sessions() as session:
            return await session.run_sync(find, *given, **more)

    async def close(self) -> None:
        """Leave the database."""
        await self._engine.dispose()
