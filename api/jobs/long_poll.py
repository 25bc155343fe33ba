"""Answers that are held back until there is something new to tell."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from udig_recon.api.access.authentication import Caller, refused, still_admitted
from udig_recon.api.database.notifications import Watch
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import held_back
from udig_recon.worker.database.tables import Status

POLL_SECONDS = "2"


class Standing(Protocol):
    """What has a status."""

    status: Status


Seen = TypeVar("Seen", bound=Standing)


async def awaited(
    context: Context,
    caller: Caller,
    request: Request,
    id_: uuid.UUID,
    read: Callable[[], Awaitable[Seen]],
    seconds: float,
) -> Seen:
    """What is read of that id as soon as its status is another than now, at the latest after these seconds.

    It is read again only when it changed, and holds one of the tenant's places meanwhile. Raises ClientDisconnect when
    the client has left, Unauthenticated when its key was refused meanwhile, TooManyAtOnce and Overloaded.
    """
    if not seconds:
        return await read()
    with held_back(request, context.room.polls, caller.limits(context.settings).max_waits):
        return await _changed(context, caller, request, id_, read, time.monotonic() + seconds)


async def _changed(
    context: Context,
    caller: Caller,
    request: Request,
    id_: uuid.UUID,
    read: Callable[[], Awaitable[Seen]],
    deadline: float,
) -> Seen:
    key_id = None if caller.key is None else caller.key.id
    with context.watcher.watch(id_, key_id, progress=False) as changed:
        first = seen = await _shared(context, caller, id_, read)
        async with _noticing_departure(request, changed):
            while not seen.status.ended and seen.status == first.status and (left := deadline - time.monotonic()) > 0:
                woken = await context.watcher.wait(changed, left)
                if changed.gone:
                    raise ClientDisconnect
                await _check(context, caller, changed)
                if woken:
                    seen = await _shared(context, caller, id_, read)
                if context.watcher.closing:
                    break
        return seen


async def _shared(context: Context, caller: Caller, id_: uuid.UUID, read: Callable[[], Awaitable[Seen]]) -> Seen:
    """One reading for all of a tenant who wait for the same."""
    return await context.watcher.share(id_, ("waits", caller.tenant), read)


async def _check(context: Context, caller: Caller, changed: Watch) -> None:
    """Raise Unauthenticated when the key of a caller who has waited is refused by now."""
    expires = caller.key is not None and caller.key.expires_at is not None
    if (changed.key_changed or expires) and not await still_admitted(context, caller):
        raise refused()
    changed.key_changed = False


@asynccontextmanager
async def _noticing_departure(request: Request, changed: Watch) -> AsyncIterator[None]:
    """Wake whoever waits when the client has left."""

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        changed.gone = True
        changed.set()

    listening = asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.wait({listening})
