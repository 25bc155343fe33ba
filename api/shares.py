"""Places for what may go on at once, shared so that no client keeps the others out."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Overloaded, TooManyAtOnce
from worker.settings import Settings

ALWAYS_ANSWERED = ("/healthz", "/readyz", "/metrics")


class Shares:
    """`most` places. A client gets one more only while it holds fewer than are free.

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

    def take(self, client: str) -> None:
        """Have one place more. Raises TooManyAtOnce or Overloaded."""
        held, free = self._held[client], self.free
        if held and held >= free:
            raise TooManyAtOnce(
                f"you have {held} {self._what} at once, of {self.most} in all ({self._setting}), and others need room; "
                "try again when one of them has ended"
            )
        if free <= 0:
            raise Overloaded(f"all {self.most} {self._what} that may go on at once do ({self._setting})")
        self._held[client] += 1

    def give_back(self, client: str) -> None:
        """Have one place less."""
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """One place for a while. Raises TooManyAtOnce or Overloaded."""
        self.take(client)
        try:
            yield
        finally:
            self.give_back(client)


class Room(NamedTuple):
    """What a process of the API has room for."""

    connections: Shares
    requests: Shares  # whose answer has not begun
    streams: Shares
    uploads: Shares


def room(settings: Settings) -> Room:
    """Room as the settings give it."""
    return Room(
        Shares("connections", "MAX_CONNECTIONS", settings.max_connections),
        Shares("waiting requests", "MAX_WAITING_REQUESTS", settings.max_waiting_requests),
        Shares("event streams", "MAX_EVENT_STREAMS", settings.max_event_streams),
        Shares("uploads", "MAX_UPLOADS", settings.max_uploads),
    )


def client_of(connection: HTTPConnection) -> str:
    """Who asks: what `state.client` says, where somebody has looked at a key, else the address."""
    known: str | None = getattr(connection.state, "client", None)
    return known or (connection.client.host if connection.client else "")


class Admission:
    """Lets a request in while there is room for one more that waits for its answer."""

    def __init__(self, app: ASGIApp, requests: Shares) -> None:
        self.app = app
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self.app(scope, receive, send)
            return
        client = client_of(HTTPConnection(scope))
        try:
            self.requests.take(client)
        except (TooManyAtOnce, Overloaded) as problem:
            await problem.response(scope["path"])(scope, receive, send)
            return
        waiting = True

        async def send_begun(message: Message) -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                self.requests.give_back(client)
            await send(message)

        try:
            await self.app(scope, receive, send_begun)
        finally:
            if waiting:
                self.requests.give_back(client)
