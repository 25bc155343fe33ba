"""Reads in the event loop itself: under load a thread would cost a request more time than the database does.

SQLAlchemy writes the queries, once each; psycopg asks them. For a query that takes the database half a millisecond
SQLAlchemy's way to it and back would take as long again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Select, make_url
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.database import AWAY, CONNECT_OPTIONS, POOL_SECONDS, libpq_url

_DIALECT = make_url("postgresql+psycopg://").get_dialect()()


class Read:
    """A SELECT as psycopg takes it; `bindparam`s are named when it is asked."""

    def __init__(self, query: Select[*tuple[Any, ...]]) -> None:
        compiled = query.compile(dialect=_DIALECT)
        self.text, self._fixed = str(compiled), compiled.params

    def given(self, named: dict[str, Any]) -> dict[str, Any]:
        """All its parameters."""
        return {**self._fixed, **named}


class Reads:
    """SELECTs outside transactions: each sees what is committed when it begins. At most so many at once."""

    def __init__(self, database_url: str, most: int) -> None:
        self._url = libpq_url(database_url)
        self._turn = asyncio.Semaphore(most)
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    async def one(self, read: Read, **named: Any) -> Any:
        """The first row, its columns by name; None without one. Raises one of AWAY while the database is away."""
        async with self._own_turn():
            if self._idle:
                try:
                    return await self._ask(self._idle.pop(), read, named)
                except AWAY:
                    await self.close()  # this one had lain idle while the database restarted, and so had the others
            options: dict[str, Any] = {**CONNECT_OPTIONS, "autocommit": True, "row_factory": namedtuple_row}
            return await self._ask(await psycopg.AsyncConnection.connect(self._url, **options), read, named)

    async def _ask(self, connection: psycopg.AsyncConnection[Any], read: Read, named: dict[str, Any]) -> Any:
        try:
            cursor = await connection.execute(read.text, read.given(named))
            found = await cursor.fetchone()
        except BaseException:
            await connection.close()
            raise
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
        """Leave the database."""
        while self._idle:
            await self._idle.pop().close()
