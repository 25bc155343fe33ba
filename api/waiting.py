"""Answers that are held back until there is something new to tell."""

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from api.context import Context
from worker.models import Status

POLL_SECONDS = "2"


class Standing(Protocol):
    """What has a status."""

    status: Status


Seen = TypeVar("Seen", bound=Standing)


async def awaited(context: Context, id_: uuid.UUID, read: Callable[[], Awaitable[Seen]], seconds: float) -> Seen:
    """What is read of that id as soon as its status is another than now, at the latest after these seconds."""
    deadline = time.monotonic() + seconds
    with context.watcher.watch(id_) as changed:
        first = seen = await read()
        while not seen.status.ended and seen.status == first.status and (left := deadline - time.monotonic()) > 0:
            await context.watcher.wait(changed, left)
            seen = await read()
            if context.watcher.closing:
                break
        return seen
