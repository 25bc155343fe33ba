"""Those who wait for a job share one reading of it, but never one that a change has overtaken."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable

from udig_recon.api.database.notifications import NotificationListener

JOB = uuid.uuid4()


class Reading:
    """Counts how often it is done, and lasts until it is let go on."""

    def __init__(self) -> None:
        self.times = 0
        self.go_on = threading.Event()

    def __call__(self) -> int:
        self.times += 1
        number = self.times
        self.go_on.wait(10)
        return number


async def begun(read: Reading, times: int) -> None:
    while read.times < times:
        await asyncio.sleep(0.01)


def together(check: Callable[[NotificationListener, Reading], Awaitable[None]]) -> None:
    async def run() -> None:
        made = NotificationListener("postgresql://nobody@localhost/nothing")
        with made.subscribe(JOB):
            await check(made, Reading())

    asyncio.run(run())


def test_all_who_are_as_far_share_one_reading() -> None:
    async def check(watcher: NotificationListener, read: Reading) -> None:
        readers = [asyncio.create_task(watcher.read(JOB, 7, read)) for _ in range(50)]
        await begun(read, 1)
        read.go_on.set()
        assert await asyncio.gather(*readers) == [1] * 50
        assert await watcher.read(JOB, 7, read) == 2  # it was over

    together(check)


def test_a_change_is_never_answered_with_a_reading_from_before_it() -> None:
    async def check(watcher: NotificationListener, read: Reading) -> None:
        before = asyncio.create_task(watcher.read(JOB, 7, read))
        await begun(read, 1)
        watcher.wake(JOB)
        after = asyncio.create_task(watcher.read(JOB, 7, read))
        await begun(read, 2)
        read.go_on.set()
        assert await asyncio.gather(before, after) == [1, 2]

    together(check)


def test_a_reader_that_leaves_takes_the_reading_from_nobody() -> None:
    async def check(watcher: NotificationListener, read: Reading) -> None:
        leaving, staying = (asyncio.create_task(watcher.read(JOB, 7, read)) for _ in range(2))
        await begun(read, 1)
        leaving.cancel()
        await asyncio.sleep(0)
        read.go_on.set()
        assert await staying == 1

    together(check)


def test_a_reading_that_all_have_left_serves_nobody_who_comes_later() -> None:
    async def check(watcher: NotificationListener, read: Reading) -> None:
        leaving = asyncio.create_task(watcher.read(JOB, 7, read))
        await begun(read, 1)
        leaving.cancel()
        read.go_on.set()
        await asyncio.sleep(0.1)
        assert await watcher.read(JOB, 7, read) == 2

    together(check)
