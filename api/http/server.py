"""The uvicorn server with time-outs for headers and bodies, and event streams that end at shutdown."""

import asyncio
import gc
import logging
import resource
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from udig_recon.api.http.concurrency import ConcurrencyLimit
from udig_recon.api.http.h11_limits import MOST_FIELD_BYTES, BoundedConnection
from udig_recon.api.http.problems import (
    BadRequest,
    HeadTooLarge,
    Overloaded,
    Problem,
    TimedOut,
    TooManyAtOnce,
    truncate,
)

log = logging.getLogger(__name__)
PROGRESS_BYTES = 1024  # fewer than this within the body time-out is no progress
TURNED_AWAY_SECONDS = 1.0  # how long a connection that there is no room for may go on after its answer
FULL_COLLECTION = 100  # middle collections of garbage before a full one, which walks every stream while all wait
LINGER_SECONDS = 30.0  # how long an unread body may go on after its answer
LINGER_BYTES = 32 << 20  # how much of it


class _Flow(FlowControl):
    """Reads on while the application takes what came and the parser is not behind."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.held = False

    def hold(self) -> None:
        """Read nothing until `release`, whatever the application wants."""
        self.held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Read on, if the application wants it."""
        self.held = False
        if not self.read_paused:
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """The application wants more."""
        if self.held:
            self.read_paused = False
        else:
            super().resume_reading()


class _LingeringTransport:
    """A transport that hands its closing to `closing`; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, closing: Callable[[], None]) -> None:
        self.own = transport
        self.lingers = False
        self.close = closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def is_closing(self) -> bool:
        """Whether nothing is to be said any more."""
        return self.lingers or self.own.is_closing()


class BoundedProtocol(H11Protocol):
    """Closes a connection whose headers dribble or whose body stands still, with 408 while that can be said.

    The clock runs only while the client is the one who keeps the other waiting. What a client sends costs no more than
    its bytes: see `udig_recon.api.http.h11_limits`. A body whose request is answered already is thrown away unparsed,
    and only some of it.
    """

    header_seconds: float
    body_seconds: float
    places: ConcurrencyLimit
    conn: BoundedConnection
    flow: _Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = BoundedConnection(h11.SERVER, MOST_FIELD_BYTES)
        self._inner, self.app = self.app, self._answer
        self._timer: asyncio.TimerHandle | None = None
        self._timed: str | None = None
        self._received = 0
        self._linger_bytes = LINGER_BYTES
        self._address: str | None = None  # that a place is held for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request's headers, if there is room for one more connection."""
        self._transport = _LingeringTransport(transport, self._close)
        super().connection_made(self._transport)  # type: ignore[arg-type]
        self.flow = _Flow(transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        try:
            self.places.acquire(address)
        except (TooManyAtOnce, Overloaded) as problem:
            self._say(problem)
            self._linger(TURNED_AWAY_SECONDS)
            return
        self._address = address
        self._time("headers", self.header_seconds, 0)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application; tell the client when its connection ends with this answer, and only then end it."""
        complete = False

        async def send_told(message: Any) -> None:
            nonlocal complete
            if message["type"] == "http.response.start" and self.conn.their_state is h11.SEND_BODY:
                # The rest of the body will not be read, so the next request could not be told from it.
                message = {**message, "headers": [*message.get("headers", ()), CLOSE_HEADER]}
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._inner(scope, receive, send_told)
        except Exception as error:
            if not complete:
                raise
            # Told to the client as 500 already: its connection has no part in it.
            log.error("request.failed", exc_info=error)

    def data_received(self, data: bytes) -> None:
        """Count the bytes, parse them and see what is now waited for."""
        if self._transport.lingers:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self._transport.own.close()
            return
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY:
            if self._timed != "body":
                self._time("body", self.body_seconds, len(data))
        elif self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._timed != "headers":
            self._time("headers", self.header_seconds, len(data))

    def handle_events(self) -> None:
        """Parse so much of what came, and the rest in the next turn of the event loop, when others had theirs."""
        self.conn.begin_turn()
        super().handle_events()
        if self.conn.interrupted and not self.transport.is_closing():
            self.flow.hold()
            self.loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        if self.transport.is_closing():
            return
        self.handle_events()
        if not self.conn.interrupted and not self.transport.is_closing():
            self.flow.release()
            if self.conn.their_state is not h11.SEND_BODY:
                self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        if self._address is not None:
            self.places.release(self._address)
            self._address = None
        super().connection_lost(exc)

    def _close(self) -> None:
        """Close, but let a client that still sends its body come to see its answer."""
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._linger(LINGER_SECONDS)
        else:
            self._transport.own.close()

    def _linger(self, seconds: float) -> None:
        """Say nothing more, and throw away what comes: closed with bytes unread, the client might see a reset."""
        self._transport.lingers = True
        self.connections.discard(self)  # a shutdown does not wait for it
        self._transport.own.write_eof()
        self._transport.own.resume_reading()
        self._time("linger", seconds, 0)

    def _time(self, what: str, seconds: float, received: int) -> None:
        self._stop()
        self._timed, self._received = what, received
        self._timer = self.loop.call_later(seconds, self._close_expired, seconds)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _close_expired(self, seconds: float) -> None:
        if self._transport.own.is_closing():
            return
        # Bytes that the application has not taken yet are no fault of the client's.
        if self._timed == "body" and (self._received >= PROGRESS_BYTES or self.flow.read_paused):
            self._time("body", seconds, 0)
            return
        if self._timed == "body":
            self._refuse(TimedOut(f"fewer than {PROGRESS_BYTES} bytes of the body came within {seconds:g} s"))
        elif self._timed == "headers" and self._received:
            self._refuse(TimedOut(f"the headers were not complete within {seconds:g} s"))
        self._transport.own.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or more of it than one connection may send, and end the connection."""
        error = self.conn.error
        kind = HeadTooLarge if error is not None and error.error_status_hint == 431 else BadRequest
        self._refuse(kind(f"no valid HTTP: {truncate(str(error or msg))}"))
        self._linger(LINGER_SECONDS)

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem unless an answer has begun, and let the application see that the client is gone."""
        cycle = self.cycle if self.cycle is not None and not self.cycle.response_complete else None
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or not cycle.response_started:
            self._say(problem)

    def _say(self, problem: Problem) -> None:
        """Send a problem as the last answer of this connection."""
        answer = problem.response("")
        headers = [*answer.raw_headers, CLOSE_HEADER]
        head = h11.Response(status_code=answer.status_code, headers=headers)
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
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


def timed_protocol(header_seconds: float, body_seconds: float, places: ConcurrencyLimit) -> type[BoundedProtocol]:
    """The protocol with these time-outs, and connections sharing these places."""
    fixed = {"header_seconds": header_seconds, "body_seconds": body_seconds, "places": places}
    return type("Protocol", (BoundedProtocol,), fixed)


def allow_files(most: int) -> int:
    """Let this process open so many files, or as many as the system lets it. Returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
