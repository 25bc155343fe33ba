"""What the two clients do differently: waiting, blocking work, and many things at once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


async def in_thread(function: Callable[..., Made], *arguments: object) -> Made:
    """Blocking work, beside the event loop."""
    return await asyncio.to_thread(function, *arguments)


def in_place(function: Callable[..., Made], *arguments: object) -> Made:
    """Blocking work, in the thread that asks for it."""
    return function(*arguments)


async def as_tasks(
    work: Callable[[Item], Awaitable[Made]], items: Sequence[Item], parallel: int
) -> AsyncIterator[Made]:
    """What `work` makes of the items, `parallel` at once, in the order in which they are done."""
    waiting = list(reversed(items))
    running: set[asyncio.Task[Made]] = set()
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                running.add(asyncio.ensure_future(work(waiting.pop())))
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                yield each.result()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def as_threads(work: Callable[[Item], Made], items: Sequence[Item], parallel: int) -> Iterator[Made]:
    """What `work` makes of the items, `parallel` at once, in the order in which they are done."""
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple[Made | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()
    for item in items:
        waiting.put(item)

    def run() -> None:
        while not stopped.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                made.put((work(item), None))
            except BaseException as error:  # raised where the results are taken
                made.put((None, error))

    # Daemons: an interrupted program does not wait for jobs that others compute.
    for _ in range(min(parallel, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in items:
            result, error = made.get()
            if error is not None:
                raise error
            yield result  # type: ignore[misc]
    finally:
        stopped.set()
