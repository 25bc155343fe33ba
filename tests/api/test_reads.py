"""Reads of the event loop: they outlive a restart of the database, and say when there is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import String, bindparam, func, select, text
from sqlalchemy.orm import Session, sessionmaker

from api.reads import Read, Reads
from worker.database import AWAY
from worker.settings import Settings

MOST = 4
BACKEND = Read(select(func.pg_backend_pid().label("pid")).select_from(func.pg_sleep(0.05)))
"""The process of the database that answers."""


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reads]:
    reads = Reads(url, MOST)
    try:
        yield reads
    finally:
        await reads.close()


def together(url: str, check: Callable[[Reads], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reading(url) as reads:
            await check(reads)

    asyncio.run(run())


async def backends(reads: Reads, number: int) -> set[int]:
    """The processes of the database that answer so many at once."""
    return {row.pid for row in await asyncio.gather(*(reads.one(BACKEND) for _ in range(number)))}


def test_a_read_whose_connection_was_lost_meanwhile_succeeds(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    async def check(reads: Reads) -> None:
        before = await backends(reads, 3)
        assert len(before) == 3
        with database.begin() as session:
            for pid in before:
                assert session.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        after = await backends(reads, 3)
        assert len(after) == 3
        assert not after & before

    together(str(settings.database_url), check)


def test_reads_share_few_connections(settings: Settings) -> None:
    async def check(reads: Reads) -> None:
        first = await backends(reads, 3 * MOST)
        assert len(first) == MOST
        assert await backends(reads, 3 * MOST) == first

    together(str(settings.database_url), check)


def test_a_read_that_was_given_up_leaves_no_answer_to_the_next(settings: Settings) -> None:
    said = Read(select(bindparam("word", type_=String).label("word")).select_from(func.pg_sleep(0.2)))

    async def check(reads: Reads) -> None:
        for _ in range(2 * MOST):
            asked = asyncio.create_task(reads.one(said, word="first"))
            await asyncio.sleep(0.05)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        assert (await reads.one(said, word="second")).word == "second"

    together(str(settings.database_url), check)


def test_a_read_is_no_transaction(settings: Settings) -> None:
    began = Read(select(func.now().label("at")).select_from(func.pg_sleep(0.01)))

    async def check(reads: Reads) -> None:
        first, second = await reads.one(began), await reads.one(began)
        assert first.at < second.at

    together(str(settings.database_url), check)


def test_a_read_finds_nothing_where_nothing_is(settings: Settings) -> None:
    async def check(reads: Reads) -> None:
        assert await reads.one(Read(select(text("1")).where(text("false")))) is None

    together(str(settings.database_url), check)


def test_a_read_without_a_database_says_that_it_is_away() -> None:
    async def check(reads: Reads) -> None:
        with pytest.raises(AWAY):
            await reads.one(BACKEND)

    together("postgresql://nobody@localhost:1/nothing", check)
