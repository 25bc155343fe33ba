"""Uvicorn with what it lacks: time-outs for headers and bodies, and streams that end when the server goes down."""

import asyncio
import gc
import resource
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.problems import Overloaded, Problem, TimedOut, TooManyAtOnce
from api.shares import Shares

PROGRESS_BYTES = 1024  # fewer than this within the body time-out is no progress
TURNED_AWAY_SECONDS = 1.0  # how long a connection that there is no room for may go on after its answer
FULL_COLLECTION = 100  # middle collections of garbage before a full one, which walks every stream while all wait
LINGER_SECONDS = 30.0  # how long an unread body may go on after its answer


class TimedProtocol(H11Protocol):
    """Closes a connection whose headers dribble or whose body stands still, with 408 while that can be said.

    The clock runs only while the client is the one who keeps the other waiting.
    """

    header_seconds: float
    body_seconds: float
    places: Shares

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._timed: str | None = None
        self._received = 0
        self._address: str | None = None  # that a place is held for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request's headers, if there is room for one more connection."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        try:
            self.places.take(address)
        except (TooManyAtOnce, Overloaded) as problem:
            self._say(problem)
            # Closed at once, with the request unread, the client might see a reset instead of the answer.
            transport.write_eof()
            self._time("drain", TURNED_AWAY_SECONDS, 0)
            return
        self._address = address
        self._time("headers", self.header_seconds, 0)

    def data_received(self, data: bytes) -> None:
        """Count the bytes and see what is now waited for."""
        if self._address is None:
            return
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY:
            if self._timed not in ("body", "drain"):
                self._time("body", self.body_seconds, len(data))
        elif self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timed != "headers":
            self._time("headers", self.header_seconds, len(data))

    def on_response_complete(self) -> None:
        """Drain a body that nobody reads for a while, so that the client comes to see its answer."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.conn.their_state is h11.SEND_BODY:
            self._time("drain", LINGER_SECONDS, 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        if self._address is not None:
            self.places.give_back(self._address)
            self._address = None
        super().connection_lost(exc)

    def _time(self, what: str, seconds: float, received: int) -> None:
        self._stop()
        self._timed, self._received = what, received
        self._timer = self.loop.call_later(seconds, self._expired, seconds)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _expired(self, seconds: float) -> None:
        if self.transport.is_closing():
            return
        # Bytes that the application has not taken yet are no fault of the client's.
        if self._timed == "body" and (self._received >= PROGRESS_BYTES or self.flow.read_paused):
            self._time("body", seconds, 0)
            return
        if self._timed == "body":
            self._refuse(f"fewer than {PROGRESS_BYTES} bytes of the body came within {seconds:g} s")
        elif self._timed == "headers" and self._received:
            self._refuse(f"the headers were not complete within {seconds:g} s")
        self.transport.close()

    def _refuse(self, detail: str) -> None:
        """Answer 408 unless an answer has begun, and let the application see that the client is gone."""
        cycle = self.cycle if self.conn.their_state is h11.SEND_BODY else None
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or not cycle.response_started:
            self._say(TimedOut(detail))

    def _say(self, problem: Problem) -> None:
        """Send a problem as the last answer of this connection."""
        answer = problem.response("")
        headers = [*answer.raw_headers, (b"connection", b"close")]
        told = h11.Response(status_code=answer.status_code, headers=headers)
        for event in (told, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")


class Server(uvicorn.Server):
    """Ends open streams first when it goes down; otherwise it would wait for them for ever."""

    def __init__(self, config: uvicorn.Config, close_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._close_streams = close_streams

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve. What starting has made stays: the garbage collector need not look at it again."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, FULL_COLLECTION)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Go down once what runs has ended."""
        self._close_streams()
        await super().shutdown(sockets)


def timed_protocol(header_seconds: float, body_seconds: float, places: Shares) -> type[TimedProtocol]:
    """The protocol with these time-outs, and connections sharing these places."""
    fixed = {"header_seconds": header_seconds, "body_seconds": body_seconds, "places": places}
    return type("Protocol", (TimedProtocol,), fixed)


def allow_files(most: int) -> int:
    """Let this process open so many files, or as many as the system lets it. Returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
