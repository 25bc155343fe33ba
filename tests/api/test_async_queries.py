"""Queries of the event loop: they outlive a restart of the database, and say when there is none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from psycopg.errors import LockNotAvailable
from sqlalchemy import bindparam, func, literal_column, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

import udig_recon.api.database.async_queries
from udig_recon.api.database.async_queries import AsyncQueries, AsyncQuery
from udig_recon.worker.database import timeouts
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Job
from udig_recon.worker.settings import Settings

MOST = 4
BACKEND = AsyncQuery(select(func.pg_backend_pid().label("pid")).select_from(func.pg_sleep(0.05)))
"""The process of the database that answers."""


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[AsyncQueries]:
    reads = AsyncQueries(url, MOST)
    try:
        yield reads
    finally:
        await reads.close()


def together(url: str, check: Callable[[AsyncQueries], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reading(url) as reads:
            await check(reads)

    asyncio.run(run())


async def backends(reads: AsyncQueries, number: int) -> set[int]:
    """The processes of the database that answer so many at once."""
    return {row.pid for row in await asyncio.gather(*(reads.one(BACKEND) for _ in range(number)))}


def test_a_read_that_the_end_overtakes_keeps_no_connection(settings: Settings, database: sessionmaker[Session]) -> None:
    async def run() -> None:
        reads = AsyncQueries(str(settings.database_url), MOST)
        reading = asyncio.create_task(reads.one(BACKEND))
        await asyncio.sleep(0)
        await reads.close()
        pid = (await reading).pid
        gone = text("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = :pid")
        for _ in range(200):
            with database() as session:
                if session.scalar(gone, {"pid": pid}):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError("it is still connected")

    asyncio.run(run())


def test_a_read_whose_connection_was_lost_meanwhile_succeeds(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    async def check(reads: AsyncQueries) -> None:
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
    async def check(reads: AsyncQueries) -> None:
        first = await backends(reads, 3 * MOST)
        assert len(first) == MOST
        assert await backends(reads, 3 * MOST) == first

    together(str(settings.database_url), check)


def test_a_read_that_was_given_up_takes_its_connection_with_it(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    asked = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%given up%pg_sleep(%'")

    def running() -> int:
        with database.begin() as session:
            return session.scalar(asked) or 0

    async def check(reads: AsyncQueries) -> None:
        before = await backends(reads, MOST)
        given_up = AsyncQuery(select(literal_column("'given up'")).select_from(func.pg_sleep(60)))
        tasks = [asyncio.create_task(reads.one(given_up)) for _ in range(MOST)]
        while await asyncio.to_thread(running) < MOST:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
        )
        after = await backends(reads, MOST)
        assert len(after) == MOST
        assert not after & before

    together(str(settings.database_url), check)


def test_who_finds_no_connection_free_hears_that_the_database_is_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udig_recon.api.database.async_queries, "POOL_SECONDS", 0.05)
    long = AsyncQuery(select(literal_column("1").label("one")).select_from(func.pg_sleep(2)))

    async def check(reads: AsyncQueries) -> None:
        taken = [asyncio.create_task(reads.one(long)) for _ in range(MOST)]
        await asyncio.sleep(0)
        with pytest.raises(PoolTimeoutError):
            await reads.one(BACKEND)
        assert [row.one for row in await asyncio.gather(*taken)] == [1] * MOST
        assert await reads.one(BACKEND)

    together(str(settings.database_url), check)


def test_a_read_that_waits_for_a_lock_in_vain_is_not_asked_again(
    settings: Settings, database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(timeouts.OPTIONS, "options", "-c lock_timeout=200ms")

    async def check(reads: AsyncQueries) -> None:
        before = await backends(reads, 3)
        with database.begin() as session:
            session.execute(text("LOCK TABLE jobs"))
            with pytest.raises(LockNotAvailable):
                await reads.one(AsyncQuery(select(func.count()).select_from(Job.__table__)))
        assert await backends(reads, 2) < before

    together(str(settings.database_url), check)


def test_connections_are_set_up_as_all_others(settings: Settings) -> None:
    count = func.count().label("count")

    async def check(reads: AsyncQueries) -> None:
        names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        limits = await reads.one(AsyncQuery(select(*(func.current_setting(name).label(name) for name in names))))
        assert tuple(limits) == ("3s", "3500ms", "15s")
        for _ in range(10):
            prepared = await reads.one(AsyncQuery(select(count).select_from(text("pg_prepared_statements"))))
            assert prepared.count == 0

    together(str(settings.database_url), check)


def test_a_read_takes_the_parameters_that_it_names_and_no_others() -> None:
    read = AsyncQuery(select(Job.id).where(Job.tenant == bindparam("tenant"), Job.seed == 5))
    assert sorted(map(str, read.parameters({"tenant": "a"}).values())) == ["5", "a"]
    for wrong in ({}, {"tennant": "a"}, {"tenant": "a", "seed": 1}):
        with pytest.raises(TypeError, match="tenant"):
            read.parameters(wrong)


def test_a_read_is_no_transaction(settings: Settings) -> None:
    began = AsyncQuery(select(func.now().label("at")).select_from(func.pg_sleep(0.01)))

    async def check(reads: AsyncQueries) -> None:
        first, second = await reads.one(began), await reads.one(began)
        assert first.at < second.at

    together(str(settings.database_url), check)


def test_a_read_finds_nothing_where_nothing_is(settings: Settings) -> None:
    async def check(reads: AsyncQueries) -> None:
        assert await reads.one(AsyncQuery(select(text("1")).where(text("false")))) is None

    together(str(settings.database_url), check)


def test_a_read_without_a_database_says_that_it_is_away() -> None:
    async def check(reads: AsyncQueries) -> None:
        with pytest.raises(AWAY):
            await reads.one(BACKEND)

    together("postgresql://nobody@localhost:1/nothing", check)
