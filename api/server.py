"""Uvicorn with what it lacks: time-outs for headers and bodies, and streams that end when the server goes down."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.problems import MEDIA_TYPE
from api.schemas import ProblemOut

PROGRESS_BYTES = 1024  # fewer than this within the body time-out is no progress
LINGER_SECONDS = 30.0  # how long an unread body may go on after its answer


class TimedProtocol(H11Protocol):
    """Closes a connection whose headers dribble or whose body stands still, with 408 while that can be said.

    The clock runs only while the client is the one who keeps the other waiting.
    """

    header_seconds = 30.0
    body_seconds = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._timed: str | None = None
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request's headers."""
        super().connection_made(transport)
        self._time("headers", self.header_seconds, 0)

    def data_received(self, data: bytes) -> None:
        """Count the bytes and see what is now waited for."""
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
            problem = ProblemOut(type="about:blank", title="Request Timeout", status=408, detail=detail, instance="")
            body = problem.model_dump_json(exclude_none=True).encode()
            headers = [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
            for event in (h11.Response(status_code=408, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")


class Server(uvicorn.Server):
    """Ends open streams first when it goes down; otherwise it would wait for them for ever."""

    def __init__(self, config: uvicorn.Config, close_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._close_streams = close_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Go down once what runs has ended."""
        self._close_streams()
        await super().shutdown(sockets)


def timed_protocol(header_seconds: float, body_seconds: float) -> type[TimedProtocol]:
    """The protocol with these time-outs."""
    return type("Protocol", (TimedProtocol,), {"header_seconds": header_seconds, "body_seconds": body_seconds})
