"""h11 with bounds on what one connection may cost: fields of a head, chunks of a body, requests sent ahead.

h11 makes a Python object of each field and of each chunk, some microseconds apiece. A client that sends hardly anything
else would have the event loop to itself, so its work is counted before or while it is done.
"""

import re
from typing import Any

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

MOST_FIELDS = 100  # of a head, or of the trailers
MOST_FIELD_BYTES = 16 << 10  # of a head, or of the trailers
LEAST_CHUNK_BYTES = 64  # on average
FREE_CHUNKS = 256  # of a body, before their size matters
EVENTS_A_TURN = 64  # pieces of a body parsed in one turn of the event loop
MOST_AHEAD_BYTES = 256 << 10  # of further requests before the answer to the first
_END = re.compile(rb"\A\r?\n|\n\r?\n")


class BoundedConnection(h11.Connection):
    """The server's side of a connection. Raises h11.RemoteProtocolError where the client passes a bound.

    After `EVENTS_A_TURN` pieces of a body it says NEED_DATA and is `interrupted`, until `begin_turn`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.error: h11.RemoteProtocolError | None = None  # what was wrong with what the client sent
        self.interrupted = False
        self._left = EVENTS_A_TURN
        self._chunks = self._bytes = 0

    def begin_turn(self) -> None:
        """Allow as many events again."""
        self._left, self.interrupted = EVENTS_A_TURN, False

    def next_event(self) -> Any:
        """As h11's, within the bounds."""
        try:
            return self._next_bounded_event()
        except h11.RemoteProtocolError as error:
            self.error = error
            raise

    def _next_bounded_event(self) -> Any:
        if self._left <= 0:
            self.interrupted = True
            return h11.NEED_DATA
        if self.their_state is h11.IDLE:
            check_fields(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._left -= 1
            self._count(event)
        elif isinstance(event, h11.Request):
            self._begin_body(event)
        elif event is h11.PAUSED and len(self.trailing_data[0]) > MOST_AHEAD_BYTES:
            raise h11.RemoteProtocolError(f"more than {MOST_AHEAD_BYTES} bytes of further requests came too early")
        return event

    def _begin_body(self, request: h11.Request) -> None:
        names = {bytes(name) for name, _ in request.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # RFC 9112, 6.1: somebody on the way may have taken the other for the length.
            raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding came together")
        self._chunks = self._bytes = 0
        if type(self._reader) is ChunkedReader:
            self._reader = _BoundedChunkedReader()

    def _count(self, data: h11.Data) -> None:
        self._chunks += data.chunk_start
        self._bytes += len(data.data)
        if self._chunks >= FREE_CHUNKS and self._bytes < LEAST_CHUNK_BYTES * self._chunks:
            raise h11.RemoteProtocolError(
                f"the chunks of the body hold fewer than {LEAST_CHUNK_BYTES} bytes on average; send larger ones"
            )


class _BoundedChunkedReader(ChunkedReader):
    """Looks at the size of the trailers before it takes them apart."""

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        if self._reading_trailer:
            check_fields(bytes(buf))
        return super().__call__(buf)


def check_fields(data: bytes) -> None:
    """Raise h11.RemoteProtocolError where the head or the trailers at the beginning of `data` are too much."""
    end = _END.search(data)
    block = data if end is None else data[: end.end()]
    if len(block) > MOST_FIELD_BYTES:
        raise h11.RemoteProtocolError(f"the header fields have more than {MOST_FIELD_BYTES} bytes", 431)
    if block.count(b"\n") > MOST_FIELDS + 2:  # the request line and the empty one
        raise h11.RemoteProtocolError(f"there are more than {MOST_FIELDS} header fields", 431)
