"""Readings that many want at once are made once, and never told to who asked after they had begun anew."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import pytest
from fastapi import FastAPI

import udig_recon.api.system.health
from udig_recon.api.app import create_app
from udig_recon.api.http.threads import SingleFlight
from udig_recon.worker.settings import Settings

CALLERS = 20
Found = TypeVar("Found")


class Slow:
    """Counts how often it is called, and returns which call it was as soon as it is let."""

    def __init__(self) -> None:
        self.calls, self.let = 0, threading.Event()

    def __call__(self, *_: object) -> dict[str, str]:
        self.calls += 1
        number = self.calls
        assert self.let.wait(20)
        return {"database": str(number)}


async def together(slow: Slow, ask: Callable[[], Awaitable[Found]]) -> list[Found]:
    """What so many find who ask at once."""
    slow.let.clear()
    asked = [asyncio.ensure_future(ask()) for _ in range(CALLERS)]
    while not slow.calls:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    slow.let.set()
    return list(await asyncio.gather(*asked))


def test_who_wants_the_same_at_once_shares_a_reading_and_who_comes_later_has_a_new_one() -> None:
    async def check() -> None:
        slow, shared = Slow(), SingleFlight()
        assert await together(slow, lambda: shared.run("x", slow)) == [{"database": "1"}] * CALLERS
        assert await shared.run("x", slow) == {"database": "2"}
        slow.let.clear()
        first = asyncio.ensure_future(shared.run("x", slow))
        await asyncio.sleep(0)
        shared.forget()
        second = asyncio.ensure_future(shared.run("x", slow))
        await asyncio.sleep(0.05)
        slow.let.set()
        assert await first != await second

    asyncio.run(check())


def test_who_leaves_does_not_take_the_reading_from_the_others() -> None:
    async def check() -> None:
        slow, shared = Slow(), SingleFlight()
        first = asyncio.ensure_future(shared.run("x", slow))
        second = asyncio.ensure_future(shared.run("x", slow))
        await asyncio.sleep(0.05)
        first.cancel()
        slow.let.set()
        assert await second == {"database": "1"}
        assert slow.calls == 1

    asyncio.run(check())


def test_a_flood_of_nameless_questions_takes_one_thread(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(
        udig_recon.api.system.health, "_CHECKS", {"database": lambda context: slow(context)["database"]}
    )

    async def check(app: FastAPI) -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answers = await together(slow, lambda: client.get("/readyz"))
        assert slow.calls == 1
        assert [answer.status_code for answer in answers] == [503] * CALLERS

    asyncio.run(check(create_app(settings)))
