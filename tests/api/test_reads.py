"""Reads of the event loop: they outlive a restart of the database, and say when there is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from api.reads import Reads
from worker.database import AWAY, make_reading_engine
from worker.settings import Settings


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reads]:
    reads = Reads(make_reading_engine(url, 4))
    try:
        yield reads
    finally:
        await reads.close()


def together(url: str, check: Callable[[Reads], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reading(url) as reads:
            await check(reads)

    asyncio.run(run())


def backend(session: Session) -> int:
    """The process of the database that answers."""
    pid: int = session.scalars(text("SELECT pg_backend_pid() FROM pg_sleep(0.05)")).one()
    return pid


def test_a_read_whose_connection_was_lost_meanwhile_succeeds(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    async def check(reads: Reads) -> None:
        before = set(await asyncio.gather(*(reads.run(backend) for _ in range(3))))
        assert len(before) == 3
        with database.begin() as session:
            for pid in before:
                assert session.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        after = set(await asyncio.gather(*(reads.run(backend) for _ in range(3))))
        assert len(after) == 3
        assert not after & before

    together(str(settings.database_url), check)


def test_a_read_is_no_transaction(settings: Settings) -> None:
    def began(session: Session) -> tuple[str, str]:
        """When the transactions of two statements began."""
        first, second = (session.scalars(text("SELECT now()::text FROM pg_sleep(0.01)")).one() for _ in range(2))
        return first, second

    async def check(reads: Reads) -> None:
        first, second = await reads.run(began)
        assert first < second

    together(str(settings.database_url), check)


def test_a_read_without_a_database_says_that_it_is_away() -> None:
    async def check(reads: Reads) -> None:
        with pytest.raises(AWAY):
            await reads.run(backend)

    together("postgresql://nobody@localhost:1/nothing", check)
