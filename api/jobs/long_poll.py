"""Long polling: an answer is held back until the status changes or the time is over."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from udig_recon.api.access.authentication import Caller, invalid_key, key_is_valid
from udig_recon.api.database.notifications import Subscription
from udig_recon.api.dependencies import Context
from udig_recon.api.http.concurrency import long_poll_slot
from udig_recon.worker.database.tables import Status

POLL_SECONDS = "2"


class HasStatus(Protocol):
    """What has a status."""

    status: Status


Seen = TypeVar("Seen", bound=HasStatus)


async def wait_for_change(
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
    with long_poll_slot(request, context.concurrency.polls, caller.limits(context.settings).max_waits):
        return await _wait_for_change(context, caller, request, id_, read, time.monotonic() + seconds)


async def _wait_for_change(
    context: Context,
    caller: Caller,
    request: Request,
    id_: uuid.UUID,
    read: Callable[[], Awaitable[Seen]],
    deadline: float,
) -> Seen:
    key_id = None if caller.key is None else caller.key.id
    with context.notifications.subscribe(id_, key_id, progress=False) as changed:
        first = seen = await _read_shared(context, caller, id_, read)
        async with _noticing_departure(request, changed):
            while not seen.status.ended and seen.status == first.status and (left := deadline - time.monotonic()) > 0:
                woken = await context.notifications.wait(changed, left)
                if changed.gone:
                    raise ClientDisconnect
                await _check(context, caller, changed)
                if woken:
                    seen = await _read_shared(context, caller, id_, read)
                if context.notifications.closing:
                    break
        return seen


async def _read_shared(context: Context, caller: Caller, id_: uuid.UUID, read: Callable[[], Awaitable[Seen]]) -> Seen:
    """One reading for all of a tenant who wait for the same."""
    return await context.notifications.share(id_, ("waits", caller.tenant), read)


async def _check(context: Context, caller: Caller, changed: Subscription) -> None:
    """Raise Unauthenticated when the key of a caller who has waited is refused by now."""
    expires = caller.key is not None and caller.key.expires_at is not None
    if (changed.key_changed or expires) and not await key_is_valid(context, caller):
        raise invalid_key()
    changed.key_changed = False


@asynccontextmanager
async def _noticing_departure(request: Request, changed: Subscription) -> AsyncIterator[None]:
    """Wake the waiting request when its client disconnects."""

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
