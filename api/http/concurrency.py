"""Concurrency limits per client: connections, waiting requests, event streams, long polls and uploads."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udig_recon.api.http.problems import Overloaded, TooManyAtOnce
from udig_recon.worker.settings import Settings

ALWAYS_ANSWERED = ("/healthz", "/readyz", "/metrics")


class ConcurrencyLimit:
    """A limit of `most` at once. A client gets one more slot only while it holds fewer than are free.

    Alone it can have half of them, two clients a third each, and who comes new finds room until all are taken: the
    dynamic threshold of Choudhury and Hahne (1998), by which switches share the memory of their queues.
    """

    def __init__(self, what: str, setting: str, most: int) -> None:
        self._what, self._setting, self.most = what, setting, most
        self._held: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self.most - self._held.total()

    def acquire(self, client: str, most: int | None = None) -> None:
        """Have one place more, of at most so many. Raises TooManyAtOnce or Overloaded."""
        held, free = self._held[client], self.free
        if most is not None and held >= most:
            raise TooManyAtOnce(
                f"you have {held} {self._what} at once, and this tenant may have {most}; try again when one has ended"
            )
        if held and held >= free:
            raise TooManyAtOnce(
                f"you have {held} {self._what} at once, of {self.most} in all ({self._setting}), and others need room; "
                "try again when one of them has ended"
            )
        if free <= 0:
            raise Overloaded(f"all {self.most} {self._what} that may go on at once do ({self._setting})")
        self._held[client] += 1

    def release(self, client: str) -> None:
        """Have one place less."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]

    def count_held(self, client: str) -> int:
        """Places that a client has."""
        return self._held.get(client, 0)

    @contextmanager
    def slot(self, client: str, most: int | None = None) -> Iterator[None]:
        """One place for a while. Raises TooManyAtOnce or Overloaded."""
        self.acquire(client, most)
        try:
            yield
        finally:
            self.release(client)


class ConcurrencyLimits(NamedTuple):
    """All limits of one API process."""

    connections: ConcurrencyLimit
    requests: ConcurrencyLimit  # whose answer has not begun
    streams: ConcurrencyLimit
    polls: ConcurrencyLimit  # answers that are held back
    uploads: ConcurrencyLimit


def concurrency_limits(settings: Settings) -> ConcurrencyLimits:
    """The limits of the settings."""
    return ConcurrencyLimits(
        ConcurrencyLimit("connections", "MAX_CONNECTIONS", settings.max_connections),
        ConcurrencyLimit("waiting requests", "MAX_WAITING_REQUESTS", settings.max_waiting_requests),
        ConcurrencyLimit("event streams", "MAX_EVENT_STREAMS", settings.max_event_streams),
        ConcurrencyLimit("long polls", "MAX_LONG_POLLS", settings.max_long_polls),
        ConcurrencyLimit("uploads", "MAX_UPLOADS", settings.max_uploads),
    )


def client_of(connection: HTTPConnection) -> str:
    """Who asks: what `state.client` says, where somebody has looked at a key, else the address."""
    known: str | None = getattr(connection.state, "client", None)
    return known or (connection.client.host if connection.client else "")


class ConcurrencySlot:
    """One place of a client, which it gives back once."""

    def __init__(self, places: ConcurrencyLimit, client: str) -> None:
        self._places, self._client = places, client
        self._held = True

    def release(self) -> None:
        """Have it no more."""
        if self._held:
            self._held = False
            self._places.release(self._client)


@contextmanager
def long_poll_slot(request: HTTPConnection, polls: ConcurrencyLimit, most: int | None) -> Iterator[None]:
    """While an answer is held back: a place among those of the tenant that asks, not among those of its address.

    Raises TooManyAtOnce or Overloaded.
    """
    with polls.slot(client_of(request), most):
        place: ConcurrencySlot | None = getattr(request.state, "place", None)
        if place is not None:
            place.release()
        yield


class ConcurrencyMiddleware:
    """Limits the requests of each client that wait for their answers."""

    def __init__(self, app: ASGIApp, requests: ConcurrencyLimit) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        client = client_of(HTTPConnection(scope))
        try:
            self.requests.acquire(client)
        except (TooManyAtOnce, Overloaded) as problem:
            await problem.response(scope["path"])(scope, receive, send)
            return
        place = ConcurrencySlot(self.requests, client)
        # A long poll releases it sooner: it counts among those of its tenant.
        scope.setdefault("state", {})["place"] = place

        async def send_begun(message: Message) -> None:
            place.release()
            await send(message)

        try:
            await self.app(scope, receive, send_begun)
        finally:
            place.release()
