"""Async database queries in the event loop: under load a thread hop would cost a request more than the query.

SQLAlchemy writes the queries, once each; psycopg asks them. For a query that takes the database half a millisecond
SQLAlchemy's way to it and back would take as long again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from udig_recon.worker.database.engine import AWAY, CONNECT_OPTIONS, DIALECT, conninfo
from udig_recon.worker.database.timeouts import OPTIONS, POOL_SECONDS, TimedAsyncConnection, Unanswered


class AsyncQuery:
    """A SELECT as psycopg takes it; `bindparam`s are named when it is asked."""

    def __init__(self, query: Select[*tuple[Any, ...]]) -> None:
        compiled = query.compile(dialect=DIALECT)
        self.text = str(compiled)
        self._needed = {name for name, bound in compiled.binds.items() if bound.required}
        self._fixed = {name: value for name, value in compiled.params.items() if name not in self._needed}

    def parameters(self, named: dict[str, Any]) -> dict[str, Any]:
        """All its parameters."""
        if named.keys() != self._needed:
            raise TypeError(f"the query takes {sorted(self._needed)}, not {sorted(named)}")
        return {**self._fixed, **named}


class AsyncQueries:
    """SELECTs outside transactions: each sees what is committed when it begins. At most so many at once."""

    def __init__(self, database_url: str, most: int) -> None:
        self._conninfo = conninfo(database_url)
        self._turn = asyncio.Semaphore(most)
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._over = False

    async def one(self, query: AsyncQuery, **named: Any) -> Any:
        """The first row, its columns by name; None without one. Raises one of AWAY while the database is away."""
        async with self._own_turn():
            if self._idle:
                connection = self._idle.pop()
                try:
                    return await self._ask(connection, query, named)
                except Unanswered:
                    await self._close_idle()  # the others hang too
                    raise
                except AWAY:
                    if not connection.broken:
                        raise
                    # This one had lain idle while the database restarted, and so had the others.
                    await self._close_idle()
            options = {**CONNECT_OPTIONS, **OPTIONS, "autocommit": True, "row_factory": namedtuple_row}
            return await self._ask(await TimedAsyncConnection.connect(self._conninfo, **options), query, named)

    async def _ask(self, connection: psycopg.AsyncConnection[Any], query: AsyncQuery, named: dict[str, Any]) -> Any:
        try:
            cursor = await connection.execute(query.text, query.parameters(named))
            found = await cursor.fetchone()
        except BaseException:
            await connection.close()
            raise
        if self._over:
            await connection.close()
        else:
            self._idle.append(connection)
        return found

    @asynccontextmanager
    async def _own_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(POOL_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise PoolTimeoutError(f"no connection was free for {POOL_SECONDS:g} s") from None
        try:
            yield
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Leave the database; what is still being read is the last of its connection."""
        self._over = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()
